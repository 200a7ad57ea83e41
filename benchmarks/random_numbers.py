"""Random numbers by position: each is a function of (seed, stream, index) alone, so any part can be made at any time.

The generator is SplitMix64 used as a counter; a *stream* is one independent sequence, one per random choice.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Unsigned: TypeAlias = NDArray[np.uint64]
Unit: TypeAlias = NDArray[np.float64]

_WORD = 2**64
_STRIDE = np.uint64(0xD1342543DE82EF95)


def numbers(seed: int, stream: int, index: Unsigned) -> Unsigned:
    """Return 64 random bits for each index."""
    start = np.uint64((seed * 1_000_003 + stream * 7_919) * int(_STRIDE) % _WORD)
    return _mixed(_mixed(index + start))


def fractions(seed: int, stream: int, index: Unsigned) -> Unit:
    """Return a random number of [0, 1) for each index; it decides between events and never becomes a quantity."""
    return (numbers(seed, stream, index) >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mixed(index: Unsigned) -> Unsigned:
    z = index + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
