"""Price books: what is refused before anything is priced."""

import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.money import RoundingMode
from pipeline.core.price_book import GraduatedCharge, PerUnitCharge, PriceBook


def per_unit(**changes: Any) -> dict[str, Any]:
    charge = {"model": "per_unit", "sku": "calls", "description": "Calls", "currency": "USD", "unit_price": "1"}
    return {**charge, **changes}


def graduated(*tiers: dict[str, str]) -> dict[str, Any]:
    return {"model": "graduated", "sku": "calls", "description": "Calls", "currency": "USD", "tiers": list(tiers)}


def book(*charges: dict[str, Any], **changes: Any) -> PriceBook:
    fields = {"name": "prices", "author": "ana", "effective_from": "2026-01-01"}
    return PriceBook.model_validate({**fields, "plans": {"standard": {"charges": list(charges)}}, **changes})


def test_a_price_in_toml_keeps_the_digits_that_finance_wrote() -> None:
    charge = per_unit(**tomllib.loads("unit_price = 0.1", parse_float=Decimal))

    assert book(charge).plans["standard"].charges[0] == PerUnitCharge(**per_unit(unit_price="0.1"))


def test_a_price_that_is_a_binary_float_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected an exact decimal, got float"):
        book(per_unit(unit_price=0.1))


@pytest.mark.parametrize("price", ["0.0000000000001", "1000000", "123456789012345", "NaN", "Infinity"])
def test_a_price_that_does_not_fit_its_column_is_refused(price: str) -> None:
    with pytest.raises(ValidationError):
        book(per_unit(unit_price=price))


def test_a_price_that_cannot_be_divided_exactly_is_refused() -> None:
    with pytest.raises(ValidationError, match="found 1 per 3 units, which is no exact price of one unit"):
        book(per_unit(per_units="3"))


def test_a_price_per_million_is_an_exact_price_of_one() -> None:
    charge = PerUnitCharge(**per_unit(unit_price="2.5", per_units="1000000"))

    assert charge.unit_price / charge.per_units == Decimal("0.0000025")


@pytest.mark.parametrize("per_units", ["0", "-1"])
def test_a_price_for_no_units_is_refused(per_units: str) -> None:
    with pytest.raises(ValidationError):
        book(per_unit(per_units=per_units))


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ([{"up_to": "10", "unit_price": "1"}], "found 10 in the last tier, accepted none"),
        ([{"unit_price": "1"}, {"unit_price": "2"}], "found none, accepted a bound: only the last tier is open"),
        (
            [{"up_to": "10", "unit_price": "1"}, {"up_to": "10", "unit_price": "2"}, {"unit_price": "3"}],
            "found 10, accepted more than 10, where the tier begins",
        ),
        ([{"up_to": "0", "unit_price": "1"}, {"unit_price": "3"}], "greater than 0"),
        ([{"up_to": "-5", "unit_price": "1"}, {"unit_price": "3"}], "greater than 0"),
        ([{"up_to": "1e30", "unit_price": "1"}, {"unit_price": "3"}], "no more than 29 digits before the decimal"),
        ([{"unit_price": "-1"}], "greater than or equal to 0"),
        ([{}], "accepted unit_price, flat_fee or both"),
        ([], "at least 1 item"),
    ],
)
def test_tiers_that_do_not_rise_to_an_open_end_are_refused(tiers: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        book(graduated(*tiers))


def test_a_charge_that_is_tried_alone_may_end_in_a_bound() -> None:
    assert GraduatedCharge.model_validate(graduated({"up_to": "10", "unit_price": "1"})).tiers[0].up_to == 10


def test_a_plan_without_charges_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        book()


def test_a_currency_without_a_minor_unit_is_refused() -> None:
    with pytest.raises(ValidationError, match="XAU has no minor unit in ISO 4217"):
        book(per_unit(currency="XAU"))


def test_one_sku_has_one_charge_in_a_currency() -> None:
    with pytest.raises(ValidationError, match="found 'calls' a second time in USD"):
        book(per_unit(), graduated({"unit_price": "2"}))


def test_one_sku_may_have_a_charge_in_each_currency() -> None:
    plan = book(per_unit(), per_unit(currency="EUR", unit_price="0.9")).plans["standard"]

    charge = plan.charge("calls", "EUR")

    assert isinstance(charge, PerUnitCharge)
    assert charge.unit_price == Decimal("0.9")
    assert plan.charge("calls", "JPY") is None


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="unit_prise"):
        book(per_unit(unit_prise="1"))


@pytest.mark.parametrize("found", ["2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC), 20260101, "1 January"])
def test_a_book_that_is_effective_from_anything_but_a_date_is_refused(found: object) -> None:
    with pytest.raises(ValidationError, match="effective_from"):
        book(per_unit(), effective_from=found)


def test_rounding_is_half_up_unless_the_book_says_otherwise() -> None:
    assert book(per_unit()).rounding is RoundingMode.HALF_UP
    assert book(per_unit(), rounding="half_even").rounding is RoundingMode.HALF_EVEN
