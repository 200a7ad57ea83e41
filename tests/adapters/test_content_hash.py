"""What content hashes tell apart, and what they do not."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa

from pipeline.adapters.content_hash import EventColumns, EventContent, RowContent
from pipeline.adapters.event_files import arrow_schema
from pipeline.core.dataset import QUANTITY, RAW_EVENTS, Dataset

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
EVENT: dict[str, Any] = {
    "object_id": "a",
    "line_number": 1,
    "source": "api",
    "id": "1",
    "type": "calls",
    "subject": "acct-1",
    "event_at": NOON,
    "received_at": NOON,
    "quantity": Decimal(1),
    "data": "{}",
}


def content_of(*blocks: list[dict[str, Any]]) -> str:
    content = EventContent()
    for rows in blocks:
        content.add(EventColumns(pa.Table.from_pylist(rows, arrow_schema(RAW_EVENTS))), 0, len(rows))
    return content.hexdigest()


def test_no_quantity_is_not_a_quantity_of_zero() -> None:
    nothing, zero = {**EVENT, "quantity": None}, {**EVENT, "quantity": Decimal(0)}

    assert content_of([nothing]) != content_of([zero])
    assert content_of([EVENT, nothing]) != content_of([EVENT, zero])


def test_texts_that_read_the_same_in_one_piece_are_not_the_same() -> None:
    assert content_of([{**EVENT, "id": "ab"}, {**EVENT, "id": "c"}]) != content_of(
        [{**EVENT, "id": "a"}, {**EVENT, "id": "bc"}]
    )


def test_where_a_block_of_rows_ended_leaves_no_trace() -> None:
    other = {**EVENT, "line_number": 2, "id": "2", "quantity": None}

    assert content_of([EVENT, other]) == content_of([EVENT], [other])


def test_where_a_block_of_rows_ends_leaves_no_trace() -> None:
    dataset = Dataset("things", (("name", "VARCHAR"), ("number", "BIGINT"), ("quantity", QUANTITY)), ("name",))
    rows = pa.record_batch(
        {
            "name": pa.array(["a", None, "ü", "dd"]),
            "number": pa.array([1, 2, None, 4]),
            "quantity": pa.array([Decimal("1.5"), None, Decimal(-2), Decimal(0)], pa.decimal128(38, 9)),
        }
    )

    def content(*ends: int) -> str:
        running = RowContent(dataset)
        for first, end in pairwise((0, *ends)):
            running.add(rows.slice(first, end - first))
        return running.hexdigest()

    assert len({content(4), content(1, 4), content(1, 2, 3, 4), content(3, 4)}) == 1
    assert content(3) != content(4)
