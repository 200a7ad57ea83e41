"""The content hash of raw events: over what the rows say, not over the bytes of a file, so it outlives a library (P1).

The rows of one object and one event date are hashed in order of their lines. Each column is one stream of bytes (texts:
their lengths in one and their UTF-8 in another), so whole columns are hashed at once, and where a block of rows ended
leaves no trace. A collection's content is the list of these hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.dataset import RAW_EVENTS
from pipeline.core.manifest import canonical_json, sha256_hex

_HASHED = [name for name in RAW_EVENTS.column_names if name not in ("object_id", "key_hash")]


class EventColumns:
    """The columns of a table of raw events as streams of bytes."""

    def __init__(self, table: pa.Table) -> None:
        self._streams: list[tuple[npt.NDArray[np.int64] | int, memoryview]] = []
        for name in _HASHED:
            self._add(table.column(name).combine_chunks())

    def _add(self, column: Any) -> None:
        count = len(column)
        if pa.types.is_string(column.type):
            _, offsets, content = column.buffers()
            edges = np.frombuffer(offsets, np.int32)[column.offset : column.offset + count + 1].astype(np.int64)
            self._streams.append((4, np.diff(edges).astype("<i4").data.cast("B")))
            self._streams.append((edges, memoryview(content or b"").cast("B")))
            return
        if pa.types.is_decimal(column.type):
            self._streams.append((1, np.asarray(column.is_valid(), np.uint8).data))
            column = pc.fill_null(column, 0) if column.null_count else column
            width = 16
        else:
            width = 8
        buffer = memoryview(column.buffers()[1]).cast("B")
        self._streams.append((width, buffer[column.offset * width : (column.offset + count) * width]))

    def parts(self, first: int, end: int) -> Sequence[memoryview]:
        """Return the bytes of some rows, one part for each stream."""
        return [
            content[first * edges : end * edges] if isinstance(edges, int) else content[edges[first] : edges[end]]
            for edges, content in self._streams
        ]


class EventContent:
    """The running hash of the rows of one object and event date, added in order of their lines."""

    def __init__(self) -> None:
        self.row_count = 0
        self._hashes: list[hashlib._Hash] = []

    def add(self, columns: EventColumns, first: int, end: int) -> None:
        parts = columns.parts(first, end)
        if not self._hashes:
            self._hashes = [hashlib.sha256() for _ in parts]
        for stream, part in zip(self._hashes, parts, strict=True):
            stream.update(part)
        self.row_count += end - first

    def hexdigest(self) -> str:
        return sha256_hex(b"".join(stream.digest() for stream in self._hashes))


def content_hash(contents: Sequence[tuple[str, str, int, str]]) -> str:
    """Return the hash of a collection's raw events, from object id, event date, rows and hash of each content."""
    columns = [[name, sql_type] for name, sql_type in RAW_EVENTS.columns]
    return sha256_hex(canonical_json([RAW_EVENTS.name, columns, sorted(contents)]))
