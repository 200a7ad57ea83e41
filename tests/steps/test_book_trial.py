"""A tried book as both raters see it: what cannot be priced is left out, whatever the book, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.price_book import Change
from pipeline.core.price_comparison import CurrencyComparison
from pipeline.core.rating import rate_account
from pipeline.steps.book_trial import (
    TriedLines,
    compared_currencies,
    rate_tried,
    read_lines,
    tried_slices,
    write_price_changes,
)
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE
from tests.core.price_books import RatingInputs, charge, priced_book, rating_inputs, terms_of, used

Account = tuple[Any, Sequence[Any], Sequence[Any]]


def of_account(number: int, inputs: Any) -> Account:
    terms, usage, values = inputs
    account_id = f"acct-{number:03}"
    return (
        replace(terms, account=replace(terms.account, account_id=account_id)),
        [replace(row, account_id=account_id) for row in usage],
        [replace(row, account_id=account_id) for row in values],
    )


def tried(accounts: Sequence[Account], folder: Path, name: str = "one", size: int = 100) -> TriedLines:
    with Warehouse(folder) as warehouse:
        usage = sorted(astuple(row) for _, rows, _ in accounts for row in rows)
        values = sorted(astuple(row) for *_, rows in accounts for row in rows)
        warehouse.table_rows("period_usage", PERIOD_USAGE, usage)
        warehouse.table_rows("event_values", EVENT_VALUES, values)
        slices = tried_slices(warehouse, [terms for terms, *_ in accounts], folder / name, size=size)
    return rate_tried(slices)


def compared(folder: Path, now: TriedLines, then: TriedLines) -> list[CurrencyComparison]:
    with Warehouse(folder) as warehouse:
        return compared_currencies(
            warehouse, [write_price_changes(warehouse, now.files, then.files, folder / "changes.parquet")]
        )


@settings(max_examples=5, suppress_health_check=list(HealthCheck), deadline=None)
@given(inputs=st.lists(rating_inputs(), min_size=4, max_size=8))
def test_the_same_random_books_change_nothing(inputs: list[Any]) -> None:
    accounts = [of_account(number, one) for number, one in enumerate(inputs)]

    with TemporaryDirectory() as name:
        folder = Path(name)
        sides = [tried(accounts, folder, side) for side in ("now", "then")]
        found = compared(folder, *sides)

    assert all(
        (one.total.change, one.total.changed_accounts, one.pay_more, one.pay_less) == (0, 0, (), ()) for one in found
    )
    assert all(change.change == 0 for one in found for change in (*one.by_plan, *one.by_sku))


def is_there(inputs: RatingInputs) -> bool:
    return inputs.terms.active_days > 0


@settings(max_examples=5, suppress_health_check=list(HealthCheck), deadline=None)
@given(inputs=st.lists(rating_inputs(Change.NEXT_PERIOD, unpriced=True).filter(is_there), min_size=4, max_size=8))
def test_random_usage_without_a_price_is_left_out_and_both_raters_agree_on_the_rest(inputs: list[Any]) -> None:
    accounts = [of_account(number, one) for number, one in enumerate(inputs)]
    rated = {account[0].account.account_id: rate_account(*account) for account in accounts}

    with TemporaryDirectory() as name:
        found = tried(accounts, Path(name))
        with Warehouse(Path(name)) as warehouse:
            lines = read_lines(warehouse, found.files)

    assert dict(found.disagreements) == {}
    refused = {account_id: one.problems for account_id, one in rated.items() if one.problems}
    assert found.unpriced.keys() == refused.keys()
    assert all(set(sentences) <= set(found.unpriced[account_id]) for account_id, sentences in refused.items())
    sound = {line.line_item_id: line for one in rated.values() if not one.problems for line in one.lines}
    assert {line.line_item_id: line for line in lines if line.account_id not in refused} == sound


def test_a_charge_that_has_a_price_is_rated_beside_one_that_has_none(tmp_path: Path) -> None:
    terms = terms_of(priced_book(charge("per_unit", "calls", unit_price="2")))
    account = of_account(1, (terms, [used("3", "calls"), used("5", "tokens")], []))

    found = tried([account], tmp_path)

    with Warehouse(tmp_path) as warehouse:
        assert [(line.sku, str(line.amount)) for line in read_lines(warehouse, found.files)] == [("calls", "6.0000")]
    [sentence] = found.problems["acct-001"]
    assert sentence.startswith("account acct-001, SKU tokens, 5 units: ")


def test_an_amount_that_has_no_place_in_a_line_leaves_out_its_account_alone(tmp_path: Path) -> None:
    terms = terms_of(priced_book(charge("per_unit", "calls", unit_price="999999")))
    accounts = [of_account(number, (terms, [used(text)], [])) for number, text in ((1, "9" * 27), (2, "1"))]

    found = tried(accounts, tmp_path)

    assert list(found.unpriced) == ["acct-001"]
    with Warehouse(tmp_path) as warehouse:
        assert [line.account_id for line in read_lines(warehouse, found.files)] == ["acct-002"]


def test_several_slices_are_rated_by_several_processes_as_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_WORKERS", "2")
    terms = terms_of(priced_book(charge("per_unit", "calls", unit_price="2")))
    usage = [[used("3", "calls")] if number % 2 else [used("3", "calls"), used("5", "tokens")] for number in range(8)]
    accounts = [of_account(number, (terms, rows, [])) for number, rows in enumerate(usage)]

    found = [tried(accounts, tmp_path, f"of-{size}", size) for size in (100, 2)]

    assert [len(one.files) for one in found] == [1, 4]
    assert list(found[1].unpriced) == ["acct-000", "acct-002", "acct-004", "acct-006"]
    assert found[0].problems == found[1].problems
    with Warehouse(tmp_path) as warehouse:
        lines = [read_lines(warehouse, one.files) for one in found]
    assert lines[0] == lines[1]
    assert [line.account_id for line in lines[1]] == [f"acct-{number:03}" for number in range(8)]
