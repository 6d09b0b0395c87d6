"""What the functions of all hosts of a trace are called, by owner."""

from __future__ import annotations

OTHER = "other"
"""Stands for all functions that have no owner of their own."""
_MOST = 1 << 16   # of all hosts that ever were


class OwnerNames:
    """The names. A function's is its own alone: of two hosts that have one of one name the second's has its pid."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._wanted = {OTHER: 1}
        """How often each was."""

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._names) >= _MOST

    def add(self, owner: int, name: str, pid: int) -> None:
        """A function of a host, which has no other owner."""
        self._names[owner] = self._free(name, pid)

    def all(self) -> dict[int, str]:
        """Of every owner. Who is not in it is OTHER."""
        return self._names.copy()

    def _free(self, name: str, pid: int) -> str:
        """A name has no @."""
        if name not in self._wanted:
            self._wanted[name] = 1
            return name
        label = f"{name}@{pid}"
        again = self._wanted[label] = self._wanted.get(label, 0) + 1
        return label if again == 1 else f"{label}.{again}"
