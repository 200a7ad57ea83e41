"""Exact money: nothing is lost but by rounding once, and floats do not get in (P6)."""

import decimal
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.money import Money, RoundingMode, exact, minor_unit_digits


def usd(text: str) -> Money:
    return Money(Decimal(text), "USD")


@pytest.mark.parametrize(
    ("amount", "half_up", "half_even"),
    [
        ("2.685", "2.69", "2.68"),
        ("2.675", "2.68", "2.68"),
        ("-2.685", "-2.69", "-2.68"),
        ("2.6849999999", "2.68", "2.68"),
        ("0.005", "0.01", "0.00"),
        ("-0.005", "-0.01", "0.00"),
    ],
)
def test_a_half_goes_away_from_zero_or_to_the_even_cent_as_the_mode_says(
    amount: str, half_up: str, half_even: str
) -> None:
    assert usd(amount).round_to_minor_unit(RoundingMode.HALF_UP) == usd(half_up)
    assert usd(amount).round_to_minor_unit(RoundingMode.HALF_EVEN) == usd(half_even)


@pytest.mark.parametrize(("currency", "rounded"), [("JPY", "1235"), ("USD", "1234.57"), ("KWD", "1234.568")])
def test_each_currency_rounds_to_its_own_minor_unit(currency: str, rounded: str) -> None:
    amount = Money(Decimal("1234.5678"), currency)

    assert amount.round_to_minor_unit(RoundingMode.HALF_UP) == Money(Decimal(rounded), currency)


@pytest.mark.parametrize("code", ["usd", "XXX", "EURO", ""])
def test_a_code_that_cannot_be_invoiced_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="ISO 4217"):
        minor_unit_digits(code)


@pytest.mark.parametrize("amount", [1.1, True, 1, "1"])
def test_an_amount_that_is_no_decimal_is_refused(amount: object) -> None:
    with pytest.raises(TypeError, match="an amount is a Decimal"):
        Money(amount, "USD")  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_an_amount_that_is_not_finite_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        usd(amount)


def test_two_currencies_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="cannot combine USD and EUR"):
        usd("1") + Money(Decimal(1), "EUR")


def test_arithmetic_that_would_lose_a_digit_raises() -> None:
    with exact(), pytest.raises(decimal.Inexact):
        Decimal(1) / 3


def test_a_float_in_exact_arithmetic_raises() -> None:
    with exact(), pytest.raises(decimal.FloatOperation):
        Decimal(1.1)  # noqa: RUF032 - the float is the point


def test_thirty_digits_are_added_exactly_where_the_default_context_would_round() -> None:
    large, small = Decimal("12345678901234567890123456789"), Decimal("0.01")

    total = usd(str(large)) + usd(str(small))

    assert total == usd("12345678901234567890123456789.01")
    assert total.amount != large + small, "the default context rounds at 28 digits; this test shows that it matters"


@given(st.lists(st.decimals(-(10**12), 10**12, allow_nan=False, places=9)))
def test_the_order_of_addition_does_not_matter(amounts: list[Decimal]) -> None:
    def total(parts: list[Decimal]) -> Money:
        return sum((Money(part, "USD") for part in parts), start=usd("0"))

    assert total(amounts) == total(amounts[::-1])


@given(
    st.decimals(-(10**12), 10**12, allow_nan=False, places=21),
    st.sampled_from(["USD", "JPY", "KWD"]),
    st.sampled_from(RoundingMode),
)
def test_rounding_moves_an_amount_by_at_most_half_a_minor_unit(
    amount: Decimal, currency: str, mode: RoundingMode
) -> None:
    residual = Money(amount, currency) - Money(amount, currency).round_to_minor_unit(mode)

    assert abs(residual.amount) * 2 <= Decimal(1).scaleb(-minor_unit_digits(currency))
