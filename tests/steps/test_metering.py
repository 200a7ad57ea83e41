"""Every aggregation against the reference: any windows, any grain, any order, any number of shards, any time zone."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.meter import Aggregation, Meter
from pipeline.core.window import EPOCH, BillingPeriod, BillingWindow, billing_period, windows_between
from tests.core.test_meter import meter
from tests.steps.metering import (
    Counted,
    Event,
    owner_of,
    period_quantities,
    reference_of_moving_resources,
    reference_quantities,
    sharded_usage_of_window,
    usage_of_window,
)

AGGREGATIONS = [aggregation.value for aggregation in Aggregation]
LEVELS = ["latest", "time_weighted_sum"]
NO_LEVELS = [aggregation for aggregation in AGGREGATIONS if aggregation not in LEVELS]
FIRST = datetime(2026, 1, 29, tzinfo=UTC)
PERIODS = {
    "acct-1": billing_period("2026-02", "UTC"),
    "acct-2": billing_period("2026-02", "America/New_York"),  # begins five hours into the first window of February
}
VALUES = st.one_of(
    st.sampled_from(["0", "-2.5", "0.000000001", "12345678901234567.000000001"]),
    st.decimals(-1000, 1000, places=9, allow_nan=False).map(str),
)
EVENTS = st.lists(
    st.builds(
        Event,
        event_at=st.integers(0, 5 * 24 * 60).map(lambda minute: FIRST + timedelta(minutes=minute)),
        value=VALUES.map(Decimal),
        user=st.sampled_from(["ana", "ben", "1", "01"]),
        region=st.sampled_from(["eu", "us"]),
        account_id=st.sampled_from(["acct-1", "acct-2"]),
        received_at=st.integers(0, 2).map(lambda minute: FIRST + timedelta(minutes=minute)),
        source=st.sampled_from(["s", "t"]),
        id=st.uuids().map(str),
    ),
    max_size=12,
    unique_by=lambda event: (event.source, event.id),
)
PROPERTY = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def metered(aggregation: str, by_region: bool = False, **changed: Any) -> Meter:
    return meter(aggregation, dimensions=("region",) if by_region else (), **changed)


def metered_all(aggregations: list[str], by_region: bool = False, **changed: Any) -> list[Meter]:
    """Return a meter of each aggregation, its SKU named like it."""
    return [metered(aggregation, by_region, sku=aggregation, **changed) for aggregation in aggregations]


def windows_of(hours: int) -> list[BillingWindow]:
    return list(windows_between(FIRST, datetime(2026, 3, 2, tzinfo=UTC), timedelta(hours=hours)))[: 6 * 24 // hours]


@PROPERTY
@given(events=EVENTS, by_region=st.booleans(), hours=st.sampled_from([6, 24]), minutes=st.sampled_from([15, 60, 180]))
def test_usage_of_a_period_is_merged_from_its_windows_whatever_the_grain(
    tmp_path: Path, events: list[Event], by_region: bool, hours: int, minutes: int
) -> None:
    meters = metered_all(AGGREGATIONS, by_region, billing_unit={"name": "thing", "size": 7})

    found = period_quantities(tmp_path, meters, events, windows_of(hours), timedelta(minutes=minutes), PERIODS)

    assert found == {counted.sku: reference_quantities(counted, events, PERIODS) for counted in meters}


@pytest.mark.parametrize("aggregations", [NO_LEVELS, LEVELS], ids=["by key", "by resource"])
@PROPERTY
@given(events=EVENTS, seed=st.integers(0, 99), shards=st.integers(2, 4))
def test_any_order_and_number_of_shards_makes_the_same_rows(
    tmp_path: Path, aggregations: list[str], events: list[Event], seed: int, shards: int
) -> None:
    meters, grain = metered_all(aggregations, by_region=True), timedelta(hours=1)
    shuffled = random.Random(seed).sample(events, len(events))

    with Warehouse(tmp_path, threads=1) as warehouse:
        at_once = usage_of_window(warehouse, meters, events, grain)
    with Warehouse(tmp_path, threads=2) as warehouse:
        of_shards = sharded_usage_of_window(warehouse, meters, shuffled, grain, shards)

    assert of_shards == at_once


@PROPERTY
@given(
    events=EVENTS,
    moves=st.lists(st.integers(0, 6 * 24 * 4).map(lambda quarter: FIRST + timedelta(minutes=15 * quarter)), max_size=5),
    accounts=st.lists(st.sampled_from(["acct-1", "acct-2", None]), min_size=6, max_size=6),
    fallbacks=st.fixed_dictionaries(dict.fromkeys("st", st.sampled_from(["acct-1", "acct-2", None]))),
    hours=st.sampled_from([6, 24]),
)
def test_a_level_goes_with_its_resource_however_often_it_changes_hands(
    tmp_path: Path,
    events: list[Event],
    moves: list[datetime],
    accounts: list[str | None],
    fallbacks: dict[str, str | None],
    hours: int,
) -> None:
    marks = sorted({FIRST - timedelta(days=1), *moves, datetime(2026, 4, 1, tzinfo=UTC)})
    owners = [("r", account, *span) for account, span in zip(accounts, pairwise(marks), strict=False) if account]
    resources = [replace(event, resource="s" if event.region == "us" else "r") for event in events]
    owned = [
        replace(event, account_id=owner_of(event.resource, event.event_at, owners) or fallbacks[event.source])
        for event in resources
    ]
    meters = metered_all(LEVELS)

    found = period_quantities(tmp_path, meters, owned, windows_of(hours), timedelta(hours=1), PERIODS, owners)

    assert found == {one.sku: reference_of_moving_resources(one, owned, PERIODS, owners) for one in meters}


@pytest.mark.parametrize("aggregation", LEVELS)
def test_a_level_whose_events_are_in_two_shards_is_refused(tmp_path: Path, aggregation: str) -> None:
    at = FIRST + timedelta(hours=1)
    with Warehouse(tmp_path) as warehouse:
        counted = Counted([], [], [])
        for id_ in ("a", "b"):
            counted.take_in(usage_of_window(warehouse, [metered(aggregation)], [Event(at, id=id_)], timedelta(hours=1)))
        counted.make_tables(warehouse)

        with pytest.raises(duckdb.Error, match="a series of SKU n has levels in two shards"):
            warehouse.select("merged_usage", {})


# ---- time zones ----


@pytest.mark.parametrize(
    ("time_zone", "period_id", "hours"),
    [
        ("America/New_York", "2026-03", 743),
        ("America/New_York", "2026-11", 721),
        ("America/New_York", "2026-02", 672),
        ("Asia/Kathmandu", "2026-03", 744),
    ],
    ids=["summer time begins", "summer time ends", "no change", "three quarters of an hour"],
)
def test_a_level_of_one_is_the_hours_of_the_month_whoever_owns_it(
    tmp_path: Path, time_zone: str, period_id: str, hours: int
) -> None:
    period = billing_period(period_id, time_zone)
    quarter = timedelta(minutes=15)
    windows = list(windows_between(period.start - timedelta(days=2), period.end, timedelta(days=1)))
    for moved_at in (period.start - quarter, period.start, period.start + timedelta(days=20), period.end):
        owners = [("r", "acct-1", EPOCH, moved_at), ("r", "acct-2", moved_at, period.end + timedelta(days=1))]
        events = [Event(windows[0].start, resource="r")]
        if moved_at < period.end:
            events.append(Event(moved_at, account_id="acct-2", resource="r", id="b"))

        found = period_quantities(
            *(tmp_path, [metered("time_weighted_sum", unit="seat")], events, windows, quarter),
            {"acct-1": period, "acct-2": period},
            owners,
        )["n"]

        assert sum(found.values()) == Decimal(hours)
        assert found.get("acct-1", 0) == Decimal(max(moved_at - period.start, timedelta(0)) // quarter) / 4


def test_a_month_of_kathmandu_begins_at_a_quarter_past(tmp_path: Path) -> None:
    period = billing_period("2026-02", "Asia/Kathmandu")
    microsecond = timedelta(microseconds=1)
    events = [
        Event(instant, Decimal(number), user=str(number), id=str(number))
        for number, instant in enumerate(
            (period.start - microsecond, period.start, period.end - microsecond, period.end), start=1
        )
    ]
    meters = metered_all(AGGREGATIONS)
    windows = list(windows_between(period.start, period.end + timedelta(hours=1), timedelta(days=1)))

    found = period_quantities(tmp_path, meters, events, windows, timedelta(minutes=15), {"acct-1": period})

    assert (period.start.minute, period.end.minute) == (15, 15)
    assert found == {one.sku: reference_quantities(one, events, {"acct-1": period}) for one in meters}


# ---- figures of documents and of other systems ----

PAGE = (Path(__file__).parents[2] / "docs" / "metering.md").read_text(encoding="utf-8")
WORKED = re.findall(r"^\| `([a-z_]+)([^`]*)` \| ([^|]+) \| \*\*([^*|]+)\*\* \|", PAGE, re.MULTILINE)
FIGURES = yaml.safe_load((Path(__file__).parent / "metering_figures.yaml").read_text(encoding="utf-8"))


def quantity_of(tmp_path: Path, counted: Meter, events: list[Event], period: BillingPeriod) -> str:
    first = min((event.event_at for event in events), default=period.start)
    windows = list(windows_between(first, period.end, timedelta(days=1)))
    found = period_quantities(tmp_path, [counted], events, windows, timedelta(hours=1), {"acct-1": period})[counted.sku]
    return f"{found['acct-1'].normalize():f}" if found else "no line"


def events_of(text: str) -> list[Event]:
    """Read ``day hh:mm value [region]`` of January 2026, separated by commas; day 0 is the last one of December."""
    events = []
    for number, part in enumerate(text.split(",") if text.strip() != "none" else []):
        day, time, value, *region = part.split()
        at = datetime(2025, 12, 31, *map(int, time.split(":")), tzinfo=UTC) + timedelta(days=int(day))
        number_text = value if re.fullmatch(r"-?[0-9.]+", value) else "1"
        events.append(Event(at, Decimal(number_text), user=value, region=(region or ["eu"])[0], id=str(number)))
    return events


def test_every_aggregation_has_worked_numbers_with_and_without_events() -> None:
    names = {name for name, *_ in WORKED}

    assert names == set(AGGREGATIONS)
    assert {name for name, _, events, _ in WORKED if events.strip() == "none"} == set(AGGREGATIONS)


@pytest.mark.parametrize(("name", "keys", "events", "quantity"), WORKED)
def test_the_worked_numbers_of_the_metering_page_are_true(
    tmp_path: Path, name: str, keys: str, events: str, quantity: str
) -> None:
    own = yaml.safe_load("{" + keys.strip(" ,") + "}") or {}
    by_region = any(len(part.split()) > 3 for part in events.split(","))
    counted = metered(name, by_region, unit="bytes", **own)

    assert quantity_of(tmp_path, counted, events_of(events), billing_period("2026-01", "UTC")) == quantity


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure["name"])
def test_figures_that_other_systems_print_come_out(tmp_path: Path, figure: dict[str, Any]) -> None:
    level = Decimal(0)
    events = []
    for number, (at, change) in enumerate(figure["changes"]):
        level += Decimal(change)
        events.append(Event(datetime.fromisoformat(at), level, id=f"{number:03}"))
    period = billing_period(figure["period"], "UTC")

    level_hours = Decimal(quantity_of(tmp_path, metered("time_weighted_sum", unit="GB"), events, period))
    hours = (period.end - period.start) // timedelta(hours=1)

    assert round(level_hours / hours, 5) == Decimal(figure["expected"])
