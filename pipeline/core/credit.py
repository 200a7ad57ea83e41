"""Credits: amounts granted to an account beforehand, drawn down by its documents after everything, also after tax.

A *grant* is an amount; each *entry* takes from it (or gives back, with the sign turned) and is never changed, so the
*balance* of a grant is its amount less all its entries. A credit is neither a discount nor a tax: it pays, and changes
no line, no subtotal and no tax.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from pipeline.core.decimals import fits, plain_text
from pipeline.core.money import exact, minor_unit_digits


class CreditKind(StrEnum):
    """Whether the customer paid for the credit."""

    PREPAID = "prepaid"
    PROMOTIONAL = "promotional"


class EntryKind(StrEnum):
    """Why the balance of a grant changed."""

    DRAWN = "drawn"  # by a document
    RETURNED = "returned"  # by the void of that document; the amount is negative
    REVOKED = "revoked"  # what was left


@dataclass(frozen=True, slots=True)
class CreditGrant:
    """A credit as it was granted; ``expires_on`` is the last day it is good for, None is for ever."""

    grant_id: str
    account_id: str
    currency: str
    kind: CreditKind
    amount: Decimal
    priority: int
    expires_on: date | None
    reason: str
    granted_at: datetime
    granted_by: str

    def __post_init__(self) -> None:
        if type(self.amount) is not Decimal or not self.amount.is_finite() or self.amount <= 0:
            raise ValueError(f"a credit is more than zero, got {self.amount}")
        if not fits(self.amount, 24, minor_unit_digits(self.currency)):
            digits = minor_unit_digits(self.currency)
            raise ValueError(f"an amount of {self.currency} has at most {digits} decimals, got {self.amount}")

    @property
    def draw_order(self) -> tuple[int, date, datetime, str]:
        """Return what grants are drawn in the order of: priority, expiry, age, id; no two grants are equal in it."""
        return self.priority, self.expires_on or date.max, self.granted_at, self.grant_id


@dataclass(frozen=True, slots=True)
class CreditEntry:
    """One change of a grant's balance; ``document`` is the number of the document that drew or gave back."""

    entry_id: int
    grant_id: str
    kind: EntryKind
    amount: Decimal
    document: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class CreditBalance:
    """What is left of a grant. A revoked grant is never drawn again, also when a void gives back to it."""

    grant: CreditGrant
    balance: Decimal
    is_revoked: bool = False

    def is_usable_for(self, last_date: date) -> bool:
        """Tell whether a document of a period that ends on that day may draw it, whenever the document is issued."""
        expires_on = self.grant.expires_on
        return not self.is_revoked and self.balance > 0 and (expires_on is None or last_date <= expires_on)


@dataclass(frozen=True, slots=True)
class CreditDraw:
    """What a document draws from one grant, as a positive amount."""

    grant_id: str
    description: str
    kind: CreditKind
    amount: Decimal

    def to_json(self) -> dict[str, str]:
        """Return the draw as a document has it."""
        return {
            "grant_id": self.grant_id,
            "description": self.description,
            "kind": self.kind.value,
            "amount": plain_text(self.amount),
        }


def draw_credits(total: Decimal, currency: str, last_date: date, balances: Iterable[CreditBalance]) -> list[CreditDraw]:
    """Return what a document of that total draws from the balances of its account, in the order it draws them.

    Never more than the total or than a balance; nothing for a total of zero or below; only grants of the currency
    that have not expired on the last day of the document's period.
    """
    usable = [one for one in balances if one.grant.currency == currency and one.is_usable_for(last_date)]
    draws = []
    due = total
    for one in sorted(usable, key=lambda one: one.grant.draw_order):
        if due <= 0:
            break
        amount = min(due, one.balance)
        with exact():
            due -= amount
        draws.append(CreditDraw(one.grant.grant_id, one.grant.reason, one.grant.kind, amount))
    return draws
