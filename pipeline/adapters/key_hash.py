"""The hash of an event's idempotency key, computed once when it is collected: what deduplication compares first.

``key_hash`` is the XXH64 of the id, whose seed is the XXH64 (seed 0) of the source: a public algorithm, so it outlives
every library. Equal keys have equal hashes; keys of one hash are compared exactly, so a collision never drops an event.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.adapters.block_kernels import text_hashes


def key_hashes(sources: Any, ids: Any) -> npt.NDArray[np.uint64]:
    """Return the hash of each key."""
    seeds = np.zeros(len(sources), np.uint64)
    for column in (sources, ids):
        seeds = _text_hashes(column.combine_chunks(), seeds)
    return seeds


def _text_hashes(texts: Any, seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    _, edges, content = texts.buffers()
    found = np.frombuffer(edges, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    hashes: npt.NDArray[np.uint64] = text_hashes(np.frombuffer(content or b"", np.uint8), found, seeds)
    return hashes
