"""The command `cwasi`. One file a command; each is imported when it is called."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..errors import Error

if TYPE_CHECKING:
    from rich.console import Console

_COMMANDS = {
    "bench": "Measure channels against what is used today.",
    "calibrate": "Measure what messages cost on this machine, and keep it.",
    "demo": "Run a picture pipeline over every kind of channel and compare.",
    "doctor": "Check what this machine offers, with a remedy for each lack.",
    "explain": "Explain why a channel goes as it goes, and what else it would cost.",
    "include": "Print the directory that holds cwasi.h.",
    "inspect": "Show everything that is known of a channel.",
    "policy": "Replay what happened under other policies, or run them live.",
    "ps": "Show the channels of this node.",
    "run": "Run functions and connect them.",
    "switch": "Take a channel to another transport, live.",
    "soak": "Use channels of every kind under load, with faults.",
}

EXIT_CODES = """
\b
Exit codes:
  0    all went well
  1    an error that has no code of its own
  2    the command line contradicts itself
  65   a file is missing or no module that can run
  69   something on this machine is missing (Redis, a transport, a channel, ...)
  74   a channel broke, or a file could not be read or written
  77   no permission to trace
  124  a function still ran when its time was up
  130  Ctrl-C
  134  a function trapped
  137  a host process was killed
  141  the reader of the output went away
  else the status that a function ended with
"""


LINES = "\n\t"
"""What is not printable, and is printed."""


class _Commands(click.Group):
    """Imports a command's module only when it is used, or its own help is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cwasi_fastpath")
def cwasi() -> None:
    """Fast, observable data exchange between WebAssembly functions."""


def console(stream: TextIO | None) -> Console:
    """For tables; wide enough for ours where nobody says how wide the output is. None: it was closed from the begin."""
    from rich.console import Console

    told = (stream is not None and stream.isatty()) or "COLUMNS" in os.environ
    return Console(file=stream or StringIO(), width=None if told else 100)


def exit_with(error: Error, as_json: bool = False) -> int:
    """Prints one error for people, or for scripts; returns its exit code."""
    if as_json:
        _print_error(error, str(error))
    # Its words may be those of a peer, or of somebody's policy.
    click.echo(f"cwasi: {''.join(char for char in str(error) if char.isprintable() or char in LINES)}", err=True)
    return error.exit_code


def _print_error(error: BaseException, message: str) -> None:
    import json

    with suppress(OSError):   # the disk may be full for it, too
        click.echo(json.dumps({"schema": 1, "error": type(error).__name__, "message": message}))


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command and ends the process with its exit code."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        status = cwasi.main(args=arguments, standalone_mode=False)
        code = status if isinstance(status, int) else 0
    except Error as error:
        code = exit_with(error, as_json)
    except click.ClickException as error:
        if as_json:
            _print_error(error, error.format_message())
        error.show()
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("cwasi: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        code = 141
    except SystemExit as error:   # of a command, or of click itself on a broken pipe
        code = 141 if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    except OSError as error:
        if as_json:
            _print_error(error, str(error))
        click.echo(f"cwasi: {error}", err=True)
        code = 74
    _leave(code)


def _leave(code: int) -> None:
    """Ends the process even where a guest in an endless loop still holds a thread."""
    for stream in filter(None, (sys.stdout, sys.stderr)):   # None: it was closed before we began
        try:
            stream.flush()
        except OSError:
            code = code or 74
    os._exit(code)
