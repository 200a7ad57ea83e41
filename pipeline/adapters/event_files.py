"""Parquet files of rows that arrive in order: one file per partition, the same bytes for the same rows (P1).

However many rows there are, memory holds one buffer of them: rows are staged on disk as Arrow segments, partition by
partition, and become one Parquet file each at the end. Where a segment or a row group ends depends on the rows
alone, never on time or memory, so the bytes do too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.dataset import INSTANT, QUANTITY, Dataset

_ARROW_TYPES: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "BLOB": pa.binary(),
    INSTANT: pa.timestamp("us", tz="UTC"),
    QUANTITY: pa.decimal128(38, 9),
}
_BUFFERED_ROWS_MAX = 50_000
_BUFFERED_BYTES_MAX = 32 << 20
_ROW_GROUP_ROWS = 65_536
_ROW_GROUP_BYTES = 64 << 20


class EventFiles:
    """The rows of one dataset, added in the dataset's total order, as one Parquet file per partition."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self._dataset = dataset
        self._folder = folder
        self._schema = pa.schema([(name, _ARROW_TYPES[sql_type]) for name, sql_type in dataset.columns])
        self._buffers: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self._buffered_rows = 0
        self._buffered_bytes = 0
        self._segments: defaultdict[str, list[Path]] = defaultdict(list)
        folder.mkdir(parents=True)

    def add(self, partition: str, row: tuple[Any, ...], byte_count: int) -> None:
        """Add one row, its values in the order of the columns; ``byte_count`` is about what it holds in memory."""
        self._buffers[partition].append(row)
        self._buffered_rows += 1
        self._buffered_bytes += byte_count
        if self._buffered_rows >= _BUFFERED_ROWS_MAX or self._buffered_bytes >= _BUFFERED_BYTES_MAX:
            self._flush()

    def write(self) -> dict[str, Path]:
        """Write every partition that has rows; return its file by name of partition, in order."""
        self._flush()
        return {partition: self._write(partition) for partition in sorted(self._segments)}

    def _flush(self) -> None:
        for partition, rows in self._buffers.items():
            columns = [
                pa.array(values, field.type)
                for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
            ]
            segment = self._folder / f"{partition or 'rows'}.{len(self._segments[partition])}.arrow"
            with pa.OSFile(str(segment), "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
                writer.write_batch(pa.record_batch(columns, schema=self._schema))
            self._segments[partition].append(segment)
        self._buffers.clear()
        self._buffered_rows = self._buffered_bytes = 0

    def _write(self, partition: str) -> Path:
        path = self._folder / f"{partition or 'rows'}.parquet"
        with pq.ParquetWriter(path, self._schema, compression="zstd", compression_level=3) as writer:
            for row_group in self._row_groups(partition):
                writer.write_table(row_group, row_group_size=row_group.num_rows)
        return path

    def _row_groups(self, partition: str) -> Iterator[pa.Table]:
        gathered: list[pa.Table] = []
        for segment in self._segments[partition]:
            with pa.OSFile(str(segment), "rb") as source:
                gathered.append(pa.ipc.open_file(source).read_all())
            segment.unlink()
            row_count = sum(table.num_rows for table in gathered)
            if row_count >= _ROW_GROUP_ROWS or sum(table.nbytes for table in gathered) >= _ROW_GROUP_BYTES:
                yield pa.concat_tables(gathered)
                gathered = []
        if gathered:
            yield pa.concat_tables(gathered)
