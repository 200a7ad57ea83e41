"""The hashes of an event, computed once when it is collected: what deduplication compares instead of long columns.

``key_hash`` is the XXH64 of the id, whose seed is the XXH64 (seed 0) of the source: a public algorithm, so it outlives
every library. Equal keys have equal hashes; keys of one hash are compared exactly, so a collision never drops an event.

``payload_hash`` is the XXH64 of ``data``, whose seed is the XXH64 (seed 0) of the quantity: of its 16 bytes as a
content hash has them, or of no byte where it is null. It says whether two copies of one key are the same, never which
is billed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.adapters.block_kernels import text_hashes
from pipeline.adapters.content_hash import text_buffers

_QUANTITY_BYTES = 16


def key_hashes(sources: Any, ids: Any) -> npt.NDArray[np.uint64]:
    """Return the hash of each key."""
    return _text_hashes(ids, _text_hashes(sources, np.zeros(len(sources), np.uint64)))


def payload_hashes(quantities: Any, data: Any) -> npt.NDArray[np.uint64]:
    """Return the hash of each quantity and data."""
    column = quantities.combine_chunks()
    lengths = np.asarray(column.is_valid(), np.int32) * _QUANTITY_BYTES
    edges = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    values = column.drop_null() if column.null_count else column
    first, end = values.offset * _QUANTITY_BYTES, (values.offset + len(values)) * _QUANTITY_BYTES
    content = np.frombuffer(values.buffers()[1] or b"", np.uint8)[first:end]
    return _text_hashes(data, text_hashes(content, edges, np.zeros(len(column), np.uint64)))


def _text_hashes(column: Any, seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    edges, content = text_buffers(column.combine_chunks())
    hashes: npt.NDArray[np.uint64] = text_hashes(np.frombuffer(content, np.uint8), edges, seeds)
    return hashes
