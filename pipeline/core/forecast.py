"""Forecast: from which days the rest of an account's period is projected, and how much of it is left.

Of what is summed up over time the rest of the period is expected to be like the days before it: like the mean of the
last whole days, seven at most; where each day of the week was there twice, like the last two of its own weekday.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pipeline.core.terms import calendar_days
from pipeline.core.window import BillingPeriod

Span = tuple[datetime, datetime]
DAY_PARTS = 1440  # what is left of a day is counted in so many parts of it, also on a day of 23 hours
DAYS_MAX = 7
DAYS_OF_A_WEEKDAY = 2
_NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True)
class BasisDay:
    """A whole day that the rest is projected from; ``group`` is its weekday (1 is Monday), or 0 for any."""

    number: int
    start: datetime
    end: datetime
    group: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """How the rest of a period is projected.

    ``parts_left`` are 1440ths of a day by segment and group; each group has ``group_days`` of the days. Without any
    day there is nothing to project from.
    """

    days: tuple[BasisDay, ...]
    group_days: int
    parts_left: Mapping[tuple[int, int], int]
    days_known: int
    day_count: int

    @property
    def is_possible(self) -> bool:
        """Tell whether nothing is left, or there is a day to project it from."""
        return bool(self.days) or not self.parts_left


def forecast_of(
    period: BillingPeriod, segments: Sequence[Span], stays: Iterable[Span], known: Iterable[Span]
) -> Forecast:
    """Return how the rest of a period is projected for an account that is there in ``stays``.

    ``segments`` are those of its terms, numbered from 1. ``known`` are the times whose usage is counted; a window that
    is missing between them is left, like the days to come.
    """
    stays, known = list(stays), list(known)
    days = calendar_days(period, zone := ZoneInfo(period.time_zone))
    whole: list[BasisDay] = []
    left: list[tuple[int, int, int]] = []  # segment, weekday, parts
    for number, day in enumerate(days, start=1):
        weekday = day[0].astimezone(zone).isoweekday()
        there = _within([day], stays)
        unknown = _without(there, known)
        if not unknown and _length(there) == day[1] - day[0]:
            whole.append(BasisDay(number, *day, weekday))
        for segment, bounds in enumerate(segments, start=1):
            parts = _length(_within(unknown, [bounds])) * DAY_PARTS // (day[1] - day[0])
            if parts:
                left.append((segment, weekday, parts))
    basis = _last_of_each_weekday(whole)
    by_weekday = bool(basis)
    if not by_weekday:
        basis = [BasisDay(day.number, day.start, day.end, 0) for day in whole[-DAYS_MAX:]]
    parts_left: dict[tuple[int, int], int] = {}
    for segment, weekday, parts in left:
        key = (segment, weekday if by_weekday else 0)
        parts_left[key] = parts_left.get(key, 0) + parts
    group_days = DAYS_OF_A_WEEKDAY if by_weekday else len(basis)
    days_known = sum(not _without([day], known) for day in days)
    return Forecast(tuple(basis), group_days, parts_left, days_known, len(days))


def joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the times that spans cover, in order; those that touch or overlap are one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def _last_of_each_weekday(whole: Sequence[BasisDay]) -> list[BasisDay]:
    """Return the last two days of each weekday in order, or none where one of them was not there twice."""
    chosen: list[BasisDay] = []
    for weekday in range(1, 8):
        same = [day for day in whole if day.group == weekday]
        if len(same) < DAYS_OF_A_WEEKDAY:
            return []
        chosen += same[-DAYS_OF_A_WEEKDAY:]
    return sorted(chosen, key=lambda day: day.number)


def _within(spans: Iterable[Span], bounds: Sequence[Span]) -> list[Span]:
    """Return what spans share with bounds that do not overlap."""
    cut = [(max(start, low), min(end, high)) for start, end in spans for low, high in bounds]
    return [(start, end) for start, end in cut if start < end]


def _without(spans: Iterable[Span], taken: Sequence[Span]) -> list[Span]:
    """Return what is left of spans without others."""
    left = list(spans)
    for low, high in taken:
        ends = [(start, min(end, low)) for start, end in left] + [(max(start, high), end) for start, end in left]
        left = [(start, end) for start, end in ends if start < end]
    return left


def _length(spans: Iterable[Span]) -> timedelta:
    return sum((end - start for start, end in spans), _NO_TIME)
