"""Usage of a period as the steps count it, in one session; and the same by an independent reference in fractions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import USAGE, USAGE_EVENTS, USAGE_LEVELS, USAGE_VALUES
from pipeline.core.meter import LEVELS, Aggregation, Meter, billed_meters
from pipeline.core.window import EPOCH, BillingPeriod, BillingWindow
from pipeline.steps.inputs import ACCOUNT_REFERENCE_COLUMNS, table_meters
from pipeline.steps.rate import ACCOUNT_PERIODS, METER_CHANGES, table_billed_meters
from tests.steps.raw_events import key_hash

MICROSECOND = timedelta(microseconds=1)


Owner = tuple[str, str, datetime, datetime]  # resource, account, from, to


@dataclass(frozen=True)
class Event:
    """A billed event: the value stands in `quantity`, the text of a unique count in `data`."""

    event_at: datetime
    value: Decimal = Decimal(1)
    user: str = "ana"
    region: str = "eu"
    account_id: str | None = "acct-1"  # none: nobody owned the resource
    received_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    source: str = "s"
    id: str = "a"
    resource: str = ""

    def row(self) -> tuple[Any, ...]:
        data = f'{{"region":"{self.region}","user":"{self.user}"}}'
        subject = self.resource or self.account_id
        key = (
            self.source,
            self.id,
            key_hash(self.source, self.id),
            self.account_id,
            "used",
            subject,
            self.event_at,
            self.received_at,
        )
        return (*key, self.value, data, "usage/a@1", 1, False)


@dataclass(frozen=True)
class Counted:
    """Rows of `usage`, of `usage_values` and of `usage_levels`."""

    usage: list[tuple[Any, ...]]
    values: list[tuple[Any, ...]]
    levels: list[tuple[Any, ...]]

    def take_in(self, other: Counted) -> None:
        self.usage.extend(other.usage)
        self.values.extend(other.values)
        self.levels.extend(other.levels)

    def make_tables(self, warehouse: Warehouse) -> None:
        warehouse.table_rows("usage", USAGE.columns, self.usage)
        warehouse.table_rows("usage_values", USAGE_VALUES.columns, self.values)
        warehouse.table_rows("usage_levels", USAGE_LEVELS.columns, self.levels)


def usage_of_window(
    warehouse: Warehouse,
    meters: Sequence[Meter],
    events: Sequence[Event],
    grain: timedelta,
    owners: Sequence[Owner] = (),
) -> Counted:
    """Return the rows of usage, of its values and of its levels, as the step aggregate makes them."""
    table_meters(warehouse, meters)
    warehouse.table_rows("account_references", ACCOUNT_REFERENCE_COLUMNS, owners)
    warehouse.table_rows("metered_events", USAGE_EVENTS.columns, [event.row() for event in events])
    warehouse.view("event_quantities", {})
    warehouse.build("usage_values", {"grain": grain})
    warehouse.build("usage_levels", {"grain": grain})
    usage = warehouse.select("usage", {"grain": grain})
    values, levels = (
        [tuple(row.values()) for row in warehouse.connection.table(name).to_arrow_table().to_pylist()]
        for name in ("usage_values", "usage_levels")
    )
    return Counted([tuple(row.values()) for row in usage], values, levels)


def sharded_usage_of_window(
    warehouse: Warehouse, meters: Sequence[Meter], events: Sequence[Event], grain: timedelta, shards: int
) -> Counted:
    """Return the same from events that are shared out: by key, or by account where all of these meters are levels."""
    counted = Counted([], [], [])
    for number in range(shards):
        counted.take_in(
            usage_of_window(
                warehouse, meters, [event for event in events if _shard(meters, event, shards) == number], grain
            )
        )
    counted.make_tables(warehouse)
    merged = warehouse.select("merged_usage", {})
    counts: Counter[tuple[Any, ...]] = Counter()
    for *key, count in counted.values:
        counts[tuple(key)] += count
    return Counted(
        [tuple(row.values()) for row in merged],
        [(*key, count) for key, count in sorted(counts.items())],
        sorted(counted.levels),
    )


def _shard(meters: Sequence[Meter], event: Event, shards: int) -> int:
    are_levels = {meter.aggregation in LEVELS for meter in meters} == {True}
    key = event.resource or str(event.account_id) if are_levels else f"{event.source}/{event.id}"
    return sha256(key.encode()).digest()[0] % shards


def period_quantities(
    folder: Path,
    meters: Sequence[Meter],
    events: Sequence[Event],
    windows: Sequence[BillingWindow],
    grain: timedelta,
    periods: Mapping[str, BillingPeriod],
    owners: Sequence[Owner] = (),
) -> dict[str, dict[str, Decimal]]:
    """Return, by SKU, the quantity of each account in its period, from usage that was counted window by window."""
    counted, earlier = Counted([], [], []), Counted([], [], [])
    start = min(period.start for period in periods.values())
    with Warehouse(folder, threads=1) as warehouse:
        for window in windows:
            of_window = [event for event in events if window.start <= event.event_at < window.end]
            if not of_window:
                continue  # makes no row, see tests/sql/cases/usage/no_event_makes_no_row.yaml
            rows = usage_of_window(warehouse, meters, of_window, grain, owners)
            (earlier if window.end <= start else counted).take_in(rows)
        counted.make_tables(warehouse)
        warehouse.table_rows("earlier_levels", USAGE_LEVELS.columns, earlier.levels)
        table_billed_meters(warehouse, billed_meters([meters]))
        bounds = [(name, period.start, period.end, period.end) for name, period in periods.items()]
        warehouse.table_rows("account_references", ACCOUNT_REFERENCE_COLUMNS, owners)
        warehouse.table_rows("meter_changes", METER_CHANGES, [])
        warehouse.table_rows("account_periods", ACCOUNT_PERIODS, bounds)
        found: dict[str, dict[str, Decimal]] = {meter.sku: {} for meter in meters}
        for row in warehouse.select("period_usage", {}):
            found[row["sku"]][row["account_id"]] = row["quantity"]
        return found


# ---- the reference: from the definition, event by event ----


def reference_quantities(
    meter: Meter, events: Sequence[Event], periods: Mapping[str, BillingPeriod]
) -> dict[str, Decimal]:
    """Return what the definition of the aggregation says; an account without usage is not in it."""
    series: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.event_at, event.received_at, event.source, event.id)):
        if event.account_id is not None:
            series[event.account_id, event.region if meter.dimensions else ""].append(event)
    parts: defaultdict[str, list[Fraction]] = defaultdict(list)
    for (account_id, _), of_series in series.items():
        quantity = _of_series(meter, of_series, periods[account_id])
        if quantity is not None:
            parts[account_id].append(quantity / meter.divisor)
    if meter.aggregation is Aggregation.AVERAGE:
        return {name: sum((_rounded(part) for part in of), Decimal(0)) for name, of in parts.items()}
    return {name: _rounded(sum(of, Fraction(0))) for name, of in parts.items()}


def reference_of_moving_resources(
    meter: Meter, events: Sequence[Event], periods: Mapping[str, BillingPeriod], owners: Sequence[Owner]
) -> dict[str, Decimal]:
    """Return the levels of resources that change hands, looked at in each stretch in which nothing happens."""
    parts: defaultdict[str, Fraction] = defaultdict(Fraction)
    seen: set[str] = set()
    by_resource: defaultdict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.event_at, event.received_at, event.source, event.id)):
        by_resource[event.resource].append(event)
    for resource, of_resource in by_resource.items():
        marks = {event.event_at for event in of_resource}
        marks |= {mark for name, _, *span in owners if name == resource for mark in span}
        marks |= {mark for period in periods.values() for mark in (period.start, period.end)}
        last_of: dict[str, Fraction] = {}
        for start, end in pairwise(sorted(marks)):
            level = next((event for event in reversed(of_resource) if event.event_at <= start), None)
            if level is None:
                continue
            holder = owner_of(resource, start, owners)
            if holder is None and owner_of(resource, level.event_at, owners) is None:
                holder = level.account_id
            for account_id, period in periods.items():
                if not period.start <= start < period.end:
                    continue
                if meter.aggregation is Aggregation.TIME_WEIGHTED_SUM and holder == account_id:
                    parts[account_id] += Fraction(level.value) * ((end - start) // MICROSECOND)
                elif meter.aggregation is Aggregation.LATEST and holder is not None:
                    last_of.pop(account_id, None)
                    if holder == account_id and level.event_at >= period.start:
                        last_of[account_id] = Fraction(level.value)
        for account_id, value in last_of.items():
            parts[account_id] += value
            seen.add(account_id)
        if meter.aggregation is Aggregation.TIME_WEIGHTED_SUM:
            billed = [(event.account_id, event.event_at) for event in of_resource if event.account_id is not None]
            seen |= {account_id for account_id, event_at in billed if _is_in(event_at, periods[account_id])}
    return {name: _rounded(part / meter.divisor) for name, part in parts.items() if part or name in seen}


def owner_of(resource: str, at: datetime, owners: Sequence[Owner]) -> str | None:
    """Return the account that owns a resource at an instant."""
    return next((account for name, account, start, end in owners if name == resource and start <= at < end), None)


def _is_in(at: datetime, period: BillingPeriod) -> bool:
    return period.start <= at < period.end


def _of_series(meter: Meter, events: Sequence[Event], period: BillingPeriod) -> Fraction | None:
    inside = [event for event in events if period.start <= event.event_at < period.end]
    values = [Fraction(event.value) for event in inside]
    if meter.aggregation is Aggregation.TIME_WEIGHTED_SUM:
        return _level_time(events, bool(inside), period)
    if not inside:
        return None
    by_aggregation: dict[Aggregation, Callable[[], Fraction]] = {
        Aggregation.COUNT: lambda: Fraction(len(inside)),
        Aggregation.SUM: lambda: sum(values, Fraction(0)),
        Aggregation.MAX: lambda: max(values),
        Aggregation.MIN: lambda: min(values),
        Aggregation.AVERAGE: lambda: sum(values, Fraction(0)) / len(values),
        Aggregation.UNIQUE_COUNT: lambda: Fraction(len({event.user for event in inside})),
        Aggregation.LATEST: lambda: values[-1],
        Aggregation.PERCENTILE: lambda: sorted(values, reverse=True)[
            len(values) * (100 - (meter.percentile or 0)) // 100
        ],
        Aggregation.SUM_OF_MAXIMA: lambda: _bucket_maxima(meter, inside),
    }
    return by_aggregation[meter.aggregation]()


def _bucket_maxima(meter: Meter, inside: Sequence[Event]) -> Fraction:
    buckets: defaultdict[int, list[Fraction]] = defaultdict(list)
    for event in inside:
        buckets[(event.event_at - EPOCH) // (meter.bucket or MICROSECOND)].append(Fraction(event.value))
    return sum((max(values) for values in buckets.values()), Fraction(0))


def _level_time(events: Sequence[Event], has_events: bool, period: BillingPeriod) -> Fraction | None:
    total = Fraction(0)
    for event, following in zip(events, [*events[1:], None], strict=True):
        until = period.end if following is None else min(following.event_at, period.end)
        span = until - max(event.event_at, period.start)
        if span > timedelta(0):
            total += Fraction(event.value) * (span // MICROSECOND)
    return total if has_events or total else None


def _rounded(number: Fraction) -> Decimal:
    billionths, rest = divmod(abs(number.numerator) * 10**9, number.denominator)
    billionths += 2 * rest >= number.denominator
    return (Decimal(billionths).scaleb(-9)) * (-1 if number < 0 else 1)
