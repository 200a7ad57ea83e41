"""The terms of an account in a billing period: which plan and prices hold when, and on how many days.

A period is one *segment*, or several where its book splits it: at a new price book, another plan, the bounds of an
override. Segments follow one another without a gap, so that every grain of usage belongs to exactly one; the days of
a period are divided between them, each to the segment in which it begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from pipeline.core.account import Account
from pipeline.core.price_book import AnyCharge, Change, Plan
from pipeline.core.project import PricedBook
from pipeline.core.window import BillingPeriod


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
