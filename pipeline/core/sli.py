"""Service levels: how well billing works, each indicator counted as *good* out of *total*, with a target.

What the target leaves is the *error budget*: at 99 percent, one bad event in a hundred over the rolling period. The
*burn rate* is how many times faster than evenly the budget is spent: at 1 it lasts exactly the rolling period, at 10 a
month's budget is gone in three days. An alert looks at two spans, so that it comes only when much of the budget is
spent and it is being spent now. An indicator that every night measures anew over a long time (``is_standing``) is not
added up over nights: the newest measurement is its history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from pipeline.core.contract import StrictModel
from pipeline.core.decimals import Percent
from pipeline.core.duration import Duration

BURN_DAYS = (1, 3, 7)  # the spans whose burn rate is told, beside the rolling period
UNBOUNDED = Decimal("Infinity")  # the burn rate of an error where the target leaves none
_SHOWN = Decimal("0.0001")


class Indicator(StrEnum):
    """What is measured; ``INDICATORS`` says what is good and what is counted."""

    INGESTION_LATENCY = "ingestion_latency"
    EVENTS_PER_WINDOW = "events_per_window"
    DUPLICATE_RATE = "duplicate_rate"
    MISSING_EVENT_RATE = "missing_event_rate"
    LATE_RATE = "late_rate"
    ACCOUNT_MAPPING = "account_mapping"
    AGGREGATION_ACCURACY = "aggregation_accuracy"
    RECONCILIATION = "reconciliation"
    PIPELINE_AVAILABILITY = "pipeline_availability"
    AUDIT_TRAIL = "audit_trail"
    EXPORT_SUCCESS = "export_success"
    INVOICES_ON_TIME = "invoices_on_time"
    DISPUTE_RATE = "dispute_rate"
    ESTIMATE_ACCURACY = "estimate_accuracy"
    COST_TO_COLLECT = "cost_to_collect"


@dataclass(frozen=True, slots=True)
class IndicatorText:
    """The words of an indicator for people, and whether each night measures it anew over a long time."""

    title: str
    counted: str
    good: str
    is_standing: bool = False


INDICATORS: Mapping[Indicator, IndicatorText] = {
    Indicator.INGESTION_LATENCY: IndicatorText(
        "Ingestion latency", "events of the window", "received within the threshold after they were used"
    ),
    Indicator.EVENTS_PER_WINDOW: IndicatorText("Events per window", "windows", "with as many events as expected"),
    Indicator.DUPLICATE_RATE: IndicatorText("Duplicates", "events of the window", "no copy of another one"),
    Indicator.MISSING_EVENT_RATE: IndicatorText(
        "Missing events", "events that the producers' control files count", "collected"
    ),
    Indicator.LATE_RATE: IndicatorText("Late events", "events of the window", "received before the cutoff"),
    Indicator.ACCOUNT_MAPPING: IndicatorText("Account mapping", "events of the window", "owned by an account"),
    Indicator.AGGREGATION_ACCURACY: IndicatorText(
        "Aggregation accuracy", "rows of usage of the sampled accounts", "the same when counted again in Python"
    ),
    Indicator.RECONCILIATION: IndicatorText("Reconciliation", "controls of the window", "passed"),
    Indicator.PIPELINE_AVAILABILITY: IndicatorText("Pipeline availability", "windows", "accepted by the deadline"),
    Indicator.AUDIT_TRAIL: IndicatorText(
        "Audit trail", "publications, decisions and documents", "with an entry in the verified log", is_standing=True
    ),
    Indicator.EXPORT_SUCCESS: IndicatorText(
        "Document files", "files of the newest final period's documents", "there", is_standing=True
    ),
    Indicator.INVOICES_ON_TIME: IndicatorText(
        "Invoices on time", "invoices of the newest period that is due", "issued by the deadline", is_standing=True
    ),
    Indicator.DISPUTE_RATE: IndicatorText(
        "Disputed invoices", "invoices of the last periods", "neither void nor credited", is_standing=True
    ),
    Indicator.ESTIMATE_ACCURACY: IndicatorText(
        "Estimate accuracy",
        "accounts of the newest final period with an estimate in its middle",
        "estimated within the threshold",
        is_standing=True,
    ),
    Indicator.COST_TO_COLLECT: IndicatorText(
        "Cost to collect", "collections large enough to tell", "within the CPU time per million events"
    ),
}


class Objective(StrictModel):
    """The target of one indicator: which percentage has to be good. A hundred leaves no budget for any error."""

    target_percent: Annotated[Percent, Field(gt=0, le=100)]


class LatencyObjective(Objective):
    threshold: Duration = timedelta(hours=1)


class EventsObjective(Objective):
    """``events_min``: a window with fewer is bad."""

    events_min: Annotated[int, Field(ge=0)] = 1


class AvailabilityObjective(Objective):
    """``deadline``: how long after its cutoff a window has to be accepted."""

    deadline: Duration = timedelta(hours=6)


class InvoicesObjective(Objective):
    """``deadline``: how long after the end of the period (UTC) its invoices have to be issued."""

    deadline: Duration = timedelta(days=5)


class EstimateObjective(Objective):
    """``within_percent``: how far from what was invoiced an estimate may be."""

    within_percent: Annotated[Percent, Field(gt=0, le=100)] = Decimal(10)


class AccuracyObjective(Objective):
    """``accounts``: how many accounts of each window are counted again."""

    accounts: Annotated[int, Field(ge=0, le=1000)] = 3


class CostObjective(Objective):
    """``cpu_seconds_max`` per million events; collections of fewer than ``events_min`` events tell nothing."""

    cpu_seconds_max: Annotated[Percent, Field(gt=0)] = Decimal(60)
    events_min: Annotated[int, Field(ge=1)] = 100_000


def _percent(text: str) -> dict[str, Decimal]:
    return {"target_percent": Decimal(text)}


class ServiceLevelSettings(StrictModel):
    """The table ``[sli]`` of ``billing.toml``: the rolling period, and a table with the target of each indicator."""

    rolling_days: Annotated[int, Field(ge=7, le=366)] = 30
    ingestion_latency: LatencyObjective = LatencyObjective(**_percent("95"))
    events_per_window: EventsObjective = EventsObjective(**_percent("99"))
    duplicate_rate: Objective = Objective(**_percent("97"))
    missing_event_rate: Objective = Objective(**_percent("99.9"))
    late_rate: Objective = Objective(**_percent("99"))
    account_mapping: Objective = Objective(**_percent("99.9"))
    aggregation_accuracy: AccuracyObjective = AccuracyObjective(**_percent("100"))
    reconciliation: Objective = Objective(**_percent("99.9"))
    pipeline_availability: AvailabilityObjective = AvailabilityObjective(**_percent("95"))
    audit_trail: Objective = Objective(**_percent("100"))
    export_success: Objective = Objective(**_percent("99.9"))
    invoices_on_time: InvoicesObjective = InvoicesObjective(**_percent("99"))
    dispute_rate: Objective = Objective(**_percent("99"))
    estimate_accuracy: EstimateObjective = EstimateObjective(**_percent("80"))
    cost_to_collect: CostObjective = CostObjective(**_percent("95"))

    def target_percent(self, indicator: Indicator) -> Decimal:
        """Return the target of an indicator."""
        objective: Objective = getattr(self, indicator.value)
        return objective.target_percent


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one night measured. ``total_count`` 0: there was nothing to measure, and ``note`` says why.

    ``figures`` are shown beside, by a name that ends in its unit (``p95_seconds``).
    """

    indicator: Indicator
    good_count: int
    total_count: int
    figures: Mapping[str, Decimal] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.good_count <= self.total_count:
            raise ValueError(f"{self.indicator}: {self.good_count} of {self.total_count} are good")

    @property
    def bad_count(self) -> int:
        return self.total_count - self.good_count

    @property
    def good_percent(self) -> Decimal | None:
        """Return the share that is good, rounded for people; None if nothing was measured."""
        return _ratio(100 * self.good_count, Decimal(self.total_count)) if self.total_count else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "figures": {name: f"{figure:f}" for name, figure in self.figures.items()}}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Measurement:
        figures = {name: Decimal(figure) for name, figure in fields["figures"].items()}
        return cls(Indicator(fields["indicator"]), fields["good_count"], fields["total_count"], figures, fields["note"])


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """What was measured of one window, which ended at ``window_end``."""

    window_end: datetime
    measurements: Mapping[Indicator, Measurement]


class Burn(StrEnum):
    """How fast an error budget is spent. Fast: people are woken. Slow: a ticket."""

    NONE = "none"
    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """One indicator on one night: measured, compared with its target, with what is left of the error budget.

    ``is_met`` is about the measurement alone, and None if there is none. ``budget_left_percent`` is below zero when
    more was bad than the target allows over the rolling period. ``burn_rates`` are by days, the rolling period last.
    """

    measurement: Measurement
    target_percent: Decimal
    is_met: bool | None
    budget_left_percent: Decimal | None
    burn_rates: Mapping[int, Decimal]
    burn: Burn

    @property
    def indicator(self) -> Indicator:
        return self.measurement.indicator

    @property
    def title(self) -> str:
        return INDICATORS[self.indicator].title

    @property
    def sentence(self) -> str:
        """Say what was counted and what of it is good.

        >>> measured = MeasuredWindow(datetime.max, {Indicator.LATE_RATE: Measurement(Indicator.LATE_RATE, 98, 100)})
        >>> service_levels(measured, [], ServiceLevelSettings())[0].sentence
        '98 of 100 events of the window received before the cutoff (98 percent, target 99)'
        """
        measured, text = self.measurement, INDICATORS[self.indicator]
        if measured.good_percent is None:
            return f"not measured: {measured.note}"
        shown, target = (f"{number.normalize():f}" for number in (measured.good_percent, self.target_percent))
        return (
            f"{measured.good_count:,} of {measured.total_count:,} {text.counted} {text.good} "
            f"({shown} percent, target {target})"
        )

    def to_json(self) -> dict[str, Any]:
        budget = self.budget_left_percent
        return {
            **self.measurement.to_json(),
            "target_percent": f"{self.target_percent:f}",
            "is_met": self.is_met,
            "budget_left_percent": None if budget is None else f"{budget:f}",
            "burn_rates": {str(days): f"{rate:f}" for days, rate in self.burn_rates.items()},
            "burn": self.burn.value,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ServiceLevel:
        budget = fields["budget_left_percent"]
        return cls(
            Measurement.from_json(fields),
            Decimal(fields["target_percent"]),
            fields["is_met"],
            None if budget is None else Decimal(budget),
            {int(days): Decimal(rate) for days, rate in sorted(fields["burn_rates"].items(), key=lambda r: int(r[0]))},
            Burn(fields["burn"]),
        )


# Of a rolling period of thirty days: ten times is the whole budget in three days, twice is all of it in fifteen.
FAST_BURN = (Decimal(10), (1, 3))
SLOW_BURN = (Decimal(2), (1, 7))


def service_levels(
    measured: MeasuredWindow, earlier: Sequence[MeasuredWindow], settings: ServiceLevelSettings
) -> tuple[ServiceLevel, ...]:
    """Return the service levels of a window that was just measured; ``earlier`` are others, in any order.

    A day counts the windows that ended in it. A night that was not measured counts for nothing.
    """
    return tuple(_level(one, measured, earlier, settings) for one in measured.measurements.values())


def _level(
    one: Measurement, measured: MeasuredWindow, earlier: Sequence[MeasuredWindow], settings: ServiceLevelSettings
) -> ServiceLevel:
    target = settings.target_percent(one.indicator)
    counts = {
        days: _counts(one, measured.window_end, earlier, timedelta(days=days))
        for days in (*BURN_DAYS, settings.rolling_days)
    }
    rates = {days: _burn_rate(bad, total, target) for days, (bad, total) in counts.items()}
    bad, total = counts[settings.rolling_days]
    burn = Burn.NONE
    for threshold, spans, found in ((*SLOW_BURN, Burn.SLOW), (*FAST_BURN, Burn.FAST)):
        if all(rates[days] >= threshold for days in spans):
            burn = found
    is_met = 100 * one.good_count >= target * one.total_count if one.total_count else None
    return ServiceLevel(one, target, is_met, _budget_left(bad, total, target) if total else None, rates, burn)


def _counts(
    one: Measurement, window_end: datetime, earlier: Sequence[MeasuredWindow], span: timedelta
) -> tuple[int, int]:
    """Return how many were bad and how many there were in the span that ends with the measured window."""
    bad, total = one.bad_count, one.total_count
    if INDICATORS[one.indicator].is_standing:
        return bad, total
    for window in earlier:
        known = window.measurements.get(one.indicator)
        if known is not None and window.window_end < window_end < window.window_end + span:
            bad, total = bad + known.bad_count, total + known.total_count
    return bad, total


def _burn_rate(bad: int, total: int, target: Decimal) -> Decimal:
    if not bad:
        return Decimal(0)
    allowed = (100 - target) * total
    return _ratio(100 * bad, allowed) if allowed else UNBOUNDED


def _budget_left(bad: int, total: int, target: Decimal) -> Decimal:
    """Return what is left of the budget in percent of it; without any budget, one error is all of it."""
    allowed = (100 - target) * total
    if not allowed:
        return Decimal(-100) if bad else Decimal(100)
    return _ratio(100 * (allowed - 100 * bad), allowed)


def _ratio(part: int | Decimal, whole: Decimal) -> Decimal:
    """Return a ratio for people, rounded: nothing is billed by it."""
    with localcontext() as context:
        context.prec = 60
        return (Decimal(part) / whole).quantize(_SHOWN, ROUND_HALF_UP)
