"""The reference rater: what docs/pricing.md does not show with numbers, what is refused, and what always holds (P6)."""

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.money import exact, minor_unit_digits, rounding_context
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.price_book import Change, FlatFeeCharge, MatrixCharge
from pipeline.core.rating import (
    ADDITIVE_AGGREGATIONS,
    RatedAccount,
    divided,
    last_active,
    prorated,
    rate_account,
    unpriced,
)
from pipeline.core.terms import AccountTerms, Segment
from tests.core.price_books import (
    ACCOUNT,
    BOUNDS,
    QUANTITIES,
    RatingInputs,
    account_row,
    charge,
    priced_book,
    rating_inputs,
    terms_of,
    used,
)

TWO_TIERS = [{"up_to": "10", "unit_price": "3", "flat_fee": "7"}, {"unit_price": "1", "flat_fee": "5"}]
LINES_OF_USAGE = (LineKind.USAGE, LineKind.INCLUDED)


def rate(*usage: Any, charges: Iterable[dict[str, Any]] = (), **keys: Any) -> RatedAccount:
    return rate_account(terms_of(priced_book(*charges, **keys)), usage)


def shown(lines: Iterable[LineItem]) -> list[tuple[str, str, str]]:
    """Return SKU and the end of each id, the quantity and the amount."""
    made = []
    for line in lines:
        _, sku, _, *what = line.line_item_id.split("/")
        made.append(("/".join((sku, *what)), f"{line.quantity:f}", f"{line.amount:f}"))
    return made


def total(lines: Iterable[LineItem], of: str = "amount") -> Decimal:
    with exact():
        return sum((getattr(line, of) for line in lines), Decimal(0))


# What a line is.


def test_a_line_says_what_it_prices_for_whom_and_when() -> None:
    book = priced_book(charge("graduated", tiers=TWO_TIERS, tax_category="reduced", description="API calls"))
    terms = terms_of(book, rows=[account_row(time_zone="America/New_York")])

    line = rate_account(terms, [used("12")]).lines[1]

    assert line.line_item_id == "acct-7/calls/2026-01/graduated/2"
    assert (line.service_period_start.isoformat(), line.service_period_end.isoformat()) == (
        "2026-01-01T05:00:00+00:00",
        "2026-02-01T05:00:00+00:00",
    )
    assert (line.plan, line.sku, line.description, line.kind, line.model) == (
        "standard",
        "calls",
        "API calls",
        LineKind.USAGE,
        "graduated",
    )
    assert (line.tier, line.quantity, line.unit, line.unit_price, line.per_units) == (2, 2, "units", 1, 1)
    assert (line.flat_fee, line.currency, line.amount_exact, line.amount) == (5, "USD", 7, 7)
    assert (line.tax_category, line.price_book_version, line.segment) == ("reduced", "prices@20250101abcd", 1)


def test_an_amount_of_more_digits_than_python_keeps_by_default_stays_exact() -> None:
    [line] = rate(used("9999999999999.123456789"), charges=[charge(unit_price="1234.123456789012")]).lines

    assert line.amount_exact == Decimal("12341234567889038.237462415739672002468")
    assert line.residual == Decimal("-0.002537584260327997532")


def test_a_line_that_prices_no_usage_has_its_whole_amount_as_flat_fee() -> None:
    [minimum] = rate(charges=[charge(minimum_amount="9.99")]).lines

    assert (minimum.quantity, minimum.unit, minimum.unit_price, minimum.per_units) == (0, "", 0, 1)
    assert minimum.flat_fee == minimum.amount_exact == Decimal("9.99")


def test_a_line_cannot_be_changed() -> None:
    [line] = rate(used("1"), charges=[charge()]).lines

    with pytest.raises(AttributeError):
        line.amount = Decimal(2)  # type: ignore[misc]


def test_lines_are_in_order_of_id_whatever_the_order_of_charges_and_usage() -> None:
    charges = [charge(sku=sku) for sku in ("tokens", "calls")]

    lines = rate(used("1", "tokens"), used("2", "calls"), charges=charges).lines

    assert [line.sku for line in lines] == ["calls", "tokens"]


def test_usage_of_zero_makes_no_line_and_needs_no_price() -> None:
    assert rate(used("0"), used("0", "unknown"), charges=[charge()]) == ([], [])


def test_an_account_pays_in_its_own_currency() -> None:
    book = priced_book(charge(unit_price="0.01"), charge(unit_price="1.5", currency="JPY"))

    [line] = rate_account(terms_of(book, rows=[account_row(currency="JPY")]), [used("333")]).lines

    assert (line.amount, line.currency) == (Decimal(500), "JPY")


def test_only_the_commitment_and_the_discounts_in_the_currency_of_the_account_count() -> None:
    plan = {
        "commitments": [{"currency": "EUR", "amount": "100"}],
        "discounts": [{"currency": "EUR", "percent": "50"}, {"percent": "10"}],
    }

    lines = rate(used("10"), charges=[charge()], plan=plan).lines

    assert shown(lines) == [("calls/per_unit/1", "10", "10.00"), ("calls/plan_discount/2", "0", "-1.00")]


# Usage without a price.


def only_problem(rated: RatedAccount) -> str:
    [problem] = rated.problems
    return problem


def test_usage_without_a_charge_is_a_problem() -> None:
    assert only_problem(rate(used("2.50", "storage"), charges=[charge()])) == (
        "account acct-7, SKU storage, 2.5 units: plan 'standard' of price book prices@20250101abcd has no charge in USD"
    )


def test_usage_of_a_sku_that_is_a_flat_fee_is_a_problem() -> None:
    fee = charge("flat_fee", "support", amount="10")

    assert "a flat fee in USD, which prices no usage" in only_problem(rate(used("1", "support"), charges=[fee]))
    assert rate(used("0", "support"), charges=[fee]).problems == []


def test_each_row_that_no_cell_of_a_matrix_matches_is_a_problem() -> None:
    cells = [{"match": {"region": "eu"}, "unit_price": "1"}]
    rows = [used("1", dimensions={"region": "eu"}), used("2", dimensions={"region": "us"}), used("3", dimensions={})]

    rated = rate(*rows, used("0", dimensions={"region": "x"}), charges=[charge("matrix", cells=cells)])

    assert rated.problems == [
        'account acct-7, SKU calls, 2 units: its charge has no cell for {"region": "us"}, and no default_unit_price',
        "account acct-7, SKU calls, 3 units: its charge has no cell for {}, and no default_unit_price",
    ]


@pytest.mark.parametrize(("value", "text"), [(1, "1"), (True, "true"), (None, ""), ("1", "1")])
def test_a_dimension_is_compared_as_text(value: object, text: str) -> None:
    cells = [{"match": {"size": text}, "unit_price": "2"}]

    [line] = rate(used("3", dimensions={"size": value, "other": "x"}), charges=[charge("matrix", cells=cells)]).lines

    assert (line.tier, line.amount) == (1, 6)


def test_a_number_in_a_dimension_keeps_its_digits() -> None:
    row = replace(used("3"), dimensions='{"size":1.50}')

    cells = [{"match": {"size": "1.50"}, "unit_price": "2"}]

    assert rate(row, charges=[charge("matrix", cells=cells)]).problems == []


def test_a_dynamic_charge_of_another_unit_than_the_currency_is_a_problem() -> None:
    assert rate(used("5.25", unit="USD"), charges=[charge("dynamic")]).lines[0].amount == Decimal("5.25")
    of_another_unit = rate(used("5.25", unit="EUR"), charges=[charge("dynamic")])
    assert "expected its unit to be USD" in only_problem(of_another_unit)
    assert of_another_unit.lines == []


def test_a_sku_counted_in_two_units_is_a_problem_whatever_the_order() -> None:
    rows = [used("1", unit="calls"), used("2", unit="bytes")]

    problem = only_problem(rate(*rows, charges=[charge()]))

    assert problem.startswith("account acct-7, SKU calls, 1 calls: the SKU is counted in bytes as well")
    assert rate(*rows[::-1], charges=[charge()]).problems == [problem]


def test_a_sku_aggregated_in_two_ways_is_a_problem() -> None:
    problem = only_problem(rate(used("1"), used("2", aggregation="max"), charges=[charge()]))

    assert "is aggregated as sum in some windows and as max in others" in problem


def test_a_price_by_event_without_the_values_of_events_is_a_problem() -> None:
    by_event = charge("percentage", percent="1", free_events=1)

    assert "keep_values of its meter" in only_problem(rate(used("100"), charges=[by_event]))


def test_a_price_by_event_is_a_problem_where_some_events_have_no_value() -> None:
    terms = terms_of(priced_book(charge("percentage", percent="1", free_events=1)))
    kept = [event("40", hour=9), event("30", hour=10, count=2)]

    def problems(event_count: int) -> list[str]:
        return rate_account(terms, [used("100", event_count=event_count)], kept).problems

    assert problems(3) == []
    [problem] = problems(4)
    assert problem.endswith(
        "of 4 events 3 have one: all windows of a period are counted with keep_values of its meter (billing backfill)"
    )


def test_an_amount_that_does_not_fit_its_column_is_a_problem() -> None:
    assert rate(used("9" * 17), charges=[charge()]).problems == []
    assert only_problem(rate(used("1" + "0" * 17), charges=[charge()])) == (
        "account acct-7, SKU calls, 100000000000000000 units: the amount 100000000000000000 USD has more than 17 "
        "digits before the point"
    )


def test_usage_that_does_not_fit_its_column_is_a_problem_and_no_error_of_arithmetic() -> None:
    for quantity in ("1e30", "-1e29", "1e70"):
        assert "more than 29 digits before the point" in only_problem(rate(used(quantity), charges=[charge()]))
    free = charge(unit_price="0")
    assert rate(used("9.9e28"), charges=[free]).problems == []
    twice = [used("9.9e28", dimensions={"a": number}) for number in (1, 2)]
    assert "more than 29 digits" in only_problem(rate(*twice, charges=[free]))


def test_a_price_of_fifteen_digits_is_exact() -> None:
    [line] = rate(used("0.000000001"), charges=[charge(unit_price="999999.999999999999")]).lines

    assert line.amount_exact == Decimal("0.000999999999999999999")


def test_everything_without_a_price_is_named_in_one_refusal() -> None:
    refusal = unpriced(["b: no price", "a: no price"], "2026-01")

    assert refusal.code == "pricing.unpriced_usage"
    assert refusal.summary == "usage of period 2026-01 cannot be priced (2 in all)"
    assert refusal.details[:2] == ("a: no price", "b: no price")


def test_what_has_a_price_is_rated_beside_what_has_none() -> None:
    rated = rate(used("1"), used("1", "storage"), charges=[charge()])

    assert shown(rated.lines) == [("calls/per_unit/1", "1", "1.00")]
    assert len(rated.problems) == 1


def test_rows_of_another_account_or_segment_are_refused() -> None:
    terms = terms_of(priced_book(charge()))

    with pytest.raises(ValueError, match="another account than acct-7"):
        rate_account(terms, [replace(used("1"), account_id="acct-8")])
    with pytest.raises(ValueError, match="usage of segment 2, and the terms have 1"):
        rate_account(terms, [used("1", segment=2)])


# Parts of a period.


def split(change: Change, *changes: dict[str, Any], **keys: Any) -> Any:
    """Return the terms of January under two books, the second from the 16th on; each of ``changes`` is a charge."""
    first, second = changes if len(changes) == 2 else changes * 2
    return terms_of(
        priced_book(first, on_change=change, **keys),
        priced_book(second, name="new", effective_from="2026-01-16", on_change=change, **keys),
    )


def test_the_id_of_a_line_in_the_second_part_of_a_period_says_so() -> None:
    terms = split(Change.SPLIT_COUNTING_ON, charge())

    lines = rate_account(terms, [used("1"), used("1", segment=2)]).lines

    assert [line.line_item_id for line in lines] == [
        "acct-7/calls/2026-01.2/per_unit/1",
        "acct-7/calls/2026-01/per_unit/1",
    ]
    assert [line.service_period_start.day for line in lines] == [16, 1]
    assert [line.price_book_version for line in lines] == ["new@20260116abcd", "prices@20250101abcd"]


def test_the_flat_fee_of_a_tier_is_due_once_when_parts_count_on_and_in_each_when_they_start_again() -> None:
    usage = [used("11"), used("1", segment=2)]
    tiers = charge("graduated", tiers=TWO_TIERS)

    counting_on = rate_account(split(Change.SPLIT_COUNTING_ON, tiers), usage).lines
    starting_again = rate_account(split(Change.SPLIT_STARTING_AGAIN, tiers), usage).lines

    assert total(counting_on) == 10 * 3 + 7 + 2 * 1 + 5
    assert total(starting_again) == (10 * 3 + 7 + 1 * 1 + 5) + (1 * 3 + 7)


def test_a_tier_is_entered_above_the_bound_before_it_not_at_it() -> None:
    terms = split(Change.SPLIT_COUNTING_ON, charge("graduated", tiers=TWO_TIERS))

    at_the_bound = rate_account(terms, [used("10"), used("1", segment=2)]).lines
    just_above = rate_account(terms, [used("10.5"), used("1", segment=2)]).lines

    assert [(line.segment, line.tier, line.flat_fee) for line in at_the_bound] == [(2, 2, 5), (1, 1, 7)]
    assert [(line.segment, line.tier, line.flat_fee) for line in just_above] == [(2, 2, 0), (1, 1, 7), (1, 2, 5)]


def commitment(amount: str, **keys: Any) -> dict[str, Any]:
    """Return the keys of a plan that commits to an amount in US dollars."""
    return {"commitments": [{"currency": "USD", "amount": amount, **keys}]}


def of_plan(lines: Iterable[LineItem]) -> list[tuple[int, LineKind, Decimal]]:
    """Return segment, kind and exact amount of the lines that are of a plan as a whole."""
    return [(line.segment, line.kind, line.amount_exact) for line in lines if not line.model]


@pytest.mark.parametrize("change", [Change.SPLIT_COUNTING_ON, Change.SPLIT_STARTING_AGAIN])
def test_a_commitment_that_is_not_prorated_is_due_once_and_counts_all_parts(change: Change) -> None:
    terms = split(change, charge(), plan=commitment("31", prorated=False, overage_factor="1.5"))

    def beyond(second: str) -> list[tuple[int, LineKind, Decimal]]:
        return of_plan(rate_account(terms, [used("20"), used(second, segment=2)]).lines)

    assert beyond("10.99") == [(2, LineKind.COMMITMENT, Decimal("0.01"))]
    assert beyond("11") == []
    assert beyond("11.01") == [(2, LineKind.OVERAGE, Decimal("0.005"))]
    assert of_plan(rate_account(terms, [used("40")]).lines) == [(2, LineKind.OVERAGE, Decimal("4.5"))]
    assert of_plan(rate_account(terms, []).lines) == [(2, LineKind.COMMITMENT, Decimal(31))]


def test_a_prorated_commitment_counts_each_part_by_its_days() -> None:
    terms = split(Change.SPLIT_COUNTING_ON, charge(), plan=commitment("31"))

    lines = rate_account(terms, [used("40"), used("1", segment=2)]).lines

    assert of_plan(lines) == [(2, LineKind.COMMITMENT, Decimal(15))]


def test_the_commitment_of_the_last_plan_counts_what_an_earlier_one_was_topped_up_by() -> None:
    first = {"charges": [charge()], **commitment("62")}
    second = {"charges": [charge()], **commitment("50", prorated=False)}
    book = priced_book(on_change="split_counting_on", plans={"standard": first, "pro": second})
    at = "2026-01-11T00:00:00Z"

    def topped_up(one: str, then: str) -> list[tuple[int, LineKind, Decimal]]:
        rows = [account_row(plan=one, valid_to=at), account_row(plan=then, valid_from=at)]
        return of_plan(rate_account(terms_of(book, rows=rows), [used("5"), used("6", segment=2)]).lines)

    assert topped_up("standard", "pro") == [
        (2, LineKind.COMMITMENT, Decimal(24)),
        (1, LineKind.COMMITMENT, Decimal(15)),
    ]
    assert topped_up("pro", "standard") == [(2, LineKind.COMMITMENT, Decimal(36))]


def test_a_commitment_that_is_not_prorated_is_whole_for_an_account_of_few_days_and_leaves_fees_in_advance_out() -> None:
    fee = charge("flat_fee", "base", amount="80", timing="advance")
    book = priced_book(fee, charge(), on_change="split_counting_on", plan=commitment("50", prorated=False))
    newer = priced_book(fee, charge(), name="new", effective_from="2026-01-16", plan=commitment("50", prorated=False))
    began, left = account_row(valid_from="2026-01-30T00:00:00Z"), account_row(valid_to="2026-01-03T00:00:00Z")

    for row in (began, left):
        terms = terms_of(book, newer, rows=[row])
        assert len(terms.segments) == 1
        assert of_plan(rate_account(terms, [used("20")]).lines) == [(1, LineKind.COMMITMENT, Decimal(30))]
    both = rate_account(terms_of(book, newer), [used("20")]).lines
    assert of_plan(both) == [(2, LineKind.COMMITMENT, Decimal(30))]


# Parts without an active day.


def changed_at(first: dict[str, Any], second: dict[str, Any], at: str, change: str = "split_counting_on") -> Any:
    """Return the terms of an account that changes at an instant from one plan to another."""
    book = priced_book(on_change=change, plans={"standard": first, "pro": second})
    return terms_of(book, rows=[account_row(valid_to=at), account_row(plan="pro", valid_from=at)])


LAST_MIDNIGHT = "2026-01-31T00:00:00Z"  # from here on, the second part has one day
AFTER_MIDNIGHT = "2026-01-31T00:00:01Z"  # from here on, none


@pytest.mark.parametrize("change", ["split_counting_on", "split_starting_again"])
def test_a_part_without_a_day_is_neither_capped_nor_topped_up(change: str) -> None:
    plan = {"charges": [charge(minimum_amount="31", maximum_amount="62")], **commitment("310", overage_factor="2")}

    def kinds(at: str, second: str) -> list[tuple[LineKind, Decimal]]:
        terms = changed_at({"charges": [charge()]}, plan, at, change)
        lines = rate_account(terms, [used("1"), used(second, segment=2)]).lines
        return [(line.kind, line.amount) for line in lines if line.segment == 2 and line.kind is not LineKind.USAGE]

    assert kinds(LAST_MIDNIGHT, "80") == [(LineKind.MAXIMUM, -78), (LineKind.COMMITMENT, 8)]
    assert kinds(LAST_MIDNIGHT, "0.5") == [(LineKind.MINIMUM, Decimal("0.5")), (LineKind.COMMITMENT, 9)]
    for quantity in ("80", "0.5", "0", "-3"):
        assert kinds(AFTER_MIDNIGHT, quantity) == []


def test_the_usage_of_a_part_without_a_day_counts_in_a_commitment_of_the_whole_period() -> None:
    first = {"charges": [charge()], **commitment("100", prorated=False)}
    usage = [used("40"), used("30", segment=2)]

    without_a_day = rate_account(changed_at(first, {"charges": [charge()]}, AFTER_MIDNIGHT), usage).lines
    with_a_day = rate_account(changed_at(first, {"charges": [charge()]}, LAST_MIDNIGHT), usage).lines

    assert of_plan(without_a_day) == [(1, LineKind.COMMITMENT, 30)]
    assert of_plan(with_a_day) == []


def test_an_amount_is_taken_off_the_last_part_with_a_day_and_a_percentage_off_each() -> None:
    plan = {"charges": [charge()], "discounts": [{"amount": "3", "currency": "USD"}, {"percent": "10"}]}
    usage = [used("13"), used("20", segment=2)]

    def discounts(at: str) -> list[tuple[int, int, Decimal]]:
        lines = rate_account(changed_at(plan, plan, at), usage).lines
        return [(line.segment, line.tier, line.amount) for line in lines if line.kind is LineKind.PLAN_DISCOUNT]

    assert discounts(AFTER_MIDNIGHT) == [(2, 2, -2), (1, 1, -3), (1, 2, -1)]
    assert discounts(LAST_MIDNIGHT) == [(2, 1, -3), (2, 2, Decimal("-1.7")), (1, 2, Decimal("-1.3"))]


def test_the_fee_of_a_volume_is_due_in_the_last_part_with_a_day() -> None:
    plan = {"charges": [charge("stairstep", tiers=[{"up_to": "5", "flat_fee": "7"}, {"flat_fee": "20"}])]}
    usage = [used("4"), used("2", segment=2)]

    def due(at: str) -> list[tuple[int, Decimal]]:
        return [(line.segment, line.flat_fee) for line in rate_account(changed_at(plan, plan, at), usage).lines]

    assert due(AFTER_MIDNIGHT) == [(2, 0), (1, 20)]
    assert due(LAST_MIDNIGHT) == [(2, 20), (1, 0)]


def test_a_graduated_part_without_a_day_pays_for_tiers_only_where_it_has_usage() -> None:
    tiers = {"charges": [charge("graduated", tiers=TWO_TIERS)]}
    plans = {"standard": {"charges": [charge()]}, "more": tiers, "pro": tiers}
    times = ["2026-01-01T00:00:00Z", "2026-01-13T06:00:00Z", "2026-01-13T18:00:00Z", "2027-01-01T00:00:00Z"]
    rows = [
        account_row(plan=plan, valid_from=start, valid_to=end)
        for plan, start, end in zip(plans, times, times[1:], strict=False)
    ]
    terms = terms_of(priced_book(on_change="split_counting_on", plans=plans), rows=rows)

    def due(*usage: PeriodUsage) -> list[tuple[int, int, Decimal]]:
        lines = rate_account(terms, [used("12"), *usage]).lines
        return sorted((line.segment, line.tier, line.flat_fee) for line in lines if line.flat_fee)

    assert due(used("1", segment=3)) == [(3, 1, 7), (3, 2, 5)]
    assert due(used("1", segment=2), used("1", segment=3)) == [(2, 1, 7), (2, 2, 5)]


def test_what_is_due_once_is_due_in_the_last_part_with_a_day() -> None:
    terms = split(Change.SPLIT_COUNTING_ON, charge())

    def with_days(*days: int) -> AccountTerms:
        parts = [replace(terms.segments[0], number=number, active_days=n) for number, n in enumerate(days, start=1)]
        return replace(terms, segments=tuple(parts))

    assert last_active(with_days(0, 3, 0, 1, 0)) == 4
    assert last_active(with_days(1, 0)) == 1
    assert last_active(with_days(0, 0, 0)) == 0


def test_an_account_that_is_not_there_has_no_maximum_commitment_overage_or_amount_off() -> None:
    gone = [account_row(valid_from="2025-01-01T00:00:00Z", valid_to="2025-02-01T00:00:00Z")]
    capped = charge(minimum_amount="100", maximum_amount="100")
    for prorated_too in (True, False):
        plan = {**commitment("50", overage_factor="2", prorated=prorated_too)}
        plan["discounts"] = [{"amount": "3", "currency": "USD"}, {"percent": "10"}]
        terms = terms_of(priced_book(capped, plan=plan), rows=gone)
        for quantity in ("10", "200"):
            lines = rate_account(terms, [used(quantity)]).lines
            assert [(line.kind, line.tier) for line in lines] == [(LineKind.USAGE, 1), (LineKind.PLAN_DISCOUNT, 2)]


# Discounts of a plan.


@pytest.mark.parametrize(
    ("exports", "discounts"),
    [
        ("-9.99", [("calls", "-0.01")]),  # 10 % of 0.01 is nothing; the amount takes what there is
        ("-10", []),
        ("-10.01", []),
        ("-30", []),
    ],
)
def test_a_discount_of_the_plan_takes_nothing_off_a_sum_of_zero_or_below(
    exports: str, discounts: list[tuple[str, str]]
) -> None:
    plan = {"discounts": [{"percent": "10"}, {"amount": "2", "currency": "USD"}]}

    lines = rate(used("10"), used(exports, "exports"), charges=[charge(), charge(sku="exports")], plan=plan).lines

    taken = [(line.sku, f"{line.amount:f}") for line in lines if line.kind is LineKind.PLAN_DISCOUNT]
    assert taken == discounts


def test_a_discount_of_a_plan_under_which_everything_is_free_makes_no_line() -> None:
    plan = {"discounts": [{"percent": "10"}, {"amount": "2", "currency": "USD"}]}

    lines = rate(used("10"), charges=[charge(unit_price="0")], plan=plan).lines

    assert shown(lines) == [("calls/per_unit/1", "10", "0.00")]


# Commitments.


def test_beyond_a_commitment_nothing_is_added_unless_it_costs_more() -> None:
    plan = {"commitments": [{"currency": "USD", "amount": "5"}]}

    assert shown(rate(used("10"), charges=[charge()], plan=plan).lines) == [("calls/per_unit/1", "10", "10.00")]


def test_usage_of_an_account_that_is_not_there_has_no_minimum() -> None:
    gone = [account_row(valid_from="2025-01-01T00:00:00Z", valid_to="2025-02-01T00:00:00Z")]
    terms = terms_of(priced_book(charge(minimum_amount="31")), rows=gone)

    lines = rate_account(terms, [used("-5")]).lines

    assert shown(lines) == [("calls/per_unit/1", "-5", "-5.00")]


def test_the_flat_fee_of_a_tier_is_given_back_when_usage_leaves_it() -> None:
    terms = split(Change.SPLIT_COUNTING_ON, charge("graduated", tiers=TWO_TIERS))

    lines = rate_account(terms, [used("11"), used("-2", segment=2)]).lines

    assert shown(lines)[:2] == [("calls/graduated/1", "-1", "-3.00"), ("calls/graduated/2", "-1", "-6.00")]
    assert total(lines) == 9 * 3 + 7


def test_the_fee_of_a_volume_is_due_in_the_last_part_also_without_usage_in_it() -> None:
    steps = charge("stairstep", tiers=[{"up_to": "5", "flat_fee": "0"}, {"flat_fee": "20"}])
    terms = split(Change.SPLIT_COUNTING_ON, steps)

    lines = rate_account(terms, [used("6")]).lines

    assert [(line.segment, line.amount, line.unit) for line in lines] == [(2, 20, "units"), (1, 0, "units")]


def test_a_fee_on_usage_of_zero_is_due_once_when_parts_count_on() -> None:
    for model in ("graduated", "volume"):
        lines = rate_account(split(Change.SPLIT_COUNTING_ON, charge(model, tiers=TWO_TIERS)), []).lines
        assert total(lines) == 7, model
    again = rate_account(split(Change.SPLIT_STARTING_AGAIN, charge("graduated", tiers=TWO_TIERS)), []).lines
    assert total(again) == 14


@pytest.mark.parametrize("aggregation", ["max", "min", "average", "unique_count", "latest", "percentile"])
def test_what_is_no_sum_counts_for_its_days_and_never_on(aggregation: str) -> None:
    terms = split(Change.SPLIT_COUNTING_ON, charge("graduated", "seats", tiers=TWO_TIERS))
    usage = [used("31", "seats", number, aggregation=aggregation) for number in (1, 2)]

    lines = rate_account(terms, usage).lines

    assert [(line.segment, line.tier, line.quantity) for line in lines] == [
        (2, 1, 10),
        (2, 2, 6),
        (1, 1, 10),
        (1, 2, 5),
    ]
    assert aggregation not in ADDITIVE_AGGREGATIONS


def test_what_is_no_sum_is_rounded_half_up_at_nine_decimals_after_the_cells_are_added_up() -> None:
    cells = charge("matrix", cells=[{"match": {"region": "x"}, "unit_price": "0"}], default_unit_price="1")
    usage = [
        used("0.000000001", segment=part, dimensions={"region": name}, aggregation="max")
        for name in ("eu", "us", "jp")
        for part in (1, 2)
    ]

    lines = rate_account(split(Change.SPLIT_STARTING_AGAIN, cells), usage).lines

    # Of 31 days, 15 are in the first part and 16 in the second: 1.45 and 1.55 billionths.
    assert [(line.line_item_id[-7:], line.segment, line.quantity) for line in lines] == [
        ("default", 2, Decimal("2e-9")),
        ("default", 1, Decimal("1e-9")),
    ]


def test_a_part_without_a_day_and_without_usage_makes_no_line() -> None:
    minimum = charge(minimum_amount="31")
    commitment = {"currency": "USD", "amount": "50", "prorated": False}
    gone = [account_row(valid_from="2025-01-01T00:00:00Z", valid_to="2025-02-01T00:00:00Z")]
    terms = terms_of(priced_book(minimum, plan={"commitments": [commitment]}), rows=gone)
    assert terms.active_days == 0

    assert rate_account(terms, []) == ([], [])


def test_an_account_of_ten_days_has_its_share_of_minimum_and_maximum() -> None:
    bounded = charge(minimum_amount="31", maximum_amount="62")
    ten_days = [account_row(valid_from="2026-01-22T00:00:00Z")]
    terms = terms_of(priced_book(bounded), rows=ten_days)

    assert total(rate_account(terms, []).lines) == 10
    assert total(rate_account(terms, [used("15")]).lines) == 15
    assert total(rate_account(terms, [used("21")]).lines) == 20


def test_a_charge_is_capped_or_topped_up_never_both() -> None:
    both = charge(minimum_amount="10.005", maximum_amount="10.005")

    lines = rate(used("20"), charges=[both]).lines

    assert shown(lines) == [("calls/maximum", "0", "-10.00"), ("calls/per_unit/1", "20", "20.00")]


# Fees.


def fees(lines: Iterable[LineItem]) -> list[tuple[str, str]]:
    return [(line.line_item_id.removeprefix(ACCOUNT + "/"), f"{line.amount:f}") for line in lines]


def test_a_fee_in_advance_is_for_the_next_month_and_for_this_one_when_the_account_began_in_it() -> None:
    book = priced_book(charge("flat_fee", "base", amount="31", timing="advance"))
    began = account_row(valid_from="2026-01-22T00:00:00Z")

    lines = rate_account(terms_of(book), []).lines
    both = rate_account(terms_of(book, rows=[began]), []).lines

    assert fees(lines) == [("base/2026-02/flat_fee", "31.00")]
    assert (lines[0].period_id, lines[0].service_period_start.month) == ("2026-01", 2)
    assert fees(both) == [("base/2026-01/flat_fee", "10.00"), ("base/2026-02/flat_fee", "31.00")]


def test_a_fee_that_is_not_prorated_is_due_whole_once() -> None:
    fee = charge("flat_fee", "base", amount="31", prorated=False)

    lines = rate_account(split(Change.SPLIT_STARTING_AGAIN, fee), []).lines

    assert fees(lines) == [("base/2026-01/flat_fee", "31.00")]


def test_the_commitment_leaves_fees_in_advance_out() -> None:
    charges = [charge("flat_fee", "base", amount="80", timing="advance"), charge()]
    plan = {"commitments": [{"currency": "USD", "amount": "50"}], "discounts": [{"percent": "10"}]}

    lines = rate(used("10"), charges=charges, plan=plan).lines

    assert shown(lines) == [
        ("base/flat_fee", "0", "80.00"),
        ("calls/per_unit/1", "10", "10.00"),
        ("calls/plan_discount/1", "0", "-1.00"),
        ("plan:standard/commitment", "0", "41.00"),
    ]


def test_a_discount_of_a_charge_is_taken_off_its_fee_in_advance() -> None:
    fee = charge("flat_fee", "base", amount="80", timing="advance", discounts=[{"percent": "25"}])

    assert fees(rate(charges=[fee]).lines) == [
        ("base/2026-02/discount/1", "-20.00"),
        ("base/2026-02/flat_fee", "80.00"),
    ]


# Events.


def event(value: str, hour: int, count: int = 1, segment: int = 1) -> EventValue:
    [start] = {terms_of(priced_book(charge())).period.start}
    return EventValue(ACCOUNT, "calls", segment, start.replace(hour=hour), Decimal(value), count)


def price_of_events(events: list[EventValue], **keys: Any) -> Decimal:
    quantity = total_of_values = sum((one.value * one.event_count for one in events), Decimal(0))
    row = used(str(total_of_values), event_count=sum(one.event_count for one in events))
    [line] = rate_account(terms_of(priced_book(charge("percentage", **keys))), [row], events).lines
    assert line.quantity == quantity
    assert line.flat_fee == line.amount_exact - quantity * line.unit_price
    return line.amount_exact


def test_free_events_are_the_first_in_time_and_the_smaller_first_within_an_hour() -> None:
    events = [event("100", 2), event("50", 1), event("10", 1), event("70", 3)]

    assert price_of_events(events, percent="10", free_events=2) == 10 + 7
    assert price_of_events(events, percent="10", free_events=1) == 5 + 10 + 7


def test_the_event_that_crosses_the_free_amount_pays_on_what_is_above_and_its_fee() -> None:
    crossing = [event("40", 1), event("100", 2), event("10", 3)]
    exactly = [event("40", 1), event("60", 2), event("10", 3)]

    assert price_of_events(crossing, percent="10", free_amount="100", fixed_fee_per_event="1") == (4 + 1) + (1 + 1)
    assert price_of_events(exactly, percent="10", free_amount="100", fixed_fee_per_event="1") == 1 + 1


def test_many_events_of_one_value_cost_what_they_cost_one_by_one() -> None:
    keys = {"percent": "10", "fixed_fee_per_event": "0.5", "free_amount": "100", "maximum_per_event": "3"}

    together = price_of_events([event("30", 1, count=5)], **keys)

    assert together == price_of_events([event("30", hour) for hour in range(5)], **keys)
    assert together == (2 + Decimal("0.5")) + 3


def test_an_event_of_zero_or_below_pays_its_percentage_and_nothing_else() -> None:
    keys = {"percent": "10", "fixed_fee_per_event": "1", "minimum_per_event": "5", "free_events": 1}

    assert price_of_events([event("-20", 1), event("0", 2), event("100", 3), event("100", 4)], **keys) == -2 + 11


def test_allowances_count_on_over_the_parts_of_a_period() -> None:
    by_event = charge("percentage", percent="10", free_events=2)
    events = [event("100", 1), event("100", 2, segment=2), event("100", 3, segment=2)]
    usage = [used("100"), used("200", segment=2, event_count=2)]

    counting_on = rate_account(split(Change.SPLIT_COUNTING_ON, by_event), usage, events).lines
    starting_again = rate_account(split(Change.SPLIT_STARTING_AGAIN, by_event), usage, events).lines

    assert total(counting_on) == 10
    assert total(starting_again) == 0


def test_a_refund_in_an_earlier_part_uses_up_no_allowance() -> None:
    by_event = split(Change.SPLIT_COUNTING_ON, charge("percentage", percent="10", free_events=1))
    by_amount = split(Change.SPLIT_COUNTING_ON, charge("percentage", percent="10", free_amount="100"))
    events = [event("-50", 1), event("100", 2, segment=2)]
    usage = [used("-50"), used("100", segment=2)]

    assert [total(rate_account(terms, usage, events).lines) for terms in (by_event, by_amount)] == [-5, -5]


# Arithmetic.


def test_shares_go_to_the_largest_remainders_and_of_equal_ones_to_the_first_name() -> None:
    weights = {"c": Decimal("10.00"), "b": Decimal("10.00"), "a": Decimal("5.00")}

    shares, first = divided(Decimal("0.08"), weights, 2)

    assert shares == {"a": Decimal("0.02"), "b": Decimal("0.03"), "c": Decimal("0.03")}
    assert first == "a"


@given(
    st.lists(st.decimals(0, 1000, places=2), min_size=1, max_size=6).filter(any),
    st.decimals(0, 1000, places=2),
)
def test_shares_add_up_and_none_is_more_than_its_weight(weights: list[Decimal], amount: Decimal) -> None:
    weight_of = {f"sku-{number}": weight for number, weight in enumerate(weights)}
    amount = min(amount, sum(weights, Decimal(0)))

    shares, _ = divided(amount, weight_of, 2)

    assert sum(shares.values(), Decimal(0)) == amount
    assert all(0 <= share <= weight_of[name] for name, share in shares.items())


# What always holds.


def of_segment(lines: Iterable[LineItem], segment: Segment) -> list[LineItem]:
    """Return the lines of a segment; fees in advance are of no segment."""
    return [line for line in lines if line.service_period_start == segment.start and line.segment == segment.number]


@settings(max_examples=40, deadline=None)
@given(rating_inputs())
def test_the_quantities_of_lines_add_up_to_the_usage(inputs: RatingInputs) -> None:
    rated = rate_account(*inputs)

    assert rated.problems == []
    for segment in inputs.terms.segments:
        lines = [line for line in rated.lines if line.segment == segment.number and line.kind in LINES_OF_USAGE]
        for sku, priced_by in segment.charges.items():
            rows = [row for row in inputs.usage if (row.sku, row.segment) == (sku, segment.number)]
            expected = sum((row.quantity for row in rows), Decimal(0))
            if rows and rows[0].aggregation not in ADDITIVE_AGGREGATIONS and len(inputs.terms.segments) > 1:
                if isinstance(priced_by, MatrixCharge):
                    continue  # each cell is prorated by itself
                expected = prorated(expected, inputs.terms.share(segment.active_days), 9)
            assert total((line for line in lines if line.sku == sku), "quantity") == expected


@settings(max_examples=40, deadline=None)
@given(rating_inputs(unpriced=True))
def test_residuals_add_up_to_what_rounding_took_from_all_lines(inputs: RatingInputs) -> None:
    lines, _ = rate_account(*inputs)
    minor_unit = Decimal(1).scaleb(-minor_unit_digits(inputs.terms.account.currency))

    with exact():
        assert total(lines, "residual") == total(lines, "amount_exact") - total(lines, "amount")
        for line in lines:
            if line.kind is not LineKind.PLAN_DISCOUNT:
                rounding = rounding_context(_book_of(inputs, line).rounding)
                assert line.amount == rounding.quantize(line.amount_exact, minor_unit)


def _book_of(inputs: RatingInputs, line: LineItem) -> Any:
    parts = (*inputs.terms.segments, *inputs.terms.advance_fees)
    return next(part.priced.book for part in parts if part.priced.version == line.price_book_version)


@settings(max_examples=40, deadline=None)
@given(rating_inputs(unpriced=True), st.randoms())
def test_ids_are_unique_and_in_order_whatever_the_order_of_rows(inputs: RatingInputs, random: Any) -> None:
    rated = rate_account(*inputs)
    usage, values = list(inputs.usage), list(inputs.values)
    random.shuffle(usage)
    random.shuffle(values)

    again = rate_account(inputs.terms, usage, values)

    ids = [line.line_item_id for line in rated.lines]
    assert ids == sorted(set(ids))
    assert (again.lines, sorted(again.problems)) == (rated.lines, sorted(rated.problems))


@settings(max_examples=40, deadline=None)
@given(rating_inputs())
def test_minimum_and_maximum_hold_for_every_charge(inputs: RatingInputs) -> None:
    lines = rate_account(*inputs).lines
    half = Decimal("0.5").scaleb(-minor_unit_digits(inputs.terms.account.currency))
    used_here = {(row.sku, row.segment) for row in inputs.usage}

    for segment in inputs.terms.segments:
        share = inputs.terms.share(segment.active_days)
        for sku, priced_by in segment.charges.items():
            if isinstance(priced_by, FlatFeeCharge) or not (segment.active_days or (sku, segment.number) in used_here):
                continue
            own = [line for line in lines if (line.sku, line.segment) == (sku, segment.number)]
            amount = total(line for line in own if line.kind is not LineKind.PLAN_DISCOUNT)
            if priced_by.maximum_amount is not None and segment.active_days:
                assert amount <= prorated(priced_by.maximum_amount, share) + half
            if priced_by.minimum_amount is not None and segment.active_days:
                assert amount >= prorated(priced_by.minimum_amount, share) - half


@settings(max_examples=40, deadline=None)
@given(rating_inputs())
def test_discounts_of_the_plan_add_up_to_what_they_are_of_all_charges(inputs: RatingInputs) -> None:
    lines = rate_account(*inputs).lines
    digits = minor_unit_digits(inputs.terms.account.currency)

    for segment in inputs.terms.segments:
        charged = [line for line in of_segment(lines, segment) if line.model]
        base = total(line for line in charged if line.kind is not LineKind.PLAN_DISCOUNT)
        is_last = segment.number == last_active(inputs.terms)
        for number, discount in enumerate(segment.plan.discounts, start=1):
            of_discount = [line for line in charged if (line.kind, line.tier) == (LineKind.PLAN_DISCOUNT, number)]
            with exact():
                percent = discount.percent
                off = min(discount.amount or Decimal(0), base) if percent is None else base * percent / 100
                off = off if base > 0 and (is_last or discount.amount is None) else Decimal(0)
                rounded = rounding_context(segment.priced.book.rounding).quantize(off, Decimal(1).scaleb(-digits))
            assert total(of_discount) == -rounded
            assert total(of_discount, "amount_exact") == (-off if rounded else 0)
            base -= rounded


@settings(max_examples=40, deadline=None)
@given(rating_inputs())
def test_what_is_paid_of_a_committed_plan_is_at_least_the_commitment(inputs: RatingInputs) -> None:
    terms = replace(inputs.terms, advance_fees=())
    lines = rate_account(terms, inputs.usage, inputs.values).lines
    half = Decimal("0.5").scaleb(-minor_unit_digits(terms.account.currency))

    for segment in terms.segments:
        own = [line for line in lines if line.segment == segment.number]
        for committed in segment.plan.commitments:
            if not segment.active_days:
                assert all(line.model for line in own)
            elif committed.prorated:
                assert total(own) >= prorated(committed.amount, terms.share(segment.active_days)) - half
            elif segment.number == last_active(terms):
                assert total(lines) >= committed.amount - half
            else:
                assert all(line.model for line in own)
    of_both = rate_account(*inputs).lines
    assert of_plan(of_both) == of_plan(lines)


TIERED = [
    charge(unit_price="0.333", included_units="10"),
    charge(
        "graduated", tiers=[{"up_to": "10", "unit_price": "3", "flat_fee": "7"}, {"unit_price": "1", "flat_fee": "5"}]
    ),
    charge("graduated", tiers=TWO_TIERS, zero_usage_flat_fee="skip", included_units="0.5"),
    charge("volume", tiers=TWO_TIERS, included_units="1"),
    charge("stairstep", tiers=[{"up_to": "10", "flat_fee": "3"}, {"flat_fee": "5"}]),
    charge("package", package_size="10", package_price="2.5", included_units="1"),
    charge("package", package_size="0.5", package_price="0.001", package_rounding="down"),
    charge("graduated_percentage", tiers=[{"up_to": "100", "percent": "2.9"}, {"percent": "1", "flat_fee": "3"}]),
]


@pytest.mark.parametrize("priced_by", TIERED, ids=lambda one: one["model"])
@settings(max_examples=25, deadline=None)
@given(parts=st.lists(st.sampled_from([*QUANTITIES, *BOUNDS]), min_size=2, max_size=2))
def test_a_period_that_is_split_and_counts_on_at_the_same_prices_costs_the_same(
    priced_by: dict[str, Any], parts: list[str]
) -> None:
    whole = used(str(sum(map(Decimal, parts))))
    in_parts = [used(quantity, segment=number) for number, quantity in enumerate(parts, start=1)]

    once = rate(whole, charges=[priced_by]).lines
    twice = rate_account(split(Change.SPLIT_COUNTING_ON, priced_by), in_parts).lines

    assert total(twice, "quantity") == total(once, "quantity")
    assert total(twice, "amount_exact") == total(once, "amount_exact")
