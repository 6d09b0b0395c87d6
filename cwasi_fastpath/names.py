"""The one check that every name of a function, channel or trust domain goes through."""

from __future__ import annotations

import re

from .errors import BadName

LONGEST = 63
"""Characters in a name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def checked(name: str, what: str) -> str:
    """Returns `name`. Raises BadName unless it is safe in paths, terminals and pages. what: for the message."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadName(
            f"{what} name {name!r} is refused: use 1 to 63 characters of a-z 0-9 . _ - and begin with a letter or digit"
        )
    return name
