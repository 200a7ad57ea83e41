"""Breaks: differences that a control found, kept from night to night until somebody, or a later night, settles them.

A control that fails opens a *break*. Its *key* is the control, what it is about and the unit, so that the same
difference found on the next night is the same break, with the figures of that night. A control that passes resolves its
break by itself; a person resolves one with a reason, and if the control fails again afterwards another break is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from pipeline.core.money import exact

BY_ITSELF = "reconcile"  # who resolves a break whose control passes
AGE_BUCKETS = ("0-1", "2-7", "8-30", "31-60", "61-90", ">90")  # days
_LAST_DAYS = (1, 7, 30, 60, 90)


class BreakClass(StrEnum):
    """What kind of difference it is."""

    MISSING = "missing"  # expected, and not there
    EXTRA = "extra"  # there, and not expected
    AMOUNT = "amount"  # there on both sides with other figures
    TIMING = "timing"  # one side is not as far as the other
    MAPPING = "mapping"  # an account or a SKU that the other side does not know
    PRICE = "price"  # the quantities agree, the amounts do not


@dataclass(frozen=True, slots=True)
class Difference:
    """What a failed control found, about a window or about a period (exactly one of them)."""

    control: str
    scope: str
    unit: str
    break_class: BreakClass
    expected: Decimal
    actual: Decimal
    window_id: str | None = None
    period_id: str | None = None
    account_id: str | None = None

    @property
    def domain(self) -> str:
        """Return what was reconciled: ``window=2026-01-15`` or ``period=2026-01``."""
        return f"period={self.period_id}" if self.window_id is None else f"window={self.window_id}"

    @property
    def key(self) -> str:
        return break_key(self.control, self.domain, self.scope, self.unit)


@dataclass(frozen=True, slots=True)
class Break:
    """One difference from when it was opened until it is resolved; ``opened_in`` is the revision that found it.

    ``expected`` and ``actual`` are in ``unit`` and of the night that saw it last.
    """

    break_id: int
    key: str
    control: str
    scope: str
    unit: str
    break_class: BreakClass
    window_id: str | None
    period_id: str | None
    account_id: str | None
    expected: Decimal
    actual: Decimal
    opened_at: datetime
    opened_in: str
    last_seen_at: datetime
    owner: str | None = None
    note: str | None = None
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    resolution: str | None = None

    @property
    def delta(self) -> Decimal:
        with exact():
            return self.actual - self.expected

    @property
    def is_open(self) -> bool:
        return self.resolved_at is None


def break_key(control: str, domain: str, scope: str, unit: str) -> str:
    """Return the identity of a break: the same for the same control of the same thing, on every night.

    >>> break_key("usage_quantity", "window=2026-01-15", "api-calls", "requests")
    'usage_quantity/window=2026-01-15/api-calls/requests'
    """
    return f"{control}/{domain}/{scope}/{unit}"


def age_bucket(opened_at: datetime, at: datetime) -> str:
    """Return how many days a break is open, as the range it falls into; a day is 24 hours, begun days do not count.

    >>> from datetime import UTC
    >>> opened_at = datetime(2026, 1, 1, tzinfo=UTC)
    >>> [age_bucket(opened_at, opened_at + timedelta(days=days)) for days in (1, 2, 90, 91)]
    ['0-1', '2-7', '61-90', '>90']
    """
    days = (at - opened_at) // timedelta(days=1)
    return next((name for name, last in zip(AGE_BUCKETS, _LAST_DAYS, strict=False) if days <= last), AGE_BUCKETS[-1])


def breaks_by_age(breaks: Iterable[Break], at: datetime) -> dict[str, list[Break]]:
    """Return breaks by how many days they are open, or were until they were resolved; every range is named."""
    by_age: dict[str, list[Break]] = {bucket: [] for bucket in AGE_BUCKETS}
    for one in breaks:
        by_age[age_bucket(one.opened_at, one.resolved_at or at)].append(one)
    return by_age
