"""Which number stands for which function in this process, for as long as the function is in use.

A number is an index below a generation. There are few indexes; that of a function which nobody runs may be given to
another one, the one that was left longest ago first, under the next generation. So no number ever stands for two
functions: what was charged to the old one stays its own, whoever still says it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

INDEXES = 1024
_NAMED = INDEXES - 3   # from 1 on; the others are of nobody, of wasmtime's workers, and of what exceeds these
OTHER = INDEXES - 1
"""Stands for functions that find no index, and for one that is called so."""
_GENERATIONS = 1 << 22   # a number has 32 bits


class FunctionIds:
    """The functions of a process. Not thread-safe."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._uses: dict[str, int] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        """Those that nobody runs, the one that was left longest ago first."""

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def items(self) -> Iterator[tuple[str, int]]:
        """All functions that have a number now."""
        return iter(self._numbers.items())

    def sole(self, name: str) -> bool:
        """Whether nobody else of this process runs one of that name."""
        return self._uses.get(name, 0) <= 1

    def take(self, name: str) -> int:
        """The number of a function, which stays its own until it is given back as often; OTHER where there is none."""
        number = 0 if name == "other" else self._numbers.get(name) or self._give(name)
        if number:
            self._uses[name] = self._uses.get(name, 0) + 1
            self._idle.pop(name, None)
        return number or OTHER

    def give_back(self, name: str) -> None:
        """It is in use once less."""
        self._uses[name] -= 1
        if not self._uses[name]:
            del self._uses[name]
            self._idle[name] = None

    def _give(self, name: str) -> int:
        """A number that never was another's; 0 if there is none."""
        if len(self._numbers) < _NAMED:
            number = len(self._numbers) + 1   # none is ever without a function again
        elif self._idle:
            left, _ = self._idle.popitem(last=False)
            number = self._numbers.pop(left) + INDEXES
        else:
            return 0
        if number >= _GENERATIONS * INDEXES:
            return 0
        self._numbers[name] = number
        return number
