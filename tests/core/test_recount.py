"""Usage counted again in plain Python: each aggregation on events whose figures can be added up by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from pipeline.core.meter import Aggregation, Meter
from pipeline.core.recount import RecountedEvent, RowFigures, RowKey, recounted_usage, wrong_rows

HOUR = timedelta(hours=1)
TEN = datetime(2026, 1, 15, 10, tzinfo=UTC)


def meter(aggregation: str, **changed: Any) -> Meter:
    fields = {"sku": "s", "event_type": "t", "aggregation": aggregation, "value": "data.v", "unit": "u"}
    return Meter.model_validate({**fields, **changed})


def events(*data: str, at: datetime = TEN) -> list[tuple[str, RecountedEvent]]:
    return [("acct-1", RecountedEvent("t", at, Decimal("2.5"), text)) for text in data]


def only(rows: dict[RowKey, RowFigures]) -> RowFigures:
    (figures,) = rows.values()
    return figures


@pytest.mark.parametrize(
    ("aggregation", "changed", "quantity", "value_sum"),
    [
        ("sum", {}, "6.5", "6.5"),
        ("max", {}, "4", "6.5"),
        ("min", {}, "1", "6.5"),
        ("average", {}, "2.166666667", "6.5"),
        ("unique_count", {}, "3", "3"),
        ("count", {"value": None}, "3", "3"),
        ("percentile", {"percentile": 95}, "4", "6.5"),
        ("sum_of_maxima", {"bucket": "1h"}, "4", "6.5"),
        ("sum", {"value": "quantity"}, "7.5", "7.5"),
    ],
)
def test_each_aggregation_of_a_grain(aggregation: str, changed: dict[str, Any], quantity: str, value_sum: str) -> None:
    found = only(
        recounted_usage(events('{"v":"1"}', '{"v":"4"}', '{"v":"1.5"}'), [meter(aggregation, **changed)], HOUR)
    )

    assert found == RowFigures(Decimal(quantity), Decimal(value_sum), 3)


def test_of_a_level_only_the_control_totals_are_counted() -> None:
    found = only(recounted_usage(events('{"v":"1"}', '{"v":"4"}'), [meter("latest")], HOUR))

    assert found == RowFigures(None, Decimal(5), 2)


def test_events_of_two_grains_are_two_rows() -> None:
    last = events('{"v":"1"}', at=TEN + HOUR - timedelta(microseconds=1))

    found = recounted_usage([*last, *events('{"v":"2"}', at=TEN + HOUR)], [meter("sum")], HOUR)

    assert {key.grain_start: row.quantity for key, row in found.items()} == {TEN: 1, TEN + HOUR: 2}


def test_a_filter_is_on_the_text_of_a_path() -> None:
    filtered = meter("sum", filter={"a.b": "x"})

    found = recounted_usage(events('{"a":{"b":"x"},"v":"1"}', '{"a":{"b":"y"},"v":"2"}', '{"v":"4"}'), [filtered], HOUR)

    assert only(found).quantity == 1


def test_dimensions_are_written_as_usage_has_them() -> None:
    by_region = meter("sum", dimensions=("region", "flag", "none"))

    found = recounted_usage(events('{"flag":true,"region":"süd","v":"1"}'), [by_region], HOUR)

    assert [key.dimensions for key in found] == ['{"region":"süd","flag":true,"none":null}']


def test_a_value_that_is_no_plain_number_adds_nothing() -> None:
    found = recounted_usage(
        events('{"v":"1e3"}', '{"v":"many"}', '{"v":null}', "{}", '{"v":"1"}'), [meter("sum")], HOUR
    )

    assert only(found) == RowFigures(Decimal(1), Decimal(1), 1)


def test_one_event_may_feed_two_meters() -> None:
    found = recounted_usage(events('{"v":"3"}'), [meter("sum"), meter("count", sku="n", value=None)], HOUR)

    assert {key.sku: row.quantity for key, row in found.items()} == {"s": 3, "n": 1}


def test_each_row_that_differs_is_named_with_both_sides() -> None:
    right, lost, invented = (RowKey("acct-1", sku, "{}", TEN) for sku in ("right", "lost", "invented"))
    wrong, level = RowKey("acct-1", "wrong", '{"r":"eu"}', TEN), RowKey("acct-1", "level", "{}", TEN)
    figures = RowFigures(Decimal(1), Decimal(1), 1)
    recounted = {right: figures, lost: figures, wrong: figures, level: figures._replace(quantity=None)}
    found = {
        right: (Aggregation.SUM, RowFigures(Decimal("1.000"), Decimal(1), 1)),
        invented: (Aggregation.SUM, figures),
        wrong: (Aggregation.SUM, RowFigures(Decimal(2), Decimal(1), 3)),
        level: (Aggregation.LATEST, RowFigures(Decimal(77), Decimal(1), 1)),
    }

    assert wrong_rows(found, recounted) == [
        "acct-1/invented 10:00: only in usage",
        "acct-1/lost 10:00: not in usage",
        'acct-1/wrong{"r":"eu"} 10:00 (sum): event_count expected 1, got 3, quantity expected 1, got 2',
    ]
