"""A file that a command writes when it is done: all of it, or what was there before stays."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import click


def check_output(path: Path) -> None:
    """That it can be written, for a command that takes its time before it does. Raises click.FileError."""
    try:
        if not _is_special(path):
            descriptor, name = _beside(path)
            os.close(descriptor)
            Path(name).unlink()
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error


def save_output(path: Path, text: str) -> None:
    """Raises click.FileError."""
    try:
        if _is_special(path):
            path.write_text(text, "utf-8", "backslashreplace")
        else:
            _replace(path, text)
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error


def _is_special(path: Path) -> bool:
    """A device or a pipe."""
    return path.exists() and not path.is_file()


def _beside(path: Path) -> tuple[int, str]:
    """A new file where it is, or is to be."""
    path = path.resolve()
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)


def _replace(path: Path, text: str) -> None:
    descriptor, name = _beside(path)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        Path(name).replace(path.resolve())
    except BaseException:
        Path(name).unlink()
        raise


def _umask() -> int:
    """The only way to ask is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
