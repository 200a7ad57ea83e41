"""Meters: how events become the quantity of one SKU.

Meters are bound when a window is computed, not when an event is collected, so a wrong meter is mended by a
new revision from the same raw events. One event may feed several meters.

A *series* is one account, SKU and dimensions, of a level also one resource (the subject of its events). Each series
is aggregated over the billing period by itself; the quantity of an account is the sum of its series.
docs/metering.md has each aggregation with worked numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.duration import Duration

ONE_MICROSECOND = timedelta(microseconds=1)


class Aggregation(StrEnum):
    """How the values of many events become one quantity; ``AGGREGATION_RULES`` says the rest."""

    SUM = "sum"
    COUNT = "count"
    MAX = "max"
    MIN = "min"
    AVERAGE = "average"
    UNIQUE_COUNT = "unique_count"
    LATEST = "latest"
    TIME_WEIGHTED_SUM = "time_weighted_sum"
    PERCENTILE = "percentile"
    SUM_OF_MAXIMA = "sum_of_maxima"


LEVELS = (Aggregation.LATEST, Aggregation.TIME_WEIGHTED_SUM)  # each resource has a level, which goes with it
VALUES = (Aggregation.UNIQUE_COUNT, Aggregation.PERCENTILE)  # only the values themselves merge into a longer time


@dataclass(frozen=True, slots=True)
class AggregationRule:
    """What an aggregation is over no event, and what it needs.

    ``empty``: the quantity of a series without an event; null bills nothing and makes no line. ``neutral``: the state
    of ``usage`` that changes nothing when it is merged in. ``reads``: what `value` names. ``key``: the key of the
    meter that belongs to this aggregation alone.
    """

    empty: Decimal | None
    neutral: str
    reads: Literal["nothing", "a number", "a text"] = "a number"
    key: Literal["per", "percentile", "bucket"] | None = None


AGGREGATION_RULES: Mapping[Aggregation, AggregationRule] = {
    Aggregation.COUNT: AggregationRule(Decimal(0), "0", reads="nothing"),
    Aggregation.SUM: AggregationRule(Decimal(0), "0"),
    Aggregation.MAX: AggregationRule(None, "null"),
    Aggregation.MIN: AggregationRule(None, "null"),
    Aggregation.AVERAGE: AggregationRule(None, "sum 0 of 0 events"),
    Aggregation.UNIQUE_COUNT: AggregationRule(Decimal(0), "no value", reads="a text"),
    Aggregation.LATEST: AggregationRule(None, "null"),
    Aggregation.TIME_WEIGHTED_SUM: AggregationRule(Decimal(0), "no change of the level", key="per"),
    Aggregation.PERCENTILE: AggregationRule(None, "no sample", key="percentile"),
    Aggregation.SUM_OF_MAXIMA: AggregationRule(Decimal(0), "no bucket", key="bucket"),
}

TIME_UNITS: Mapping[str, timedelta] = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}

# How many bytes a unit is: base 10 with SI prefixes, base 2 with IEC prefixes.
BYTES_OF: Mapping[str, int] = {
    **{name: 1000**power for power, name in enumerate(("kB", "MB", "GB", "TB", "PB"), start=1)},
    **{name: 1024**power for power, name in enumerate(("KiB", "MiB", "GiB", "TiB", "PiB"), start=1)},
}


class BillingUnit(StrictModel):
    """The unit that is priced: ``size`` of the meter's ``unit`` make one of it."""

    name: Annotated[str, Field(min_length=1)]
    size: Annotated[int, Field(ge=1, le=10**18, strict=True)]


class Meter(StrictModel):
    """Counts events of one type (and filter) into the quantity of one SKU.

    ``value`` is ``quantity`` (the typed column) or ``data.<path>``; a count needs none, a unique count takes the text
    at a path. ``keep_values`` keeps the value of each event, for a price that depends on it. ``filter`` maps paths of
    ``data`` to the text they must equal. ``unit`` is what the values are in; ``billing_unit`` is what is priced,
    converted once, on the quantity of the period.
    """

    sku: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    event_type: Annotated[str, Field(min_length=1)]
    aggregation: Aggregation
    value: Annotated[str, Field(pattern=r"^(quantity|data\.[A-Za-z0-9_.]+)$")] | None = None
    per: Literal["second", "minute", "hour", "day"] | None = None
    percentile: Annotated[int, Field(ge=1, le=99, strict=True)] | None = None
    bucket: Duration | None = None
    unit: Annotated[str, Field(min_length=1)]
    billing_unit: Annotated[str, Field(min_length=1)] | BillingUnit | None = None
    filter: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")], str] = Field(default_factory=dict)
    dimensions: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")], ...] = ()
    keep_values: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _value_fits_aggregation(self) -> Self:
        name, reads = self.aggregation.value, AGGREGATION_RULES[self.aggregation].reads
        if reads == "nothing" and self.value is not None:
            raise ValueError(f'value: found {self.value!r}, accepted none: aggregation = "{name}" counts events')
        if reads == "a number" and self.value is None:
            raise ValueError(f'value: found none, accepted "quantity" or "data.<path>" for aggregation = "{name}"')
        if reads == "a text" and (self.value is None or self.value == "quantity"):
            raise ValueError(f'value: found {self.value or "none"}, accepted "data.<path>" for aggregation = "{name}"')
        return self

    @model_validator(mode="after")
    def _keys_of_aggregation(self) -> Self:
        own = AGGREGATION_RULES[self.aggregation].key
        if self.bucket is not None and self.bucket < timedelta(minutes=1):
            raise ValueError("bucket: found less than 1m, accepted a whole multiple of the grain (window.grain)")
        for aggregation, rule in AGGREGATION_RULES.items():
            if rule.key is None or (rule.key == own) == (getattr(self, rule.key) is not None):
                continue
            if rule.key == own:
                raise ValueError(f'{own}: found none, aggregation = "{self.aggregation.value}" needs it')
            raise ValueError(
                f'{rule.key}: accepted for aggregation = "{aggregation.value}" only, '
                f'found aggregation = "{self.aggregation.value}"'
            )
        return self

    @model_validator(mode="after")
    def _known_billing_unit(self) -> Self:
        if isinstance(self.billing_unit, str):
            own_size = '{ name = "...", size = <how many of unit> }'
            if self.unit != "bytes":
                raise ValueError(
                    f"billing_unit: found {self.billing_unit!r}, accepted {own_size} for unit = {self.unit!r}; "
                    'names alone are known for unit = "bytes"'
                )
            if self.billing_unit not in BYTES_OF:
                raise ValueError(
                    f"billing_unit: found {self.billing_unit!r}, accepted {', '.join(BYTES_OF)} or {own_size}"
                )
        return self

    @model_validator(mode="after")
    def _values_that_can_be_kept(self) -> Self:
        if self.keep_values and self.aggregation not in (Aggregation.SUM, Aggregation.COUNT):
            raise ValueError(
                f'keep_values: accepted for aggregation = "sum" and "count" only, '
                f'found aggregation = "{self.aggregation.value}"'
            )
        if self.keep_values and f"{self.divisor}".strip("0") != "1":
            raise ValueError(
                f"keep_values: the billing unit is {self.divisor} {self.unit}, accepted a power of ten: "
                "each value has to be exact in the billing unit"
            )
        return self

    @property
    def has_values(self) -> bool:
        """Tell whether ``usage_values`` holds the values of its events, and not only what they come to."""
        return self.keep_values or self.aggregation in VALUES

    @property
    def billed_unit(self) -> str:
        """Return the unit of the quantity that is priced; a level times time is in ``<unit>-<per>s``.

        >>> Meter(sku="disk", event_type="disk.resized", aggregation="time_weighted_sum", value="data.size",
        ...       unit="bytes", billing_unit="GiB", per="hour").billed_unit
        'GiB-hours'
        """
        unit = self.unit
        if self.billing_unit is not None:
            unit = self.billing_unit if isinstance(self.billing_unit, str) else self.billing_unit.name
        return unit if self.per is None else f"{unit}-{self.per}s"

    @property
    def divisor(self) -> int:
        """Return what the quantity of a period is divided by, exactly, to be in the billed unit.

        The quantity of a level times time is in ``unit`` times microseconds before.

        >>> Meter(sku="egress", event_type="egress", aggregation="sum", value="quantity", unit="bytes",
        ...       billing_unit="GB").divisor
        1000000000
        """
        size = 1
        if self.billing_unit is not None:
            size = BYTES_OF[self.billing_unit] if isinstance(self.billing_unit, str) else self.billing_unit.size
        return size if self.per is None else size * (TIME_UNITS[self.per] // ONE_MICROSECOND)


class MeterFile(StrictModel):
    """The file ``meters.toml``: every meter of the project; one meter per SKU."""

    meters: Annotated[tuple[Meter, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_meter_per_sku(self) -> Self:
        seen: set[str] = set()
        for meter in self.meters:
            if meter.sku in seen:
                raise ValueError(f"SKU {meter.sku!r} has two meters; one SKU has one meter")
            seen.add(meter.sku)
        return self


@dataclass(frozen=True, slots=True)
class BilledMeter:
    """What turns the usage of a SKU into the quantity of a period; the fields are those of ``billed_meters``, in order.

    A row of usage finds its own by ``sku``, ``aggregation`` and ``unit``.
    """

    sku: str
    aggregation: str
    unit: str
    billed_unit: str
    divisor: int
    percentile: int | None
    bucket_seconds: int | None


def billed_meters(meters_of_revisions: Iterable[Iterable[Meter]]) -> list[BilledMeter]:
    """Return how the usage of revisions, oldest first, is billed; the newest meter holds for the whole period.

    A SKU whose aggregation or unit changed has an entry for each of them.
    """
    newest = {
        (meter.sku, meter.aggregation.value, meter.unit): BilledMeter(
            meter.sku,
            meter.aggregation.value,
            meter.unit,
            meter.billed_unit,
            meter.divisor,
            meter.percentile,
            None if meter.bucket is None else meter.bucket // timedelta(seconds=1),
        )
        for meters in meters_of_revisions
        for meter in meters
    }
    return [newest[key] for key in sorted(newest)]


def meter_changes(windows: Sequence[tuple[datetime, Iterable[Meter]]]) -> list[tuple[str, datetime]]:
    """Return each SKU of levels with each start of a window that measures it otherwise than the window before.

    ``windows`` are starts in order, with the meters they were counted with. What is priced may change; what is measured
    (event type, value, filter, dimensions, aggregation, unit) makes levels that do not go on in one another.
    """
    changes = []
    before: dict[str, tuple[object, ...]] | None = None
    for start, meters in windows:
        measured: dict[str, tuple[object, ...]] = {
            meter.sku: (meter.event_type, meter.value, meter.filter, meter.dimensions, meter.aggregation, meter.unit)
            for meter in meters
            if meter.aggregation in LEVELS
        }
        if before is not None:
            skus = sorted(before.keys() | measured.keys())
            changes += [(sku, start) for sku in skus if before.get(sku) != measured.get(sku)]
        before = measured
    return changes
