"""What a book may say of a project: each problem names where it stands, what was found and what is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.core.account import AccountRow
from pipeline.core.meter import Meter
from pipeline.core.price_book import PriceBook
from pipeline.core.price_book_rules import account_problems, book_problems, final_period_problems
from pipeline.core.project import PricedBook
from pipeline.core.tax import TaxTable

CALLS = {"sku": "calls", "description": "Calls", "currency": "USD", "model": "per_unit", "unit_price": "1"}


def meter(sku: str, unit: str = "calls", **changes: Any) -> Meter:
    values = {"sku": sku, "event_type": "x", "aggregation": "sum", "value": "quantity", "unit": unit, **changes}
    return Meter.model_validate(values)


METERS = (
    meter("calls", dimensions=["region"]),
    meter("sales", "EUR"),
    meter("fees", "USD"),
    meter("kept", "USD", keep_values=True),
)


def row(account_id: str = "acct-1", **changes: Any) -> AccountRow:
    values = {"name": "One", "currency": "USD", "time_zone": "UTC", "plan": "standard", "external_references": ["one"]}
    return AccountRow.model_validate(
        {"account_id": account_id, "valid_from": "2026-01-01T00:00:00Z", **values, **changes}
    )


def charge(**changes: Any) -> dict[str, Any]:
    values = {**CALLS, **changes}
    return {key: value for key, value in values.items() if value is not None}


def override(**changes: Any) -> dict[str, Any]:
    values = {"account_id": "acct-1", "reason": "deal", "valid_from": "2026-02-01", "charge": charge(unit_price="0.5")}
    return {**values, **changes}


def book(*charges: dict[str, Any], plan: dict[str, Any] | None = None, **changes: Any) -> PriceBook:
    plans = {"standard": {"charges": list(charges) or [CALLS], **(plan or {})}}
    values = {"name": "prices", "author": "ana", "effective_from": "2026-01-01", "plans": plans}
    return PriceBook.model_validate({**values, **changes})


def only(found: list[Any]) -> Any:
    [problem] = found
    return problem


MATRIX = {"model": "matrix", "unit_price": None}


@pytest.mark.parametrize(
    ("changes", "key", "sentence"),
    [
        ({"sku": "call"}, "sku", "found 'call', accepted calls, fees, kept, sales (meters.toml)"),
        (
            {"model": "flat_fee", "amount": "10", "unit_price": None},
            "sku",
            "found 'calls', which meters.toml counts; accepted a name of its own for model = \"flat_fee\"",
        ),
        (
            {**MATRIX, "cells": [{"match": {"region": "eu", "tier": "1"}, "unit_price": "1"}]},
            "match",
            "found tier, accepted region (dimensions of calls in meters.toml)",
        ),
        (
            {"model": "dynamic", "unit_price": None},
            "currency",
            "found USD, accepted calls, the unit of calls in meters.toml",
        ),
        (
            {"model": "percentage", "sku": "sales", "percent": "3", "unit_price": None},
            "currency",
            "found USD, accepted EUR, the unit of sales in meters.toml",
        ),
        (
            {"model": "percentage", "percent": "3", "unit_price": None},
            "currency",
            "found USD, accepted calls, the unit of calls in meters.toml",
        ),
        (
            {"model": "graduated_percentage", "tiers": [{"percent": "3"}], "unit_price": None},
            "currency",
            "found USD, accepted calls, the unit of calls in meters.toml",
        ),
        (
            {"model": "percentage", "sku": "fees", "percent": "3", "free_events": 5, "unit_price": None},
            "free_events",
            "found 5, accepted none: fees needs keep_values = true in meters.toml for it",
        ),
    ],
)
def test_a_charge_that_does_not_fit_its_meter_is_refused(changes: dict[str, Any], key: str, sentence: str) -> None:
    at, found = only(book_problems(book(charge(**changes)), METERS, [row()]))

    assert (at[:4], at[-1], found) == (("plans", "standard", "charges", 0), key, sentence)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "flat_fee", "sku": "support", "amount": "10", "unit_price": None},
        {**MATRIX, "cells": [{"match": {"region": "eu"}, "unit_price": "1"}]},
        {"model": "dynamic", "sku": "fees", "unit_price": None},
        {"model": "percentage", "sku": "fees", "percent": "3", "fixed_fee_per_event": "0.1", "unit_price": None},
        {"model": "percentage", "sku": "kept", "percent": "3", "free_events": 5, "unit_price": None},
    ],
)
def test_a_charge_that_fits_its_meter_is_taken(changes: dict[str, Any]) -> None:
    assert book_problems(book(charge(**changes)), METERS, [row()]) == []


NEGATIVE = [
    ({"unit_price": "-0.01"}, ("unit_price",)),
    ({"model": "package", "unit_price": None, "package_size": "1", "package_price": "-1"}, ("package_price",)),
    ({**MATRIX, "cells": [{"match": {"region": "eu"}, "unit_price": "-1"}]}, ("cells", 0, "unit_price")),
    (
        {**MATRIX, "cells": [{"match": {"region": "eu"}, "unit_price": "1"}], "default_unit_price": "-1"},
        ("default_unit_price",),
    ),
    ({"model": "flat_fee", "sku": "support", "unit_price": None, "amount": "-5"}, ("amount",)),
]


@pytest.mark.parametrize(("changes", "at"), NEGATIVE)
def test_no_price_of_a_book_is_below_zero(changes: dict[str, Any], at: tuple[str | int, ...]) -> None:
    found, sentence = only(book_problems(book(charge(**changes)), METERS, [row()]))

    assert found == ("plans", "standard", "charges", 0, *at)
    assert sentence.endswith(
        "accepted 0 or more; what an account gets back is a discount, a credit or usage below zero"
    )


@pytest.mark.parametrize(
    ("amount", "currency", "taken"),
    [("5.01", "USD", True), ("5.010", "USD", True), ("5.005", "USD", False), ("5", "JPY", True), ("5.5", "JPY", False)],
)
def test_what_a_bill_comes_to_is_in_whole_minor_units(amount: str, currency: str, taken: bool) -> None:
    bounds = [{"minimum_amount": amount}, {"maximum_amount": amount}, {"discounts": [{"amount": amount}]}]
    plans = [{"commitments": [{"amount": amount, "currency": currency}]}]
    plans += [{"discounts": [{"amount": amount, "currency": currency}]}]
    books = [book(charge(currency=currency, **bound)) for bound in bounds]
    books += [book(charge(currency=currency), plan=plan) for plan in plans]

    found = [book_problems(one, METERS, [row(currency=currency)]) for one in books]

    assert [len(problems) for problems in found] == [0 if taken else 1] * 5
    if not taken:
        assert [at[-1] for [(at, _)] in found] == ["minimum_amount", "maximum_amount", "amount", "amount", "amount"]
        assert all("accepted whole minor units" in sentence for [(_, sentence)] in found)


def test_a_tax_category_without_a_rate_is_refused_where_there_are_taxes() -> None:
    commitment = {"amount": "5", "currency": "USD", "tax_category": "fees"}
    taxed = book(charge(tax_category="food"), plan={"commitments": [commitment]})
    rates = [
        {"region": "de", "name": "VAT", "percent": "19"},
        {"region": "fr", "category": "fees", "name": "TVA", "percent": "20"},
    ]
    taxes = TaxTable.model_validate({"rates": rates})

    at, found = only(book_problems(taxed, METERS, [row()], taxes))

    assert at == ("plans", "standard", "charges", 0, "tax_category")
    assert found == "found 'food', accepted fees, standard (categories of taxes.toml)"
    assert book_problems(taxed, METERS, [row()]) == []


@pytest.mark.parametrize(
    ("key", "entry"),
    [("discounts", {"amount": "5"}), ("discounts", {"percent": "5"}), ("commitments", {"amount": "5"})],
)
def test_a_discount_or_commitment_in_a_currency_that_no_charge_has_is_refused(key: str, entry: dict[str, str]) -> None:
    def problems(currency: str) -> Any:
        return book_problems(book(plan={key: [{**entry, "currency": currency}]}), METERS, [row()])

    found = "found EUR, accepted USD (charges of plan 'standard')"
    assert problems("EUR") == [(("plans", "standard", key, 0, "currency"), found)]
    assert problems("USD") == []


@pytest.mark.parametrize(
    ("changes", "key", "sentence"),
    [
        ({"account_id": "acct-9"}, ("account_id",), "found 'acct-9', accepted an account of accounts.csv"),
        (
            {"charge": charge(currency="EUR")},
            ("charge", "currency"),
            "found EUR, accepted USD, the currency of account acct-1",
        ),
        (
            {"charge": charge(sku="fees")},
            ("charge", "sku"),
            "found 'fees', accepted a SKU that a plan of account acct-1 (standard) charges in USD",
        ),
        (
            {"valid_from": "2025-01-01", "valid_to": "2026-01-01"},
            ("valid_to",),
            "found 2026-01-01, accepted a date after 2026-01-01, when the book begins",
        ),
        (
            {"valid_from": "2026-06-01"},
            ("valid_from",),
            "found 2026-06-01 to no end, accepted a day on which account acct-1 is there with such a plan "
            "(2026-01-01T00:00:00+00:00 to 2026-06-01T00:00:00+00:00)",
        ),
    ],
)
def test_an_override_that_cannot_be_reached_is_refused(
    changes: dict[str, Any], key: tuple[str, ...], sentence: str
) -> None:
    rows = [row(valid_to="2026-06-01T00:00:00Z")]

    at, found = only(book_problems(book(overrides=[override(**changes)]), METERS, rows))

    assert (at, found) == (("overrides", 0, *key), sentence)


@pytest.mark.parametrize(
    "changes",
    [{"valid_from": "2026-05-31"}, {"valid_from": "2025-01-01", "valid_to": "2026-01-02"}],
    ids=["the last day of the account", "the first day of the book"],
)
def test_an_override_of_a_single_day_is_reached(changes: dict[str, Any]) -> None:
    rows = [row(valid_to="2026-06-01T00:00:00Z")]

    assert book_problems(book(overrides=[override(**changes)]), METERS, rows) == []


def test_an_account_is_reached_by_the_days_of_its_own_zone() -> None:
    """Until 2026-06-01T04:00Z is until midnight in New York: 1 June is outside, and 31 May is the last day."""
    rows = [row(valid_to="2026-06-01T04:00:00Z", time_zone="America/New_York")]

    assert book_problems(book(overrides=[override(valid_from="2026-05-31")]), METERS, rows) == []
    assert len(book_problems(book(overrides=[override(valid_from="2026-06-01")]), METERS, rows)) == 1


def test_an_override_on_a_plan_that_the_account_has_only_later_is_reached_then_and_not_before() -> None:
    plans = {"standard": {"charges": [CALLS]}, "free": {"charges": [charge(sku="fees")]}}
    rows = [row(plan="free", valid_to="2026-03-01T00:00:00Z"), row(valid_from="2026-03-01T00:00:00Z")]

    before = book(plans=plans, overrides=[override(valid_to="2026-03-01")])
    after = book(plans=plans, overrides=[override(valid_to="2026-03-02")])

    assert [at for at, _ in book_problems(before, METERS, rows)] == [("overrides", 0, "valid_from")]
    assert book_problems(after, METERS, rows) == []


def test_overrides_of_the_same_price_may_follow_one_another_and_not_overlap() -> None:
    def problems(second_from: str) -> Any:
        both = [override(valid_to="2026-03-01"), override(valid_from=second_from)]
        return book_problems(book(overrides=both), METERS, [row()])

    assert problems("2026-03-01") == []
    at, found = only(problems("2026-02-28"))
    assert at == ("overrides", 1, "valid_from")
    assert "which override #1 (2026-02-01 to 2026-03-01) covers or overlaps" in found


def test_an_account_without_a_plan_or_a_price_in_its_currency_is_refused() -> None:
    rows = [row("acct-1"), row("acct-2", plan="gold"), row("acct-3", currency="EUR")]

    assert account_problems(book(), rows) == [
        (1, "plan of account acct-2: found 'gold', accepted standard"),
        (2, "currency of account acct-3: found EUR, accepted USD (charges of plan 'standard')"),
    ]


def test_an_account_that_is_gone_when_the_book_begins_needs_no_plan_in_it() -> None:
    def problems(valid_to: str) -> Any:
        return account_problems(book(), [row(plan="gold", valid_from="2025-01-01T00:00:00Z", valid_to=valid_to)])

    assert problems("2026-01-01T00:00:00Z") == []
    assert len(problems("2026-01-01T00:00:01Z")) == 1


# ---- final periods ----


def priced(value: PriceBook) -> PricedBook:
    return PricedBook(value, "prices@0")


@pytest.mark.parametrize(
    ("effective_from", "named"),
    [
        ("2026-03-01", None),
        ("2026-02-28", "2026-02"),
        ("2026-02-01", "2026-02"),
        ("2025-12-01", "2026-01, 2026-02"),
    ],
)
def test_a_book_that_begins_before_the_end_of_a_final_period_is_refused(effective_from: str, named: str | None) -> None:
    found = final_period_problems(book(effective_from=effective_from), {"2026-01", "2026-02"}, [])

    expected = f"found {effective_from}, accepted 2026-03-01 or later: final and never rated again: {named}"
    assert found == ([] if named is None else [(("effective_from",), expected)])


def test_an_override_that_reaches_into_a_final_period_is_refused_unless_it_was_billed_so() -> None:
    new = book(effective_from="2026-03-01", overrides=[override(valid_from="2026-02-15")])

    [(at, found)] = final_period_problems(new, {"2026-01", "2026-02"}, [priced(book())])

    assert at == ("overrides", 0, "valid_from")
    assert found == ("found 2026-02-15, accepted 2026-03-01 or later: acct-1 was billed without it in final 2026-02")
    same = book(overrides=[override(valid_from="2026-02-15", reason="the reason may be worded anew")])
    assert final_period_problems(new, {"2026-01", "2026-02"}, [priced(same)]) == []
    other_price = book(overrides=[override(valid_from="2026-02-15", charge=charge(unit_price="0.4"))])
    assert len(final_period_problems(new, {"2026-02"}, [priced(other_price)])) == 1


def test_an_override_may_begin_where_the_final_period_ends() -> None:
    new = book(effective_from="2026-03-01", overrides=[override(valid_from="2026-03-01")])

    assert final_period_problems(new, {"2026-02"}, [priced(book())]) == []


def test_an_override_that_only_a_part_of_a_final_period_had_is_compared_day_by_day() -> None:
    """The book of 10 February brought the override; one that claims the days before it would change them."""
    live = [priced(book()), priced(book(effective_from="2026-02-10", overrides=[override(valid_from="2026-02-10")]))]

    as_billed = book(effective_from="2026-03-01", overrides=[override(valid_from="2026-02-10")])
    earlier = book(effective_from="2026-03-01", overrides=[override(valid_from="2026-02-09")])

    assert final_period_problems(as_billed, {"2026-02"}, live) == []
    assert len(final_period_problems(earlier, {"2026-02"}, live)) == 1
