"""The report as JSON and as Parquet, for other programs; numbers are texts or decimals with every digit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.decimals import fits
from pipeline.core.report_model import Badge, Cell, ReportModel, Table

# Quantities have up to 29 digits before the point and exact amounts 21 after it; what does not fit is a text only.
NUMBER_DIGITS, NUMBER_SCALE = 38, 21

_TIDY_FIELDS: list[pa.Field[Any]] = [
    pa.field("section", pa.string()),
    pa.field("table", pa.string()),
    pa.field("row", pa.int64()),  # from 1; sums come after the rows, under the table's name with ".sums"
    pa.field("name", pa.string()),
    pa.field("value", pa.string()),
    pa.field("number", pa.decimal128(NUMBER_DIGITS, NUMBER_SCALE)),
]
TIDY_SCHEMA = pa.schema(_TIDY_FIELDS)


def report_json(model: ReportModel) -> bytes:
    """Return the report as JSON: a list of tables for each section, a number as text with every digit."""
    content = {
        "project": model.project_name,
        "legal_entity": model.legal_entity,
        "window_id": model.window_id,
        "revision": model.revision,
        "made_at": plain(model.made_at),
        "verdict": model.verdict,
        "sentence": model.sentence,
        "why": model.why,
        "notices": [{"title": one.title, "sentences": list(one.sentences)} for one in model.notices],
        "facts": [{"name": name, "value": value} for name, value in model.facts],
        "sections": [
            {
                "name": section.name,
                "title": section.title,
                "note": section.note,
                "tables": [_table(table) for table in section.tables],
            }
            for section in model.sections
        ],
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def _table(table: Table) -> dict[str, Any]:
    names = [column.name for column in table.columns]
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "columns": {column.name: column.title for column in table.columns},
        "rows": [dict(zip(names, map(plain, row.cells), strict=True)) for row in table.rows],
        "sums": [dict(zip(names, map(plain, row.cells), strict=True)) for row in table.sums()],
    }


def plain(cell: Cell) -> str | None:
    """Return a cell as text: a number without grouping and exponent, an instant as ISO 8601 in UTC.

    >>> plain(Decimal("1E-9")), plain(1204), plain(None)
    ('0.000000001', '1204', None)
    """
    if isinstance(cell, int | Decimal):
        return f"{cell:f}" if isinstance(cell, Decimal) else str(cell)
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return cell.text if isinstance(cell, Badge) else cell


def report_parquet(model: ReportModel) -> bytes:
    """Return the report as tidy Parquet: one row for each cell that is not empty, the verdict first."""
    rows = list(_tidy(model))
    columns = zip(zip(*rows, strict=True), TIDY_SCHEMA, strict=True)
    arrays = [pa.array(column, type=field.type) for column, field in columns]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=TIDY_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def _tidy(model: ReportModel) -> Iterator[tuple[str, str, int, str, str, Decimal | None]]:
    for name in ("verdict", "sentence", "why", "window_id", "project_name", "legal_entity"):
        yield "report", "report", 1, name, str(getattr(model, name)), None
    yield "report", "report", 1, "revision", str(model.revision), Decimal(model.revision)
    yield "report", "report", 1, "made_at", str(plain(model.made_at)), None
    for place, (name, value) in enumerate(model.facts, start=1):
        yield "report", "facts", place, name, value, None
    for section in model.sections:
        for table in section.tables:
            for suffix, rows in (("", table.rows), (".sums", table.sums())):
                for number, row in enumerate(rows, start=1):
                    for column, cell in zip(table.columns, row.cells, strict=True):
                        if cell is not None:
                            text = str(plain(cell))
                            yield section.name, table.name + suffix, number, column.name, text, _number(cell)


def _number(cell: Cell) -> Decimal | None:
    if not isinstance(cell, int | Decimal):
        return None
    number = Decimal(cell)
    return number if fits(number, NUMBER_DIGITS, NUMBER_SCALE) else None
