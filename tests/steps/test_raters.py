"""Two raters that share nothing but usage and terms (P7): they agree on every line, or the line is named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core import rating
from pipeline.core.agreement import Agreement, rated_twice
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import PricingError
from pipeline.core.line_item import LineItem
from pipeline.core.manifest import canonical_json
from pipeline.core.price_cases import inputs_of, outcome_of, parse_cases
from pipeline.core.terms import AccountTerms
from pipeline.steps.rate import COMPARE_QUERIES, RATE_QUERIES
from pipeline.steps.rate_slices import ComparedSlice, RatedSlice, Slice, compare_slices, cut_slices, rate_slices
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE
from tests.core.price_books import charge, priced_book, rating_inputs, terms_of, used

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "rating-cases.jsonl"
CASES = """
{"id": "graduated", "charge": {"model": "graduated", "tiers": [{"up_to": "5", "unit_price": "0", "flat_fee": "100"}, {"up_to": "10", "unit_price": "0", "flat_fee": "50"}, {"unit_price": "1"}]}, "usage": {"quantity": "12"}, "currency": "USD", "expected": {"amount_exact": "152"}}
{"id": "package", "charge": {"model": "package", "package_size": "20", "package_price": "10"}, "usage": {"quantity": "98"}, "currency": "USD", "expected": {"amount_exact": "50"}}
{"id": "rounding", "charge": {"model": "per_unit", "unit_price": "0.00113", "per_units": "1000"}, "usage": {"quantity": "157286400"}, "currency": "USD", "expected": {"amount": "177.73"}}
"""  # noqa: E501

Account = tuple[AccountTerms, Sequence[Any], Sequence[Any]]
SQL = {query: sql_text(query) for query in (*RATE_QUERIES, *COMPARE_QUERIES)}
TIERS = [{"up_to": "10", "unit_price": "3"}, {"up_to": "20", "unit_price": "2", "flat_fee": "5"}, {"unit_price": "1"}]


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILLING_WORKERS", "1")
        yield


def slices_of(accounts: Sequence[Account], folder: Path, sql: Mapping[str, str] = SQL, size: int = 100) -> list[Slice]:
    with Warehouse(folder) as warehouse:
        usage = sorted(astuple(row) for _, rows, _ in accounts for row in rows)
        values = sorted(astuple(row) for *_, rows in accounts for row in rows)
        warehouse.table_rows("period_usage", PERIOD_USAGE, usage)
        warehouse.table_rows("event_values", EVENT_VALUES, values)
        terms = sorted((terms for terms, *_ in accounts), key=lambda terms: terms.account.account_id)
        return cut_slices(warehouse, terms, folder / "slices", sql, size)


def rate_twice(
    accounts: Sequence[Account], folder: Path, sql: Mapping[str, str] = SQL, size: int = 100
) -> tuple[list[LineItem], list[RatedSlice], list[ComparedSlice]]:
    slices = slices_of(accounts, folder, sql, size)
    rated = rate_slices(slices)
    if any(one.unpriced for one in rated):
        return [], rated, []
    with Warehouse(folder) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, [one.lines for one in slices])
        assert warehouse.is_ordered(LINE_ITEMS.name, LINE_ITEMS.key)
        lines = [LineItem(*row) for row in warehouse.rows(LINE_ITEMS.name)]
    return lines, rated, compare_slices(slices)


def of_account(number: int, inputs: Any) -> Account:
    terms, usage, values = inputs
    account_id = f"acct-{number:03}"
    return (
        replace(terms, account=replace(terms.account, account_id=account_id)),
        [replace(row, account_id=account_id) for row in usage],
        [replace(row, account_id=account_id) for row in values],
    )


def graduated_account(quantity: str = "25", number: int = 1) -> Account:
    terms = terms_of(priced_book(charge("graduated", "calls", tiers=TIERS)))
    return of_account(number, (terms, [used(quantity, "calls")], []))


@settings(max_examples=4, suppress_health_check=list(HealthCheck), deadline=None)
@given(inputs=st.lists(rating_inputs(), min_size=10, max_size=20))
def test_both_raters_agree_on_every_line_of_random_books_and_usage(inputs: list[Any]) -> None:
    accounts = [of_account(number, one) for number, one in enumerate(inputs)]
    priced = [account for account in accounts if not rating.rate_account(*account).problems]
    expected = {line.line_item_id: line for account in priced for line in rating.rate_account(*account).lines}

    with TemporaryDirectory() as folder:
        lines, rated, compared = rate_twice(priced, Path(folder), size=7)

    assert {line.line_item_id: line for line in lines} == expected
    assert len(lines) == len(expected) == sum(one.line_count for one in rated)
    assert [one.disagreements for one in compared] == [()] * len(compared)
    assert sum(one.line_count for one in compared) == len(expected)


@settings(max_examples=4, suppress_health_check=list(HealthCheck), deadline=None)
@given(inputs=st.lists(rating_inputs(unpriced=True), min_size=5, max_size=10))
def test_both_raters_refuse_the_usage_of_the_same_accounts(inputs: list[Any]) -> None:
    problems = {number: rating.rate_account(*of_account(number, one)).problems for number, one in enumerate(inputs)}
    # An amount that is too large is no row of unpriced usage: it stops the SQL rater, see below.
    too_large = {
        number
        for number, found in problems.items()
        if found and all("digits before the point" in problem for problem in found)
    }
    accounts = [of_account(number, one) for number, one in enumerate(inputs) if number not in too_large]

    with TemporaryDirectory() as folder:
        _, rated, _ = rate_twice(accounts, Path(folder))

    refused = {f"acct-{number:03}" for number, found in problems.items() if found and number not in too_large}
    assert {row["account_id"] for one in rated for row in one.unpriced} == refused


def test_the_sql_rater_gives_the_amounts_of_other_systems(tmp_path: Path) -> None:
    text = ORACLES.read_text(encoding="utf-8") if ORACLES.is_file() else CASES
    cases = parse_cases(text, "cases.jsonl")
    accounts = [inputs_of(case) for case in cases]

    lines, _, compared = rate_twice(accounts, tmp_path)  # type: ignore[arg-type]

    assert len(cases) >= 3
    for case, (terms, *_) in zip(cases, accounts, strict=True):
        outcome = outcome_of(case, [line for line in lines if line.account_id == terms.account.account_id])
        assert list(outcome.differences()) == []
    assert [one.disagreements for one in compared] == [()]


@pytest.mark.parametrize(
    ("query", "rule", "mutation"),
    [
        ("usage_lines", "LEAST(GREATEST(count_to, band.above), band.up_to)", "GREATEST(count_to, band.above)"),
        ("usage_lines", "count_to > COALESCE(band.above, 0)", "count_to >= COALESCE(band.above, 0)"),
        ("usage_lines", "ROUND(amount_exact, 2)", "ROUND_EVEN(amount_exact, 1)"),
    ],
)
def test_a_changed_rule_of_the_sql_rater_is_caught_with_line_figures_and_inputs(
    query: str, rule: str, mutation: str, tmp_path: Path
) -> None:
    assert rule in SQL[query]
    account = graduated_account("10.005")
    bounds = graduated_account("10", number=2)

    _, _, [compared] = rate_twice([account, bounds], tmp_path, {**SQL, query: SQL[query].replace(rule, mutation)})

    assert compared.disagreements
    for line in compared.disagreements:
        assert re.search(r"line acct-00\d/calls/2026-01/graduated/\d: SQL rater .*; reference rater", line.sentence)
        assert line.sql != line.reference
        assert re.search(r"rated from segment 1: 10(.005)? \w+ .*segment 1, 31 of 31 days, plan .*up_to", line.sentence)


def test_a_changed_rule_of_the_reference_rater_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = rating.rate_account

    def gives_the_last_tier_away(*inputs: Any) -> rating.RatedAccount:
        lines, problems = right(*inputs)
        return rating.RatedAccount([line for line in lines if line.tier != 3], problems)

    monkeypatch.setattr("pipeline.steps.rate_slices.rate_account", gives_the_last_tier_away)

    _, _, [compared] = rate_twice([graduated_account(), graduated_account("15", number=2)], tmp_path)

    [line] = compared.disagreements
    assert (line.line_item_id, line.account_id) == ("acct-001/calls/2026-01/graduated/3", "acct-001")
    assert (str(line.sql), line.reference) == ("quantity 5, exact amount 5, amount 5", None)


def test_a_disagreement_is_kept_to_the_last_digit(tmp_path: Path) -> None:
    sql = {**SQL, "usage_lines": SQL["usage_lines"].replace("ROUND(amount_exact, 2)", "ROUND(amount_exact, 1)")}
    _, _, [compared] = rate_twice([graduated_account("3.37")], tmp_path, sql)
    agreement = Agreement(1, 1, 1, 1, compared.disagreements)

    assert agreement.accounts.keys() == {"acct-001"}
    assert Agreement.from_json(agreement.to_json()) == agreement
    assert canonical_json(agreement.to_json())


def test_several_processes_come_to_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = [graduated_account(str(number), number=number) for number in range(5)]
    one, two = (slices_of(accounts, tmp_path / name, size=2) for name in ("one", "two"))

    alone = rate_slices(one)
    monkeypatch.setenv("BILLING_WORKERS", "2")

    assert rate_slices(two) == alone
    assert [part.lines.read_bytes() for part in one] == [part.lines.read_bytes() for part in two]
    assert [part.disagreements for part in compare_slices(two)] == [(), (), ()]


TOO_LARGE = [
    (charge("graduated", "calls", tiers=TIERS), "1" + "0" * 26),
    (charge("package", "calls", package_size="0.000000001", package_price="0.1"), "1000000000"),
    (charge("package", "calls", package_size="0.000000001", package_price="0.000000000001"), "9" * 28),
]


@pytest.mark.parametrize(("priced_by", "quantity"), TOO_LARGE)
def test_an_amount_that_does_not_fit_is_refused_and_never_wrapped(
    priced_by: dict[str, Any], quantity: str, tmp_path: Path
) -> None:
    account = of_account(1, (terms_of(priced_book(priced_by)), [used(quantity, "calls")], []))

    with pytest.raises(PricingError, match="number_too_large"):
        rate_slices(slices_of([account], tmp_path))
    assert "acct-001" in rating.rate_account(*account).problems[0]


def test_half_a_minor_unit_is_rounded_as_the_book_says_in_every_currency(tmp_path: Path) -> None:
    accounts = []
    modes = [(currency, mode) for currency in ("JPY", "USD", "KWD", "CLF") for mode in ("half_up", "half_even")]
    for number, (currency, mode) in enumerate(modes):
        book = priced_book(charge("per_unit", "calls", unit_price="0.00005", currency=currency), rounding=mode)
        row = {"account_id": "acct-7", "currency": currency}
        terms = terms_of(book)
        terms = replace(terms, account=replace(terms.account, **row))
        if not terms.segments[0].charges:
            segment = replace(terms.segments[0], charges={one.sku: one for one in book.book.plans["standard"].charges})
            terms = replace(terms, segments=(segment,))
        for step, quantity in enumerate(("1", "3", "-1", "100", "300", "-300", "1000", "10000", "30000", "-30000")):
            accounts.append(of_account(10 * number + step, (terms, [used(quantity, "calls")], [])))

    lines, _, compared = rate_twice(accounts, tmp_path)

    assert len(lines) == len(accounts)
    assert [one.disagreements for one in compared] == [()]
    amounts = {line.account_id: line.amount for line in lines}
    assert [amounts[f"acct-{number:03}"] for number in (8, 18, 28, 38)] == [2, 2, Decimal("1.5"), Decimal("1.5")]


def test_a_sample_is_the_same_accounts_on_every_run_and_the_held_and_changed_ones() -> None:
    accounts = [graduated_account(number=number)[0] for number in range(400)]

    assert rated_twice(accounts, 1000, None, {}) is None
    assert rated_twice(accounts, 1000, 1000, {}) is None
    sample = rated_twice(accounts, 1000, 250, {"acct-x"})

    assert sample is not None
    assert "acct-x" in sample
    assert 60 < len(sample) < 140
    assert rated_twice(accounts[::-1], 1000, 250, {"acct-x"}) == sample
    changed = replace(accounts[0], segments=(accounts[0].segments[0], accounts[0].segments[0]))
    assert rated_twice([changed], 1000, 0, {}) == {"acct-000"}
