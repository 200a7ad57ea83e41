"""Documents that people read: Jinja2 templates of ``pipeline/templates``, filled with finished values.

A template formats. It never adds, rounds or decides, and the filters refuse to lose a digit: an amount with more
decimals than its currency has raises instead of being rounded for the page. A name that the model
lacks raises too, so no page shows a hole.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.core.decimals import plain_text
from pipeline.core.money import minor_unit_digits

TEMPLATES = Path(__file__).parent.parent / "templates"
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def _exact_decimal(number: Decimal | str | int) -> Decimal:
    if isinstance(number, bool) or not isinstance(number, Decimal | str | int):
        raise TypeError(f"expected an exact decimal, got {type(number).__name__} {number!r}")
    return Decimal(number)


def _grouped(plain: str) -> str:
    """Return plain digits with a comma after each thousand before the point."""
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    whole, point, decimals = digits.partition(".")
    return f"{sign}{int(whole):,}{point}{decimals}"


def format_quantity(number: Decimal | str | int) -> str:
    """Return all digits of a number: thousands separated, no exponent, no trailing zeros.

    >>> format_quantity("1234567.500000000"), format_quantity(Decimal("1E-9")), format_quantity(-1000)
    ('1,234,567.5', '0.000000001', '-1,000')
    """
    return _grouped(plain_text(_exact_decimal(number)))


def _with_decimals(plain: str, digits: int) -> str:
    whole, _, decimals = plain.partition(".")
    padded = decimals.ljust(digits, "0")
    return f"{whole}.{padded}" if padded else whole


def format_amount(amount: Decimal | str | int, currency: str) -> str:
    """Return a rounded amount with exactly the decimals of its currency; more decimals than that are refused.

    >>> format_amount("1234.5", "USD"), format_amount("-1200", "JPY"), format_amount("0.0000", "KWD")
    ('1,234.50', '-1,200', '0.000')
    """
    plain, digits = plain_text(_exact_decimal(amount)), minor_unit_digits(currency)
    if len(plain.partition(".")[2]) > digits:
        raise ValueError(f"an amount of {currency} has at most {digits} decimals, got {plain}: round before formatting")
    return _grouped(_with_decimals(plain, digits))


def format_unit_price(price: Decimal | str | int, currency: str) -> str:
    """Return a price with at least the decimals of its currency, and all it has beyond.

    >>> format_unit_price("2.5", "USD"), format_unit_price("0.0000025", "USD"), format_unit_price("3", "JPY")
    ('2.50', '0.0000025', '3')
    """
    return _grouped(_with_decimals(plain_text(_exact_decimal(price)), minor_unit_digits(currency)))


def format_date(day: date | str) -> str:
    """Return a calendar date in words, the same in every locale.

    >>> format_date("2026-01-31")
    '31 January 2026'
    """
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def format_instant(instant: datetime | str) -> str:
    """Return an aware instant in UTC to the second, or to the microsecond when it has a part of a second.

    >>> format_instant("2026-02-01T07:00:00+01:00")
    '2026-02-01 06:00:00 UTC'
    """
    instant = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    if instant.utcoffset() is None:
        raise ValueError(f"an instant needs a time zone, got {instant.isoformat()}")
    return f"{instant.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')} UTC"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        quantity=format_quantity,
        amount=format_amount,
        unit_price=format_unit_price,
        long_date=format_date,
        instant=format_instant,
    )
    return environment


def render(template: str, model: Mapping[str, Any]) -> str:
    """Return the template filled with the model: every text escaped, no name missing, the same bytes each time."""
    return _environment().get_template(template).render(model)
