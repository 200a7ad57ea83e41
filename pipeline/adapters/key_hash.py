"""The hash of an event's idempotency key, computed once when it is collected: what deduplication compares first.

``key_hash`` is the XXH64 of the id, whose seed is the XXH64 (seed 0) of the source: a public algorithm, so it outlives
every library. Equal keys have equal hashes; keys of one hash are compared exactly, so a collision never drops an event.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.adapters.block_kernels import text_hashes
from pipeline.adapters.content_hash import text_buffers


def key_hashes(sources: Any, ids: Any) -> npt.NDArray[np.uint64]:
    """Return the hash of each key."""
    seeds = np.zeros(len(sources), np.uint64)
    for column in (sources, ids):
        edges, content = text_buffers(column.combine_chunks())
        seeds = text_hashes(np.frombuffer(content, np.uint8), edges, seeds)
    return seeds
