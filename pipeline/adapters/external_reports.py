"""The rows of an external report, as its file has them: CSV as texts, Parquet as its own values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.external import ExternalContract


def report_rows(contract: ExternalContract, content: bytes) -> Sequence[Mapping[str, Any]]:
    """Return every row of a report; ``ValueError`` for a file that is not what the contract says, or lacks a column."""
    if contract.format == "parquet":
        try:
            table = pq.read_table(io.BytesIO(content))
        except pa.ArrowException as error:
            raise ValueError(f"it is no Parquet file: {error}") from None
        _require_columns(contract, table.column_names)
        rows: list[dict[str, Any]] = table.select(list(dict.fromkeys(contract.columns.names))).to_pylist()
        return rows
    try:
        reader = csv.DictReader(
            io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=contract.delimiter, strict=True
        )
        _require_columns(contract, reader.fieldnames or [])
        return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is no CSV file in UTF-8: {error}") from None


def _require_columns(contract: ExternalContract, found: Sequence[str]) -> None:
    missing = [name for name in contract.columns.names if name not in found]
    if missing:
        raise ValueError(f"expected the columns {', '.join(missing)}, got {', '.join(found)[:200] or 'none'}")
