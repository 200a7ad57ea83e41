"""Content hashes: over what the rows of a dataset say, not over the bytes of a file, so they outlive a library (P1).

Rows are hashed in the total order of their dataset. Each column is some streams of bytes (which rows have a value, the
lengths of texts, the values), so whole columns are hashed at once, and where a file, a row group or a block of rows
ended leaves no trace. Raw events are hashed by object and event date, in order of their lines; a collection's content
is the list of these hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.dataset import RAW_EVENTS, Dataset
from pipeline.core.manifest import canonical_json, sha256_hex

EVENT_HASHES = ("key_hash", "payload_hash")  # of what other columns say
_HASHED = [name for name in RAW_EVENTS.column_names if name not in ("object_id", *EVENT_HASHES)]


def text_buffers(column: Any) -> tuple[npt.NDArray[np.int32], memoryview]:
    """Return where each text begins, and behind them where the last one ends, in the bytes that come with it."""
    _, edges, content = column.buffers()
    return (
        np.frombuffer(edges, np.int32)[column.offset : column.offset + len(column) + 1],
        memoryview(content or b"").cast("B"),
    )


def _lengths(edges: npt.NDArray[np.int32]) -> memoryview:
    return np.diff(edges).astype("<i4").data.cast("B")


def _values(column: Any, width: int) -> memoryview:
    return memoryview(column.buffers()[1]).cast("B")[column.offset * width : (column.offset + len(column)) * width]


class EventColumns:
    """The columns of a table of raw events as streams of bytes."""

    def __init__(self, table: pa.Table) -> None:
        self._streams: list[tuple[npt.NDArray[np.int64] | int, memoryview]] = []
        for name in _HASHED:
            self._add(table.column(name).combine_chunks())

    def _add(self, column: Any) -> None:
        if pa.types.is_string(column.type):
            edges, content = text_buffers(column)
            self._streams.append((4, _lengths(edges)))
            self._streams.append((edges.astype(np.int64), content))
            return
        if pa.types.is_decimal(column.type):
            self._streams.append((1, np.asarray(column.is_valid(), np.uint8).data))
            column = pc.fill_null(column, 0) if column.null_count else column
            width = 16
        else:
            width = 8
        self._streams.append((width, _values(column, width)))

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


class RowContent:
    """The running hash of the rows of a dataset, added in its total order. Of a column there are hashed

    - a byte for each row: 1, or 0 for NULL;
    - of texts and bytes: their lengths as 32-bit integers, and in another stream the texts in UTF-8;
    - of anything else: the values with their bytes lowest first, decimals as 128-bit integers of their last digit,
      instants as microseconds since 1970, truth values as a byte.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._streams = [[hashlib.sha256() for _ in range(3)] for _ in dataset.columns]
        self.row_count = 0

    def add(self, rows: pa.RecordBatch) -> None:
        for number in range(rows.num_columns):
            self.add_column(number, rows.column(number))
        self.row_count += rows.num_rows

    def add_column(self, number: int, column: Any) -> None:
        """Add the next values of one column; columns may be added at the same time, each in its order."""
        has_value, lengths, values = self._streams[number]
        has_value.update(np.asarray(column.is_valid(), np.uint8).data)
        found: Any = column.drop_null() if column.null_count else column
        if pa.types.is_boolean(found.type):
            found = found.cast(pa.uint8())
        if not len(found):
            return
        if pa.types.is_string(found.type) or pa.types.is_binary(found.type):
            edges, content = text_buffers(found)
            lengths.update(_lengths(edges))
            values.update(content[edges[0] : edges[-1]])
        else:
            values.update(_values(found, found.type.bit_width // 8))

    def hexdigest(self) -> str:
        columns = [[name, sql_type] for name, sql_type in self._dataset.columns]
        digests = [stream.hexdigest() for streams in self._streams for stream in streams]
        return sha256_hex(canonical_json([self._dataset.name, columns, self.row_count, digests]))
