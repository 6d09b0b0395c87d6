"""Numbers by chance that are the same for the same seed, on every machine."""

from __future__ import annotations

from math import cos, exp, log, pi, sqrt

_MASK = (1 << 64) - 1


class Noise:
    """Splitmix64 (G. L. Steele et al., "Fast splittable pseudorandom number generators", 2014)."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def uniform(self) -> float:
        """From 0 to 1, without 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) >> 11) / (1 << 53)

    def normal(self) -> float:
        """Mean 0, standard deviation 1 (Box and Muller)."""
        return sqrt(-2.0 * log(1.0 - self.uniform())) * cos(2 * pi * self.uniform())

    def factor(self, deviation: float) -> float:
        """A factor around 1; its logarithm has this standard deviation."""
        return exp(deviation * self.normal())
