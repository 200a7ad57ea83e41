"""Formats: every digit is kept, the same in every locale."""

from decimal import Decimal
from typing import Any

import pytest

from pipeline.adapters.text_formats import (
    format_amount,
    format_date_range,
    format_instant,
    format_quantity,
    format_unit_price,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("0", "0"),
        ("999", "999"),
        ("1000", "1,000"),
        ("-1000", "-1,000"),
        ("-1234567.5000", "-1,234,567.5"),
        ("1E+3", "1,000"),
        ("1E-9", "0.000000001"),
        ("0001234", "1,234"),
        ("-0", "0"),
        ("12345678901234567890123456789.123456789", "12,345,678,901,234,567,890,123,456,789.123456789"),
    ],
)
def test_a_quantity_shows_all_its_digits_without_exponent(number: str, text: str) -> None:
    assert format_quantity(number) == format_quantity(Decimal(number)) == text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [("5", "USD", "5.00"), ("-0.0000", "USD", "0.00"), ("1234567", "JPY", "1,234,567"), ("0.5", "KWD", "0.500")],
)
def test_an_amount_shows_the_minor_unit_of_its_currency(amount: str, currency: str, text: str) -> None:
    assert format_amount(amount, currency) == text


@pytest.mark.parametrize(("amount", "currency"), [("2.685", "USD"), ("1.5", "JPY"), ("0.0001", "KWD")])
def test_an_amount_with_a_digit_too_many_is_refused_instead_of_rounded(amount: str, currency: str) -> None:
    with pytest.raises(ValueError, match="round before formatting"):
        format_amount(amount, currency)


def test_a_unit_price_shows_every_digit_it_has() -> None:
    assert format_unit_price("0.0000025", "USD") == "0.0000025"
    assert format_unit_price("2.5", "USD") == "2.50"
    assert format_unit_price("1234.5", "JPY") == "1,234.5"


@pytest.mark.parametrize("number", [1.5, True, None])
def test_a_number_that_is_not_exact_is_refused(number: Any) -> None:
    with pytest.raises(TypeError, match="expected an exact decimal"):
        format_quantity(number)


def test_an_instant_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        format_instant("2026-02-01T00:00:00")


def test_days_of_one_month_say_it_once() -> None:
    assert format_date_range("2026-02-01", "2026-02-28") == "1 – 28 February 2026"
    assert format_date_range("2026-02-28", "2026-03-01") == "28 February – 1 March 2026"
