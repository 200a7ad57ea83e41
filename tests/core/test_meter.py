"""What ``meters.toml`` may say about a meter, and what it means: unit, billed unit, what an empty period is."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.meter import AGGREGATION_RULES, BYTES_OF, Aggregation, Meter, billed_meters

OWN_KEYS: dict[str, dict[str, Any]] = {
    "count": {},
    "unique_count": {"value": "data.user"},
    "time_weighted_sum": {"value": "quantity", "per": "hour"},
    "percentile": {"value": "quantity", "percentile": 95},
    "sum_of_maxima": {"value": "quantity", "bucket": "1d"},
}


def meter(aggregation: str = "sum", **changed: Any) -> Meter:
    """Return a valid meter of the aggregation, with some keys replaced; None takes a key away."""
    keys = {
        "sku": "n",
        "event_type": "used",
        "aggregation": aggregation,
        "unit": "bytes",
        **OWN_KEYS.get(aggregation, {"value": "quantity"}),
        **changed,
    }
    return Meter.model_validate({name: value for name, value in keys.items() if value is not None})


def test_every_aggregation_says_what_it_is_over_no_event_and_what_changes_nothing() -> None:
    assert set(AGGREGATION_RULES) == set(Aggregation)
    empty = {aggregation.value: rule.empty for aggregation, rule in AGGREGATION_RULES.items()}
    assert {name for name, value in empty.items() if value is None} == {
        *("max", "min", "average", "latest", "percentile")
    }
    assert {value for value in empty.values() if value is not None} == {Decimal(0)}
    assert all(rule.neutral for rule in AGGREGATION_RULES.values())


@pytest.mark.parametrize("aggregation", [aggregation.value for aggregation in Aggregation])
def test_every_aggregation_loads_with_the_keys_that_are_its_own(aggregation: str) -> None:
    assert meter(aggregation).aggregation == aggregation


@pytest.mark.parametrize(
    ("aggregation", "changed", "sentence"),
    [
        ("count", {"value": "quantity"}, "value: found 'quantity', accepted none"),
        ("sum", {"value": None}, 'value: found none, accepted "quantity" or "data.<path>" for aggregation = "sum"'),
        ("unique_count", {"value": "quantity"}, 'value: found quantity, accepted "data.<path>"'),
        ("unique_count", {"value": None}, 'value: found none, accepted "data.<path>"'),
        ("time_weighted_sum", {"per": None}, 'per: found none, aggregation = "time_weighted_sum" needs it'),
        ("time_weighted_sum", {"per": "month"}, "'second', 'minute', 'hour' or 'day'"),
        ("max", {"per": "hour"}, 'per: accepted for aggregation = "time_weighted_sum" only, found aggregation = "max"'),
        ("percentile", {"percentile": None}, "percentile: found none"),
        ("percentile", {"percentile": 0}, "greater than or equal to 1"),
        ("percentile", {"percentile": 100}, "less than or equal to 99"),
        ("percentile", {"percentile": Decimal("99.9")}, "valid integer"),
        ("max", {"percentile": 95}, 'percentile: accepted for aggregation = "percentile" only'),
        ("sum_of_maxima", {"bucket": None}, "bucket: found none"),
        ("sum_of_maxima", {"bucket": "30s"}, "bucket: found less than 1m, accepted a whole multiple of the grain"),
        ("sum", {"bucket": "1d"}, 'bucket: accepted for aggregation = "sum_of_maxima" only'),
        ("sum", {"billing_unit": "GX"}, "billing_unit: found 'GX', accepted kB, MB, GB, TB, PB, KiB"),
        ("sum", {"unit": "tokens", "billing_unit": "GB"}, 'accepted { name = "...", size = <how many of unit> }'),
        ("sum", {"billing_unit": {"name": "x", "size": 0}}, "greater than or equal to 1"),
        ("sum", {"billing_unit": {"name": "x", "size": Decimal("1.5")}}, "valid integer"),
    ],
)
def test_a_wrong_combination_is_refused_with_the_key_and_what_is_accepted(
    aggregation: str, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        meter(aggregation, **changed)

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "billed_unit", "divisor"),
    [
        ({}, "bytes", 1),
        ({"billing_unit": "GB"}, "GB", 10**9),
        ({"billing_unit": "GiB"}, "GiB", 2**30),
        ({"unit": "tokens", "billing_unit": {"name": "million tokens", "size": 1_000_000}}, "million tokens", 10**6),
        ({"aggregation": "time_weighted_sum", "per": "hour"}, "bytes-hours", 3_600_000_000),
        ({"aggregation": "time_weighted_sum", "per": "day", "billing_unit": "GiB"}, "GiB-days", 2**30 * 86_400_000_000),
    ],
)
def test_the_billed_unit_has_a_name_and_an_exact_size(changed: dict[str, Any], billed_unit: str, divisor: int) -> None:
    assert (meter(**changed).billed_unit, meter(**changed).divisor) == (billed_unit, divisor)


def test_prefixes_of_bytes_state_their_base() -> None:
    assert [BYTES_OF[name] for name in ("kB", "MB", "GB", "TB", "PB")] == [10**3, 10**6, 10**9, 10**12, 10**15]
    assert [BYTES_OF[name] for name in ("KiB", "MiB", "GiB", "TiB", "PiB")] == [2**10, 2**20, 2**30, 2**40, 2**50]


def test_the_newest_meter_bills_the_whole_period_and_an_older_aggregation_keeps_its_own() -> None:
    old, new = meter("percentile", percentile=90), meter("percentile", percentile=95)
    before = meter("sum_of_maxima", bucket="4h")

    billed = billed_meters([[before], [old], [new]])

    assert [(one.aggregation, one.percentile, one.bucket_seconds) for one in billed] == [
        ("percentile", 95, None),
        ("sum_of_maxima", None, timedelta(hours=4) // timedelta(seconds=1)),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"billing_unit": {"name": "USD", "size": 100}}, None),
        ({"aggregation": "count", "value": None}, None),
        ({"aggregation": "max"}, 'keep_values: accepted for aggregation = "sum" and "count" only'),
        ({"billing_unit": {"name": "dozen", "size": 12}}, "accepted a power of ten"),
        ({"billing_unit": {"name": "score", "size": 20}}, "accepted a power of ten"),
    ],
)
def test_values_are_kept_where_each_is_exact_in_the_billing_unit(changes: dict[str, Any], message: str | None) -> None:
    fields = {"sku": "payments", "event_type": "paid", "aggregation": "sum", "value": "quantity", "unit": "cents"}
    keeping = {key: value for key, value in {**fields, "keep_values": True, **changes}.items() if value is not None}

    if message is None:
        assert Meter.model_validate(keeping).has_values
    else:
        with pytest.raises(ValidationError, match=message):
            Meter.model_validate(keeping)
