"""Windows, periods, grains: every meaning that time has in this project.

*Event time* (``event_at``): when the customer used it; decides the window. *Receipt time*
(``received_at``): when the bucket got the file; decides lateness and nothing else.
*Billing window*: the span one nightly run counts, in UTC. *Cutoff*: ``window_end + grace_period``; an
event received at or after it is late. *Billing period*: what one invoice covers, a calendar month in
the account's time zone, made of whole *grains*. *Watermark*: up to when collection is shown to be
complete; a fact, where the cutoff is a policy.

Every interval is half-open, ``[start, end)``; every instant is an aware datetime in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ONE_DAY = timedelta(days=1)


def require_utc(instant: datetime, name: str) -> datetime:
    """Return the instant in UTC; a naive one is refused because its zone would be a guess.

    >>> require_utc(datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo")), "window_start").isoformat()
    '2025-12-31T15:00:00+00:00'
    """
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise ValueError(f"{name} needs a time zone, got the naive {instant.isoformat()}")
    return instant.astimezone(UTC)


def calendar_date(value: object) -> date:
    """Return the calendar date of a TOML date or a text like ``2026-01-01``; an instant is refused, it is not a date.

    >>> calendar_date("2026-01-01")
    datetime.date(2026, 1, 1)
    """
    if isinstance(value, datetime) or not isinstance(value, date | str):
        raise ValueError("expected a calendar date such as 2026-01-01, without a time")
    return date.fromisoformat(value) if isinstance(value, str) else value


def iana_zone(name: str) -> str:
    """Return the name of an IANA time zone; any other is refused.

    >>> iana_zone("Europe/Berlin")
    'Europe/Berlin'
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not an IANA time zone such as Europe/Berlin") from None
    return name


@dataclass(frozen=True, slots=True, order=True)
class BillingWindow:
    """The half-open UTC span ``[start, end)`` that one nightly run counts."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", require_utc(self.start, "window start"))
        object.__setattr__(self, "end", require_utc(self.end, "window end"))
        if self.end <= self.start:
            raise ValueError(f"a window ends after it starts, got {self.start} to {self.end}")

    @property
    def window_id(self) -> str:
        """The name people use: ``2026-01-15`` for a whole UTC day, ``2026-01-15T06:00Z`` below a day.

        >>> BillingWindow(EPOCH, EPOCH + ONE_DAY).window_id
        '1970-01-01'
        """
        if self.end - self.start == ONE_DAY and self.start.time() == time.min:
            return self.start.strftime("%Y-%m-%d")
        return self.start.strftime("%Y-%m-%dT%H:%MZ")

    def cutoff_at(self, grace_period: timedelta) -> datetime:
        """Return the first instant at which a received event is late for this window."""
        return self.end + grace_period

    def event_dates(self) -> tuple[date, ...]:
        """Return each UTC date that holds an instant of the window; raw events are partitioned by it."""
        last = (self.end - timedelta(microseconds=1)).date()
        days = (last - self.start.date()).days
        return tuple(self.start.date() + timedelta(days=offset) for offset in range(days + 1))


def window_containing(instant: datetime, length: timedelta) -> BillingWindow:
    """Return the window of the given length that contains the instant; windows count from 1970-01-01 UTC.

    >>> window_containing(datetime(2026, 1, 15, 23, 59, tzinfo=UTC), ONE_DAY).window_id
    '2026-01-15'
    """
    start = EPOCH + ((require_utc(instant, "instant") - EPOCH) // length) * length
    return BillingWindow(start, start + length)


def is_collected(cutoff_at: datetime, watermark_at: datetime | None) -> bool:
    """Tell whether everything received before the cutoff has been collected.

    >>> cutoff_at = datetime(2026, 1, 16, 6, tzinfo=UTC)
    >>> is_collected(cutoff_at, cutoff_at), is_collected(cutoff_at, cutoff_at - timedelta(microseconds=1))
    (True, False)
    """
    return watermark_at is not None and watermark_at >= cutoff_at


def parse_window(text: str, length: timedelta) -> BillingWindow:
    """Return the window named ``2026-01-15`` or ``2026-01-15T06:00Z``; any other text raises ``ValueError``."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(Z|\+00:00))?", text):
        raise ValueError(f"a window is named like 2026-01-15 or 2026-01-15T06:00Z, got {text!r}")
    try:
        instant = datetime.fromisoformat(text)
        instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
        window = window_containing(instant, length)
    except (ValueError, OverflowError):
        raise ValueError(f"there is no such day or time: {text}") from None
    if "T" not in text and length < ONE_DAY:
        raise ValueError(f"windows are shorter than a day; the first one of {text} is named {window.window_id}")
    if window.start != instant:
        raise ValueError(f"no window starts at {text}; the one that it is in is named {window.window_id}")
    return window


def windows_between(start: datetime, end: datetime, length: timedelta) -> Iterator[BillingWindow]:
    """Yield, in order, each window that shares an instant with ``[start, end)``."""
    window = window_containing(start, length)
    while window.start < end:
        yield window
        window = BillingWindow(window.end, window.end + length)


@dataclass(frozen=True, slots=True, order=True)
class BillingPeriod:
    """One calendar month in one time zone: ``period_id`` such as ``2026-01`` and its UTC span."""

    period_id: str
    time_zone: str
    start: datetime
    end: datetime


def _month_start(year: int, month: int, zone: ZoneInfo) -> datetime:
    return datetime(year, month, 1, tzinfo=zone).astimezone(UTC)


def billing_period(period_id: str, time_zone: str) -> BillingPeriod:
    """Return the calendar month ``YYYY-MM`` as seen in a time zone.

    >>> billing_period("2026-01", "America/New_York").start.isoformat()
    '2026-01-01T05:00:00+00:00'
    """
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", period_id):
        raise ValueError(f"a billing period is named like 2026-01, got {period_id!r}")
    zone = ZoneInfo(time_zone)
    year, month = int(period_id[:4]), int(period_id[5:])
    next_year, next_month = (year, month + 1) if month < 12 else (year + 1, 1)
    start, end = _month_start(year, month, zone), _month_start(next_year, next_month, zone)
    return BillingPeriod(period_id, time_zone, start, end)


def next_period_id(period_id: str) -> str:
    """Return the calendar month after ``YYYY-MM``.

    >>> next_period_id("2026-12")
    '2027-01'
    """
    year, month = int(period_id[:4]), int(period_id[5:])
    return f"{year + (month == 12):04}-{month % 12 + 1:02}"


def period_containing(instant: datetime, time_zone: str) -> BillingPeriod:
    """Return the billing period that contains the instant in the given time zone."""
    return billing_period(require_utc(instant, "instant").astimezone(ZoneInfo(time_zone)).strftime("%Y-%m"), time_zone)


def grain_cuts_zone(grain: timedelta, period: BillingPeriod) -> bool:
    """Tell whether both bounds of the period fall on a grain, so that the period is made of whole grains.

    >>> grain_cuts_zone(timedelta(hours=1), billing_period("2026-01", "Asia/Kathmandu"))
    False
    >>> grain_cuts_zone(timedelta(minutes=15), billing_period("2026-01", "Asia/Kathmandu"))
    True
    """
    return all((bound - EPOCH) % grain == timedelta(0) for bound in (period.start, period.end))
