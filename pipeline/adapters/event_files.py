"""Parquet files of rows that arrive in order: one file per partition, the same bytes for the same rows (P1).

However many rows and partitions there are, memory holds a bounded number of rows. Where a row group ends depends on the
rows alone, never on time or on what else is in memory, so the bytes do too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.optional_imports import without
from pipeline.core.dataset import INSTANT, QUANTITY, Dataset

# PyArrow imports pandas at its first conversion, in case the values are pandas' own. Ours never are; who asks for a
# frame still gets one.
with without("pandas"):
    pa.array([0])

_ARROW_TYPES: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "UBIGINT": pa.uint64(),
    "BLOB": pa.binary(),
    INSTANT: pa.timestamp("us", tz="UTC"),
    QUANTITY: pa.decimal128(38, 9),
}
_REPEATED = ("object_id", "source", "type", "subject", "received_at", "contract", "reason")
_ENCODINGS = {
    **dict.fromkeys(("line_number", "event_at", "byte_offset"), "DELTA_BINARY_PACKED"),
    "id": "DELTA_LENGTH_BYTE_ARRAY",
}
_ROW_GROUP_ROWS = 16_384
_ROW_GROUP_BYTES = 32 << 20
# Of all partitions together; a table costs some kilobytes beside its rows.
_WAITING_TABLES_MAX = 1_024
_WAITING_BYTES_MAX = 128 << 20


class PartitionFile(NamedTuple):
    """A finished file: its partition (an event date, or empty), where it is, and how many rows it has."""

    partition: str
    path: Path
    row_count: int


def arrow_schema(dataset: Dataset) -> pa.Schema:
    """Return the Arrow schema of a dataset."""
    return pa.schema([(name, _ARROW_TYPES[sql_type]) for name, sql_type in dataset.columns])


@dataclass(slots=True)
class _Partition:
    name: str
    waiting: list[pa.Table] = field(default_factory=list)
    waiting_rows: int = 0
    waiting_bytes: int = 0
    row_count: int = 0
    path: Path | None = None
    writer: pq.ParquetWriter | None = None


class EventFiles:
    """The rows of one dataset, added in the dataset's total order, as one Parquet file per partition.

    Rows of so many partitions that they would not fit in memory become several files of each.
    """

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self._schema = arrow_schema(dataset)
        self._folder = folder
        self._partitions: dict[str, _Partition] = {}
        self._waiting_tables = 0
        self._waiting_tables_max = _WAITING_TABLES_MAX
        self._waiting_bytes = 0
        self._files: list[PartitionFile] = []
        names = dataset.column_names
        self._options: dict[str, Any] = {
            "compression": "zstd",
            "compression_level": 1,
            "use_dictionary": [name for name in _REPEATED if name in names],
            "column_encoding": {name: encoding for name, encoding in _ENCODINGS.items() if name in names},
            # Of quantity, because whoever looks for a missing one then reads only row groups that have one.
            "write_statistics": [name for name in ("event_at", "received_at", "quantity") if name in names],
            "store_schema": False,
        }
        folder.mkdir(parents=True)

    def add(self, partition: str, rows: pa.Table) -> None:
        """Add rows to a partition. Rows are kept as they are until a row group is full, so a slice is best a copy."""
        found = self._partitions.setdefault(partition, _Partition(partition))
        found.waiting.append(rows)
        found.waiting_rows += rows.num_rows
        found.waiting_bytes += rows.nbytes
        self._waiting_tables += 1
        self._waiting_bytes += rows.nbytes
        if found.waiting_rows >= _ROW_GROUP_ROWS or found.waiting_bytes >= _ROW_GROUP_BYTES:
            self._write(found)
        if self._waiting_bytes >= _WAITING_BYTES_MAX:
            self._close_all()
        elif self._waiting_tables >= self._waiting_tables_max:
            self._pack_all()

    def finish(self) -> list[PartitionFile]:
        """Write what is left and return the files, in order of partition."""
        self._close_all()
        files, self._files = sorted(self._files), []
        return files

    def _pack_all(self) -> None:
        """Make one table of the small ones of each partition; with too many partitions, write all of them."""
        packed = [partition for partition in self._partitions.values() if partition.waiting]
        for partition in packed:
            partition.waiting = [pa.concat_tables(partition.waiting).combine_chunks()]
        self._waiting_tables = len(packed)
        self._waiting_tables_max = max(_WAITING_TABLES_MAX, 2 * len(packed))
        if len(packed) > 4 * _WAITING_TABLES_MAX:
            self._close_all()

    def _close_all(self) -> None:
        for partition in self._partitions.values():
            if partition.waiting:
                self._write(partition)
            if partition.writer is not None and partition.path is not None:
                partition.writer.close()
                self._files.append(PartitionFile(partition.name, partition.path, partition.row_count))
        self._partitions.clear()
        self._waiting_tables = self._waiting_bytes = 0

    def _write(self, partition: _Partition) -> None:
        # In one piece: where the pieces met must not show in the file.
        rows = pa.concat_tables(partition.waiting) if len(partition.waiting) > 1 else partition.waiting[0]
        if any(column.num_chunks > 1 for column in rows.columns):
            rows = rows.combine_chunks()
        if partition.writer is None:
            number = len(self._files)
            partition.path = self._folder / f"{partition.name or 'rows'}.{number}.parquet"
            partition.writer = pq.ParquetWriter(partition.path, self._schema, **self._options)
        partition.writer.write_table(rows, row_group_size=rows.num_rows)
        partition.row_count += rows.num_rows
        self._waiting_tables -= len(partition.waiting)
        self._waiting_bytes -= partition.waiting_bytes
        partition.waiting, partition.waiting_rows, partition.waiting_bytes = [], 0, 0
