"""Who takes part in a canary, and two sets of lines side by side."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from pipeline.core.canary import Comparison, canary_view, compared, comparison_document, takes_part
from pipeline.core.line_item import LineItem, LineKind

AT = datetime(2026, 1, 1, tzinfo=UTC)
LINE = LineItem(
    *("acct-1/calls/2026-01/per_unit/1", "acct-1", "2026-01", 1, AT, AT, "standard", "calls", "Calls", LineKind.USAGE),
    *("per_unit", 1, Decimal(1), "calls", Decimal(1), Decimal(1), Decimal(0), "USD"),
    *(Decimal("1.00"), Decimal("1.00"), Decimal(0), "standard", "prices@0"),
)


SAMPLE = ["acct-28", "acct-111", "acct-205"]


def line(account_id: str, amount: str, sku: str = "calls", currency: str = "USD") -> LineItem:
    line_item_id = f"{account_id}/{sku}/2026-01/per_unit/1"
    return replace(
        LINE,
        line_item_id=line_item_id,
        account_id=account_id,
        sku=sku,
        currency=currency,
        amount=Decimal(amount),
    )


def test_one_percent_of_many_accounts_take_part_and_always_the_same() -> None:
    accounts = [f"acct-{number}" for number in range(100_000)]

    sample = [account_id for account_id in accounts if takes_part(account_id, Decimal(1))]

    assert 900 < len(sample) < 1100
    assert sample == [account_id for account_id in accounts if takes_part(account_id, Decimal(1))]
    assert set(sample) < {account_id for account_id in accounts if takes_part(account_id, Decimal(2))}
    # The sample is a promise to whoever watches it: other accounts with the next release would look like a change.
    assert sample[:3] == SAMPLE


def test_amounts_are_compared_by_total_sku_and_account_in_each_currency() -> None:
    live = [line("a", "1.00"), line("b", "2.00"), line("c", "5", currency="EUR")]
    other = [line("a", "1.50"), line("b", "1.00"), line("b", "0.25", "tokens"), line("c", "5", currency="EUR")]

    found = compared(live, other)

    assert found.totals == [
        Comparison("", "EUR", Decimal(5), Decimal(5)),
        Comparison("", "USD", Decimal("3.00"), Decimal("2.75")),
    ]
    assert [(one.name, one.currency, one.difference) for one in found.by_sku] == [
        ("calls", "EUR", Decimal(0)),
        ("calls", "USD", Decimal("-0.50")),
        ("tokens", "USD", Decimal("0.25")),
    ]
    assert [(one.name, one.difference) for one in found.by_account] == [
        ("b", Decimal("-0.75")),
        ("a", Decimal("0.50")),
        ("c", Decimal(0)),
    ]


def test_the_document_keeps_the_digits_and_counts_the_accounts_that_change() -> None:
    live = [line(f"acct-{number}", "1.00") for number in range(30)]
    other = [line(f"acct-{number}", f"{1 + (number > 4)}.00") for number in range(30)]

    document = comparison_document(compared(live, other))

    assert document["changed_account_count"] == 25
    view = canary_view({"percent": "1", "periods": [document]})["periods"][0]
    assert len(view["accounts"]) == 20
    assert view["totals"] == [
        {"name": "", "currency": "USD", "live": Decimal(30), "other": Decimal(55), "difference": Decimal(25)}
    ]
