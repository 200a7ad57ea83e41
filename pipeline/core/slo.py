"""What a project expects of a usual night (`[slo]` in billing.toml), and which earlier windows it is compared with.

Nothing here stops a night: a rate beyond its objective, an unusual volume, a spike or a silence is a warning. The
suites in expectations/ say them; a project that wants one to stop the night adds it to its own suite as critical.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.decimals import Percent, Quantity
from pipeline.core.window import BillingWindow

ONE_WEEK = timedelta(days=7)

_Share = Annotated[Percent, Field(ge=0, le=100)]
_OfUsual = Annotated[Percent, Field(ge=0)]


class SloSettings(StrictModel):
    """Objectives of a night. Shares are percent of the window's raw events; of quarantine, of the night's lines.

    A window is compared with those of the same weekday (and hour) in the last ``history_weeks``; with fewer than
    ``history_weeks_min`` of them accepted there is nothing to compare with. Of an account only usage of at least
    ``account_events_min`` events is judged, because a small account may double without meaning.
    """

    duplicate_percent_max: _Share = Decimal(5)
    late_percent_max: _Share = Decimal(1)
    orphan_percent_max: _Share = Decimal("0.1")
    quarantine_percent_max: _Share = Decimal("0.1")
    history_weeks: Annotated[int, Field(ge=1, le=12)] = 4
    history_weeks_min: Annotated[int, Field(ge=1, le=12)] = 2
    volume_percent_min: _OfUsual = Decimal(50)
    volume_percent_max: _OfUsual = Decimal(200)
    account_spike_factor: Annotated[Quantity, Field(gt=1, le=1_000_000)] = Decimal(10)
    account_events_min: Annotated[int, Field(ge=1)] = 1_000

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.history_weeks_min > self.history_weeks:
            raise ValueError("history_weeks_min must not be more than history_weeks")
        if self.volume_percent_min > self.volume_percent_max:
            raise ValueError("volume_percent_min must not be more than volume_percent_max")
        return self

    def percents(self) -> list[tuple[str, Decimal]]:
        """Return the limits of rates and of the volume by name, in order."""
        return [(name, value) for name, value in sorted(self.model_dump().items()) if "_percent_" in name]


def same_weekday_windows(window: BillingWindow, weeks: int) -> list[BillingWindow]:
    """Return the windows at the same time of the same weekday in the weeks before, the earliest first.

    >>> from datetime import UTC, datetime
    >>> start = datetime(2026, 1, 15, tzinfo=UTC)
    >>> [w.window_id for w in same_weekday_windows(BillingWindow(start, start + timedelta(days=1)), 2)]
    ['2026-01-01', '2026-01-08']
    """
    return [
        BillingWindow(window.start - number * ONE_WEEK, window.end - number * ONE_WEEK)
        for number in range(weeks, 0, -1)
    ]


def too_little_history(settings: SloSettings, found: Sequence[object]) -> str:
    """Say why a window cannot be compared with earlier ones; the empty text when it can.

    >>> too_little_history(SloSettings(), ["2026-01-08"])
    'not enough history: 1 of at least 2 earlier windows of the weekday is accepted'
    >>> too_little_history(SloSettings(), ["2026-01-01", "2026-01-08"])
    ''
    """
    if len(found) >= settings.history_weeks_min:
        return ""
    verb = "is" if len(found) == 1 else "are"
    return (
        f"not enough history: {len(found)} of at least {settings.history_weeks_min} earlier windows of the weekday "
        f"{verb} accepted"
    )
