"""Real guests under a load that changes on a script, with the policies compared. Nothing here imports the commands."""
