"""Numbers, dates and instants as people read them, the same in every locale.

No format loses a digit: an amount with more decimals than its currency has raises instead of being rounded for the
page.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache

from pipeline.core.decimals import plain_text
from pipeline.core.money import minor_unit_digits

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


# No exponent, no leading zero, no trailing zero after the point: equal values have one text.
_IS_PLAIN = re.compile(r"0|-?[1-9][0-9]*|-?(?:0|[1-9][0-9]*)\.[0-9]*[1-9]").fullmatch


def _exact_decimal(number: Decimal | str | int) -> Decimal:
    if isinstance(number, bool) or not isinstance(number, Decimal | str | int):
        raise TypeError(f"expected an exact decimal, got {type(number).__name__} {number!r}")
    return Decimal(number)


def _plain(number: Decimal | str | int) -> str:
    """Return the digits of an exact number; one that is written as documents write it is taken as it stands."""
    if type(number) is str and _IS_PLAIN(number):
        return number
    return plain_text(_exact_decimal(number))


def _grouped(plain: str) -> str:
    """Return plain digits with a comma after each thousand before the point."""
    whole, point, decimals = plain.partition(".")
    return f"{int(whole):,}{point}{decimals}" if len(whole) > 3 else plain


def format_quantity(number: Decimal | str | int) -> str:
    """Return all digits of a number: thousands separated, no exponent, no trailing zeros.

    >>> format_quantity("1234567.500000000"), format_quantity(Decimal("1E-9")), format_quantity(-1000)
    ('1,234,567.5', '0.000000001', '-1,000')
    """
    return _grouped(_plain(number))


def _with_decimals(whole: str, decimals: str, digits: int) -> str:
    """Return grouped digits with at least so many decimals."""
    grouped = f"{int(whole):,}" if len(whole) > 3 else whole
    padded = decimals.ljust(digits, "0")
    return f"{grouped}.{padded}" if padded else grouped


def format_amount(amount: Decimal | str | int, currency: str) -> str:
    """Return a rounded amount with exactly the decimals of its currency; more decimals than that are refused.

    >>> format_amount("1234.5", "USD"), format_amount("-1200", "JPY"), format_amount("0.0000", "KWD")
    ('1,234.50', '-1,200', '0.000')
    """
    plain, digits = _plain(amount), minor_unit_digits(currency)
    whole, _, decimals = plain.partition(".")
    if len(decimals) > digits:
        raise ValueError(f"an amount of {currency} has at most {digits} decimals, got {plain}: round before formatting")
    return _with_decimals(whole, decimals, digits)


def format_unit_price(price: Decimal | str | int, currency: str) -> str:
    """Return a price with at least the decimals of its currency, and all it has beyond.

    >>> format_unit_price("2.5", "USD"), format_unit_price("0.0000025", "USD"), format_unit_price("3", "JPY")
    ('2.50', '0.0000025', '3')
    """
    whole, _, decimals = _plain(price).partition(".")
    return _with_decimals(whole, decimals, minor_unit_digits(currency))


@lru_cache(10_000)
def format_date(day: date | str) -> str:
    """Return a calendar date in words, the same in every locale.

    >>> format_date("2026-01-31")
    '31 January 2026'
    """
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


@lru_cache(10_000)
def format_date_range(first: str, last: str) -> str:
    """Return the days from the first to the last, both included; what they share is said once.

    >>> format_date_range("2026-01-01", "2026-01-31"), format_date_range("2026-01-31", "2026-02-03")
    ('1 – 31 January 2026', '31 January – 3 February 2026')
    >>> format_date_range("2026-01-01", "2026-01-01"), format_date_range("2025-12-31", "2026-01-30")
    ('1 January 2026', '31 December 2025 – 30 January 2026')
    """
    if first == last:
        return format_date(first)
    if first[:7] == last[:7]:
        return f"{date.fromisoformat(first).day} – {format_date(last)}"
    if first[:4] == last[:4]:
        return f"{format_date(first).removesuffix(first[:4])}– {format_date(last)}"
    return f"{format_date(first)} – {format_date(last)}"


@lru_cache(10_000)
def format_instant(instant: datetime | str) -> str:
    """Return an aware instant in UTC to the second, or to the microsecond when it has a part of a second.

    >>> format_instant("2026-02-01T07:00:00+01:00")
    '2026-02-01 06:00:00 UTC'
    """
    instant = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    if instant.utcoffset() is None:
        raise ValueError(f"an instant needs a time zone, got {instant.isoformat()}")
    return f"{instant.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')} UTC"


def format_second(instant: datetime | str) -> str:
    """Return an aware instant in UTC to the second: when a person did something.

    >>> format_second("2026-02-01T07:00:00.123456+01:00")
    '2026-02-01 06:00:00 UTC'
    """
    instant = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    return format_instant(instant.replace(microsecond=0))
