"""Rating cases: what a file of them may hold, and that published amounts of other systems come out (P7)."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.core.price_cases import CaseOutcome, inputs_of, of_book, outcome_of, parse_cases, rate_case
from tests.core.price_books import charge, priced_book

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "rating-cases.jsonl"
PER_UNIT = {"model": "per_unit", "unit_price": "0.335"}


def case(case_id: str = "one", **keys: Any) -> dict[str, Any]:
    given = {"charge": PER_UNIT, "usage": {"quantity": "1"}, "currency": "USD", "expected": {"amount": "0.34"}}
    return {"id": case_id, **given, **keys}


def rated(**keys: Any) -> CaseOutcome:
    [parsed] = parse_cases(json.dumps(case(**keys)), "cases.jsonl")
    return rate_case(parsed)


def problems_of(*lines: dict[str, Any] | str) -> list[str]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    with pytest.raises(InputError) as refusal:
        parse_cases(text, "cases.jsonl")
    assert refusal.value.code == "price_cases.invalid"
    return list(refusal.value.details)


@pytest.mark.skipif(not ORACLES.is_file(), reason="the rating cases of other systems are not here: ../shared/oracles")
def test_published_examples_of_other_systems_give_their_printed_amounts() -> None:
    cases = parse_cases(ORACLES.read_text(encoding="utf-8"), ORACLES.name)

    assert len(cases) >= 50
    assert [difference for one in cases for difference in rate_case(one).differences()] == []


def test_a_case_passes_when_the_amount_is_the_expected_one() -> None:
    outcome = rated()

    assert (outcome.passed, outcome.amount_exact, outcome.amount) == (True, Decimal("0.335"), Decimal("0.34"))


def test_a_difference_names_file_line_case_and_both_amounts() -> None:
    outcome = rated(expected={"amount": "0.33", "amount_exact": "0.334"})

    assert list(outcome.differences()) == [
        "cases.jsonl, line 1, case one: amount_exact: expected 0.334 USD, actual 0.335 USD",
        "cases.jsonl, line 1, case one: amount: expected 0.33 USD, actual 0.34 USD",
    ]
    assert not outcome.passed


def test_the_policy_says_how_is_rounded() -> None:
    half = {"model": "per_unit", "unit_price": "0.345"}

    assert rated(charge=half, policy={"rounding": "half_even"}).amount == Decimal("0.34")
    assert rated(charge=half, policy="half_even").amount == Decimal("0.34")
    assert rated(charge=half, policy={"rounding": "half_up"}).amount == rated(charge=half).amount == Decimal("0.35")


# 3 and 1 units at 0.335: the lines 1.005 and 0.335 round to 1.01 + 0.34 = 1.35, their total 1.34 is 1.34.
TWO_LINES = {"model": "graduated", "tiers": [{"up_to": "3", "unit_price": "0.335"}, {"unit_price": "0.335"}]}


@pytest.mark.parametrize(
    ("policy", "right"),
    [
        ({}, ["1.34", "1.35"]),
        ({"rounded": "lines"}, ["1.35"]),
        ({"rounded": "total"}, ["1.34"]),
        ("half_even", ["1.34"]),  # 1.00 + 0.34
        ({"rounding": "half_even", "rounded": "lines"}, ["1.34"]),
        ({"rounding": "half_up", "rounded": "lines"}, ["1.35"]),
    ],
)
def test_the_policy_says_what_is_rounded_and_without_it_either_is_right(policy: Any, right: list[str]) -> None:
    amounts = ["1.33", "1.34", "1.345", "1.35", "1.36"]

    passed = [
        amount
        for amount in amounts
        if rated(charge=TWO_LINES, usage={"quantity": "4"}, policy=policy, expected={"amount": amount}).passed
    ]

    assert passed == right


def test_the_total_is_rounded_once_as_the_case_rounds_and_in_its_currency() -> None:
    yen = {"charge": {"model": "per_unit", "unit_price": "0.5"}, "usage": {"quantity": "5"}, "currency": "JPY"}

    assert rated(**yen, expected={"amount": "3"}, policy={"rounded": "total"}).passed
    assert rated(**yen, expected={"amount": "2"}, policy={"rounded": "total", "rounding": "half_even"}).passed


def test_a_difference_says_what_is_rounded_where_that_matters() -> None:
    def difference(**policy: str) -> str:
        outcome = rated(charge=TWO_LINES, usage={"quantity": "4"}, policy=policy, expected={"amount": "1.3"})
        [sentence] = outcome.differences()
        return sentence.removeprefix("cases.jsonl, line 1, case one: amount: expected 1.3 USD, actual ")

    assert difference() == "1.35 USD (rounded lines) or 1.34 USD (rounded total)"
    assert difference(rounded="lines") == "1.35 USD (rounded lines)"
    assert difference(rounded="total") == "1.34 USD (rounded total)"
    assert difference(rounding="half_even") == "1.34 USD"


def test_a_json_number_keeps_the_digits_that_were_written() -> None:
    text = json.dumps(case()).replace('"0.335"', "0.10000000000000001e-2").replace('"quantity": "1"', '"quantity": 3')

    with pytest.raises(InputError, match=r"found 0\.0010000000000000001, accepted"):
        parse_cases(text, "cases.jsonl")
    [parsed] = parse_cases(text.replace("0.10000000000000001e-2", "1e-12"), "cases.jsonl")
    assert rate_case(parsed).amount_exact == Decimal("3e-12")


def test_events_are_priced_in_the_order_of_the_case() -> None:
    by_event = {"model": "percentage", "percent": "10", "free_events": 1, "fixed_fee_per_event": "1"}

    outcome = rated(charge=by_event, usage={"values": ["100", "5", "20"]})

    assert outcome.amount_exact == Decimal("0.5") + 1 + 2 + 1
    by_count = {"model": "percentage", "percent": "10", "fixed_fee_per_event": "1"}
    assert rated(charge=by_count, usage={"quantity": "125", "event_count": 3}).amount_exact == Decimal("15.5")


@pytest.mark.parametrize(
    ("cell", "found"), [("aws", "aws"), ("1", 1), ("true", True), ("", None)], ids=["text", "number", "boolean", "null"]
)
def test_dimensions_of_a_case_are_compared_as_text(cell: str, found: object) -> None:
    matrix = {"model": "matrix", "cells": [{"match": {"cloud": cell}, "unit_price": "2"}]}

    assert rated(charge=matrix, usage={"quantity": "3", "dimensions": {"cloud": found}}).amount == 6


def test_a_dynamic_price_and_fees_in_both_timings_are_cases_too() -> None:
    assert rated(charge={"model": "dynamic"}, usage={"quantity": "5.255"}).amount == Decimal("5.26")
    for timing in ("arrears", "advance"):
        fee = {"model": "flat_fee", "amount": "20", "timing": timing}
        assert rated(charge=fee, usage={"quantity": "0"}).amount == 20


def test_usage_beyond_a_last_tier_that_has_an_end_is_a_problem() -> None:
    for model in ("graduated", "volume"):
        closed = {"model": model, "tiers": [{"up_to": "10", "unit_price": "1"}]}
        assert rated(charge=closed, usage={"quantity": "10"}).amount == 10
        outcome = rated(charge=closed, usage={"quantity": "10.5"})
        assert list(outcome.differences()) == [
            "cases.jsonl, line 1, case one: account case-1, SKU case, 10.5 units: 10.5 units are beyond the last tier, "
            "which ends at 10"
        ]


def test_each_problem_of_a_file_is_named_with_line_and_key() -> None:
    tiers = {"model": "graduated", "tiers": [{"up_to": "x", "unit_price": "1"}, {"unit_prise": "1"}]}

    assert problems_of(
        case("a", polcy="half_up"),
        case("b", charge=tiers),
        "",
        case("c", charge={"model": "grduated"}, usage={"quantity": "1"}),
        case("d", usage={"quantity": "1", "qty": "2"}),
        case("d"),
        case("d"),
        "[1]",
        '{"id":',
        case("e", expected={}),
        case("f", currency="XAU"),
        case("g", charge=charge(currency="EUR")),
        case("h", policy="half_down"),
        case("l", policy={"rounded": "sum"}),
        '{"id": "i", "id": "j"}',
        json.dumps(case("k")).replace('"1"', "NaN"),
    ) == [
        "cases.jsonl, line 1, polcy: found an unknown key, accepted charge, currency, expected, id, plan, policy, "
        "rounding, sku, source, usage",
        "cases.jsonl, line 2, charge.tiers.#1.up_to: found 'x', accepted a valid decimal",
        "cases.jsonl, line 2, charge.tiers.#2.unit_prise: found an unknown key, accepted flat_fee, unit_price, up_to",
        "cases.jsonl, line 4, charge.model: found 'grduated', accepted per_unit, graduated, volume, stairstep, "
        "package, percentage, graduated_percentage, matrix, dynamic, flat_fee",
        "cases.jsonl, line 5, usage.qty: found an unknown key, accepted dimensions, event_count, quantity, values",
        "cases.jsonl, line 7, id: found 'd', which is the id of line 6",
        "cases.jsonl, line 8, the line: found [1], accepted a JSON object",
        "cases.jsonl, line 9, column 7: found no JSON (Expecting value), accepted one object per line",
        "cases.jsonl, line 10, expected: expected has an amount_exact, an amount, or both",
        "cases.jsonl, line 11, currency: XAU has no minor unit in ISO 4217 and cannot be invoiced",
        "cases.jsonl, line 12, charge.currency: found EUR, accepted USD as in currency",
        "cases.jsonl, line 13, policy.rounding: found 'half_down', accepted 'half_up' or 'half_even'",
        "cases.jsonl, line 14, policy.rounded: found 'sum', accepted 'lines' or 'total'",
        "cases.jsonl, line 15, id: found twice in one object, accepted once",
        "cases.jsonl, line 16, a value: found NaN, accepted a number",
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"usage": {"quantity": "1e30"}}, "no more than 29 digits before the decimal point"),
        (
            {"charge": {"model": "per_unit", "unit_price": "123456789012345"}},
            "found 123456789012345, accepted up to 6 digits before",
        ),
        ({"charge": {"model": "graduated", "tiers": []}}, "charge.tiers: found 0, accepted 1 or more"),
        ({"charge": {"model": "graduated", "tiers": [{"up_to": "-1", "unit_price": "1"}]}}, "greater than 0"),
        (
            {"charge": {"model": "graduated", "tiers": [{"up_to": "1", "unit_price": "-1"}]}},
            "greater than or equal to 0",
        ),
        ({"usage": {"quantity": 0.5, "values": ["1"]}}, "quantity is 0.5, and the values add up to 1"),
        ({"usage": {"values": ["1"], "event_count": 2}}, "event_count is 2, and there are 1 values"),
        ({"usage": {}}, "usage has a quantity, or the values of its events"),
        ({"usage": {"quantity": True}}, "expected an exact decimal, got bool"),
        ({"plan": "standard"}, "either a charge, or the plan and sku"),
        ({"charge": None, "plan": "standard"}, "either a charge, or the plan and sku"),
    ],
)
def test_a_case_out_of_bounds_is_a_clear_error(keys: dict[str, Any], expected: str) -> None:
    [problem] = problems_of(case(**keys))

    assert problem.startswith("cases.jsonl, line 1, ")
    assert expected in problem


def test_a_file_without_a_case_is_refused() -> None:
    assert problems_of("", " ") == ["cases.jsonl: found no case, accepted one JSON object per line"]


def test_a_case_may_name_a_charge_of_a_price_book() -> None:
    book = priced_book(charge(unit_price="0.345"), rounding="half_even").book
    text = json.dumps(case("ours", charge=None, plan="standard", sku="calls", expected={"amount": "0.34"}))

    [found] = of_book(parse_cases(text, "cases.jsonl"), book)

    assert rate_case(found).passed
    with pytest.raises(InputError, match="line 1, case ours: sku: plan 'standard' has no charge of 'calls' in USD"):
        of_book(parse_cases(text, "cases.jsonl"), priced_book(charge(sku="tokens")).book)
    with pytest.raises(InputError, match="plan: found 'pro', accepted standard"):
        of_book(parse_cases(text.replace("standard", "pro"), "cases.jsonl"), book)
    with pytest.raises(ValueError, match="names a charge of a price book"):
        inputs_of(parse_cases(text, "cases.jsonl")[0])


def test_cases_of_a_file_are_accounts_of_their_own_so_that_an_engine_rates_them_at_once() -> None:
    text = "\n".join(json.dumps(case(name, charge=PER_UNIT)) for name in ("a", "b"))

    inputs = [inputs_of(one) for one in parse_cases(text, "cases.jsonl")]

    assert [one.terms.account.account_id for one in inputs] == ["case-1", "case-2"]
    assert len({one.terms.segments[0].priced.version for one in inputs}) == 2
    assert len({one.terms.segments[0].plan_name for one in inputs}) == 2


def test_no_line_is_an_amount_of_zero() -> None:
    [parsed] = parse_cases(json.dumps(case(expected={"amount": "0"})), "cases.jsonl")

    assert outcome_of(parsed, []).passed
    assert not outcome_of(parsed, [], ["no price"]).passed
