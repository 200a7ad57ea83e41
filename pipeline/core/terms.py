"""The terms of an account in a billing period: which plan and prices hold when, and on how many days.

A period is one *segment*, or several where its book splits it: at a new price book, another plan, the bounds of an
override. Segments follow one another without a gap, so that every grain of usage belongs to exactly one; the days of
a period are divided between them, each to the segment in which it begins.

Terms are a function of the account directory and of the price books, and of nothing else. Usage from before an account
was there has its first terms, usage from after it left its last ones, and usage of a gap those from before the gap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pipeline.core.account import Account, AccountDirectory
from pipeline.core.price_book import AnyCharge, Change, FlatFeeCharge, MatrixCharge, Override, Plan
from pipeline.core.project import PricedBook, book_on
from pipeline.core.window import BillingPeriod, billing_period, next_period_id


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a period with one set of prices; ``number`` counts from 1.

    ``active_days`` are those of its days on which the account was there; ``charges`` are by SKU, in the account's
    currency, overrides applied.
    """

    number: int
    start: datetime
    end: datetime
    active_days: int
    plan_name: str
    plan: Plan
    priced: PricedBook
    charges: Mapping[str, AnyCharge]


@dataclass(frozen=True, slots=True)
class AdvanceFees:
    """The service period that fees in advance are for: its terms are those of the day it begins with."""

    period: BillingPeriod
    start: datetime
    active_days: int
    days: int
    plan_name: str
    plan: Plan
    priced: PricedBook
    charges: Mapping[str, AnyCharge]


@dataclass(frozen=True, slots=True)
class AccountTerms:
    """What an account agreed to for one period: ``segments`` in order, at least one.

    ``days`` are the calendar days of the whole period. ``on_change`` is what the book of the first day says.
    ``advance_fees`` are the service periods whose fees in advance are on the invoice of this period: the next one, and
    this one too for an account that began in it.
    """

    account: Account
    period: BillingPeriod
    days: int
    on_change: Change
    segments: tuple[Segment, ...]
    advance_fees: tuple[AdvanceFees, ...] = ()

    @property
    def active_days(self) -> int:
        """Return on how many days of the period the account was there."""
        return sum(segment.active_days for segment in self.segments)

    def share(self, active_days: int) -> Fraction:
        """Return the share of the period that so many days are, as what is prorated is multiplied by."""
        return Fraction(active_days, self.days)


@dataclass(frozen=True, slots=True)
class PeriodTerms:
    """The terms of each account of a directory in one period; an account is in ``accounts`` or in ``problems``.

    ``periods`` are those of all accounts that may have usage, also of some that are not in the directory any more.
    A problem is a sentence that says why usage of the account cannot be priced. ``price_books`` are all that
    were looked at: terms that are made of these books alone are the same.
    """

    period_id: str
    periods: Mapping[str, BillingPeriod]
    accounts: Mapping[str, AccountTerms]
    problems: Mapping[str, str]
    price_books: tuple[PricedBook, ...]


def period_terms(
    directory: AccountDirectory,
    price_books: Iterable[PricedBook],
    period_id: str,
    departed: Mapping[str, BillingPeriod] | None = None,
) -> PeriodTerms:
    """Return the terms of every account of the directory, in order of id, also of those that are not there then.

    ``departed`` are the periods of accounts that are not in the directory any more.
    """
    rows_of: defaultdict[str, list[_Stay]] = defaultdict(list)
    for row in directory.rows:
        rows_of[row.account_id].append(_Stay(row.valid_from, row.valid_to, row.plan))
    books = _Books(price_books)
    months = {time_zone: _Month(period_id, time_zone) for time_zone in directory.time_zones()}
    made: dict[tuple[object, ...], _SharedTerms | str] = {}
    periods = dict(departed or {})
    accounts: dict[str, AccountTerms] = {}
    problems: dict[str, str] = {}
    for account_id, account in directory.accounts().items():
        month = months[account.time_zone]
        periods[account_id] = month.period
        stays = _stays_near(month, rows_of[account_id])
        own_prices = account_id if account_id in books.overridden else None
        key = (account.time_zone, account.currency, own_prices, stays)
        if key not in made:
            made[key] = _shared_terms(month, account, stays, books)
        terms = made[key]
        if isinstance(terms, str):
            problems[account_id] = terms
        else:
            accounts[account_id] = AccountTerms(account, month.period, len(month.days), *terms)
    return PeriodTerms(period_id, periods, accounts, problems, tuple(books.looked_at.values()))


def priced_dimensions(charges: Mapping[str, AnyCharge]) -> list[str]:
    """Return, in order, the SKUs whose usage is priced by its dimensions."""
    return sorted(sku for sku, charge in charges.items() if isinstance(charge, MatrixCharge))


class _Stay(NamedTuple):
    """A time on which an account is there, on one plan."""

    start: datetime
    end: datetime
    plan: str


class _SharedTerms(NamedTuple):
    """What accounts have in common whose terms differ in nothing."""

    on_change: Change
    segments: tuple[Segment, ...]
    advance_fees: tuple[AdvanceFees, ...]


class _Prices(NamedTuple):
    """What holds on one day: where two have the same ``name``, they are the same."""

    name: tuple[object, ...]
    plan_name: str
    plan: Plan
    priced: PricedBook
    charges: Mapping[str, AnyCharge]


class _Month:
    """A period in one time zone: its calendar days as spans in UTC, and the period after it."""

    def __init__(self, period_id: str, time_zone: str) -> None:
        self.zone = ZoneInfo(time_zone)
        self.period = billing_period(period_id, time_zone)
        self.days = calendar_days(self.period, self.zone)
        self.period_after = billing_period(next_period_id(period_id), time_zone)
        self.days_after = calendar_days(self.period_after, self.zone)

    def date_of(self, instant: datetime) -> date:
        return instant.astimezone(self.zone).date()


class _Books:
    """The price books, with what plans cost on a day; ``looked_at`` are those that decided anything."""

    def __init__(self, price_books: Iterable[PricedBook]) -> None:
        self._books = tuple(price_books)
        self._charges: dict[tuple[str, str, str], dict[str, AnyCharge]] = {}
        self._overrides: dict[str, dict[str, list[Override]]] = {}
        for priced in self._books:
            of_account = self._overrides.setdefault(priced.version, {})
            for override in priced.book.overrides:
                of_account.setdefault(override.account_id, []).append(override)
        self.overridden = {account_id for of_account in self._overrides.values() for account_id in of_account}
        self.looked_at: dict[str, PricedBook] = {}

    def on(self, day: date) -> PricedBook | None:
        priced = book_on(self._books, day)
        if priced is not None:
            self.looked_at[priced.version] = priced
        return priced

    def dates(self, account_id: str) -> set[date]:
        """Return each day on which the prices of an account may change."""
        days = {priced.book.effective_from for priced in self._books}
        for of_account in self._overrides.values():
            for override in of_account.get(account_id, ()):
                days.add(override.valid_from)
                if override.valid_to is not None:
                    days.add(override.valid_to)
        return days

    def prices(self, day: date, plan_name: str, account: Account) -> _Prices | str:
        """Return what holds on a day for an account on a plan, or why nothing does."""
        priced = self.on(day)
        if priced is None:
            return f"no price book is effective on {day.isoformat()}"
        plan = priced.book.plans.get(plan_name)
        if plan is None:
            return f"price book {priced.version} has no plan {plan_name!r}"
        key = (priced.version, plan_name, account.currency)
        if key not in self._charges:
            own_currency = (charge for charge in plan.charges if charge.currency == account.currency)
            self._charges[key] = {charge.sku: charge for charge in own_currency}
        applied = {
            override.charge.sku: override
            for override in reversed(self._overrides[priced.version].get(account.account_id, ()))
            if override.charge.currency == account.currency and override.holds_on(day)
        }
        charges = self._charges[key]
        if applied:
            charges = charges | {sku: override.charge for sku, override in applied.items()}
        return _Prices((priced.version, plan_name, *map(id, applied.values())), plan_name, plan, priced, charges)


def calendar_days(period: BillingPeriod, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """Return the calendar days of a period in order, as spans in UTC; a day that a time zone left out is none."""
    first = period.start.astimezone(zone).date()
    after = period.end.astimezone(zone).date()
    marks = [_midnight(date.fromordinal(day), zone) for day in range(first.toordinal(), after.toordinal() + 1)]
    return [(start, end) for start, end in pairwise(marks) if start < end]


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """Return the instant at which a calendar day begins; where clocks skip midnight, the one they skip at."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _stays_near(month: _Month, rows: Sequence[_Stay]) -> tuple[_Stay, ...]:
    """Return, in order, the stays of an account within the period and the one after it, cut to the two.

    Rows that touch or overlap are one stay. For an account that is not there in either, it is an empty stay.
    """
    start, end = month.period.start, month.period_after.end
    stays: list[_Stay] = []
    for row in sorted(rows):
        if row.end <= start or row.start >= end:
            continue
        cut = _Stay(
            row.start.astimezone(UTC) if row.start > start else start,
            row.end.astimezone(UTC) if row.end < end else end,
            row.plan,
        )
        if stays and stays[-1].plan == cut.plan and cut.start <= stays[-1].end:
            stays[-1] = stays[-1]._replace(end=max(stays[-1].end, cut.end))
        else:
            stays.append(cut)
    if not stays:
        before = [row for row in rows if row.end <= start]
        nearest = max(before, key=lambda row: row.end) if before else min(rows)
        at = start if before else nearest.start.astimezone(UTC)
        stays.append(_Stay(at, at, nearest.plan))
    return tuple(stays)


def _shared_terms(month: _Month, account: Account, stays: Sequence[_Stay], books: _Books) -> _SharedTerms | str:
    """Return the terms of an account, or why it has none."""
    first = books.on(month.date_of(stays[0].start))
    on_change = Change.NEXT_PERIOD if first is None else first.book.on_change
    segments: list[Segment] = []
    names: list[tuple[object, ...]] = []
    for start, end, at in _parts(month, account, stays, on_change, books):
        prices = books.prices(month.date_of(at), _plan_at(stays, at), account)
        if isinstance(prices, str):
            return prices
        goes_on = bool(names) and names[-1] == prices.name
        begins = segments.pop().start if goes_on else start
        names.append(prices.name)
        active_days = _active_days(month.days, stays, begins, end)
        segments.append(Segment(len(segments) + 1, begins, end, active_days, *prices[1:]))
    advance_fees = []
    for period, days, at in _fees_in_advance(month, stays):
        prices = books.prices(month.date_of(at), _plan_at(stays, at), account)
        if isinstance(prices, str):
            return prices
        if any(isinstance(charge, FlatFeeCharge) and charge.timing == "advance" for charge in prices.charges.values()):
            active_days = _active_days(days, stays, period.start, period.end)
            advance_fees.append(AdvanceFees(period, at, active_days, len(days), *prices[1:]))
    return _SharedTerms(on_change, tuple(segments), tuple(advance_fees))


def _parts(
    month: _Month, account: Account, stays: Sequence[_Stay], on_change: Change, books: _Books
) -> list[tuple[datetime, datetime, datetime]]:
    """Return the parts that may differ in price, which cover the period, each with the instant that decides its prices.

    Nothing changes before the account is there, nor after it left.
    """
    period, at = month.period, stays[0].start
    if on_change is Change.NEXT_PERIOD:
        return [(period.start, period.end, at)]
    there_until = min(max((stay.end for stay in stays if stay.start < period.end), default=at), period.end)
    first_day, last_day = month.date_of(period.start), month.date_of(period.end)
    cuts = {_midnight(day, month.zone) for day in books.dates(account.account_id) if first_day <= day <= last_day}
    cuts |= {stay.start for stay in stays}
    inside = sorted(cut for cut in cuts if at < cut < there_until)
    starts, ends = [period.start, *inside], [*inside, period.end]
    return list(zip(starts, ends, [at, *inside], strict=True))


def _fees_in_advance(
    month: _Month, stays: Sequence[_Stay]
) -> list[tuple[BillingPeriod, list[tuple[datetime, datetime]], datetime]]:
    """Return each period whose fees in advance are due, with its days and the instant that decides its prices."""
    due = []
    if month.period.start < stays[0].start < month.period.end and stays[0].start < stays[0].end:
        due.append((month.period, month.days, stays[0].start))
    after = month.period_after
    if any(stay.start <= after.start < stay.end for stay in stays):
        due.append((after, month.days_after, after.start))
    return due


def _plan_at(stays: Sequence[_Stay], at: datetime) -> str:
    """Return the plan of the newest stay that has begun, else of the first one."""
    return next((stay.plan for stay in reversed(stays) if stay.start <= at), stays[0].plan)


def _active_days(
    days: Sequence[tuple[datetime, datetime]], stays: Sequence[_Stay], start: datetime, end: datetime
) -> int:
    """Return how many of the days that begin from ``start`` to before ``end`` have an instant of a stay."""
    return sum(
        start <= day_start < end
        and any(stay.start < day_end and stay.end > day_start and stay.start < stay.end for stay in stays)
        for day_start, day_end in days
    )
