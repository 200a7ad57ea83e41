"""What the content hash of raw events tells apart, and what it does not."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipeline.adapters.content_hash import EventColumns, EventContent
from pipeline.adapters.event_files import arrow_schema
from pipeline.core.dataset import RAW_EVENTS

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
