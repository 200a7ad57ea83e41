"""Exact money: decimals end to end, one currency per amount, one place that rounds (P6).

An ``amount`` always travels with its ``currency``. Amounts stay exact until the line item, which is
rounded once to the currency's minor unit (ISO 4217). What rounding took or gave is the *residual*
(exact minus rounded) and is kept, never dropped.

Python's default decimal context silently rounds at 28 digits. ``exact()`` is a context in which
any loss of a digit raises, and every multiplication of the pipeline runs inside it.
"""

from __future__ import annotations

import decimal
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cache

import iso4217

QUANTITY_SCALE = 9
UNIT_PRICE_SCALE = 12
AMOUNT_EXACT_SCALE = QUANTITY_SCALE + UNIT_PRICE_SCALE


class RoundingMode(StrEnum):
    """How a line item is rounded; the price book says which."""

    HALF_UP = "half_up"
    HALF_EVEN = "half_even"


_DECIMAL_ROUNDING = {
    RoundingMode.HALF_UP: decimal.ROUND_HALF_UP,
    RoundingMode.HALF_EVEN: decimal.ROUND_HALF_EVEN,
}


def exact() -> AbstractContextManager[decimal.Context]:
    """Guarantee that arithmetic inside ``with exact():`` loses no digit; a loss raises ``Inexact``.

    >>> with exact():
    ...     Decimal("0.000000000001") * 3
    Decimal('3E-12')
    """
    losses = [decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
    return decimal.localcontext(decimal.Context(prec=76, traps=[*losses, decimal.FloatOperation]))


@cache
def rounding_context(mode: RoundingMode) -> decimal.Context:
    """Return the context in which an amount is rounded; the same one for every line of a mode."""
    return decimal.Context(prec=76, rounding=_DECIMAL_ROUNDING[mode])


@cache
def minor_unit_digits(currency: str) -> int:
    """Return how many decimals amounts of a currency have (ISO 4217); an unknown code raises ``ValueError``.

    >>> minor_unit_digits("USD"), minor_unit_digits("JPY"), minor_unit_digits("KWD")
    (2, 0, 3)
    """
    try:
        digits = iso4217.Currency(currency).exponent
    except ValueError:
        raise ValueError(f"{currency!r} is not an ISO 4217 currency code") from None
    if digits is None:
        raise ValueError(f"{currency} has no minor unit in ISO 4217 and cannot be invoiced")
    return int(digits)


@dataclass(frozen=True, slots=True)
class Money:
    """A decimal amount of one currency. Refuses floats, refuses to mix currencies, has no division."""

    amount: Decimal
    currency: str

    def __post_init__(self) -> None:
        if type(self.amount) is not Decimal:
            raise TypeError(f"an amount is a Decimal, got {type(self.amount).__name__} {self.amount!r}")
        if not self.amount.is_finite():
            raise ValueError(f"an amount is a finite number, got {self.amount}")

    def __add__(self, other: Money) -> Money:
        self._require_same_currency(other)
        with exact():
            return Money(self.amount + other.amount, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._require_same_currency(other)
        with exact():
            return Money(self.amount - other.amount, self.currency)

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}"

    def _require_same_currency(self, other: Money) -> None:
        if self.currency != other.currency:
            raise ValueError(f"cannot combine {self.currency} and {other.currency}")

    def round_to_minor_unit(self, mode: RoundingMode) -> Money:
        """Return the amount rounded to the currency's minor unit; the only place where digits are lost.

        >>> Money(Decimal("-2.685"), "USD").round_to_minor_unit(RoundingMode.HALF_UP)
        Money(amount=Decimal('-2.69'), currency='USD')
        >>> Money(Decimal("2.685"), "USD").round_to_minor_unit(RoundingMode.HALF_EVEN)
        Money(amount=Decimal('2.68'), currency='USD')
        """
        minor_unit = Decimal(1).scaleb(-minor_unit_digits(self.currency))
        return Money(rounding_context(mode).quantize(self.amount, minor_unit), self.currency)
