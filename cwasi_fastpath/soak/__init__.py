"""The soak: channels of every kind under full load, with faults, and a look at what is left. See `cwasi soak`."""
