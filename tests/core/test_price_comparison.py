"""What other prices change, added up: shares of what is paid, one comparison for each currency, and back from JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from pipeline.core.manifest import canonical_json
from pipeline.core.price_comparison import AmountChange, CurrencyComparison, currency_comparisons


def total(total_of: str, name: str | None, now: str, then: str, *counts: int, currency: str = "USD") -> dict[str, Any]:
    account_count, changed = counts or (2, 1)
    return {
        "currency": currency,
        "total_of": total_of,
        "grouped_by": name,
        "account_count": account_count,
        "changed_account_count": changed,
        "amount_now": Decimal(now),
        "amount_then": Decimal(then),
    }


def account(direction: str, account_id: str, now: str, then: str, currency: str = "USD") -> dict[str, Any]:
    amounts = {"amount_now": Decimal(now), "amount_then": Decimal(then)}
    return {"currency": currency, "direction": direction, "account_id": account_id, **amounts}


@pytest.mark.parametrize(
    ("now", "then", "percent"),
    [
        ("8.00", "9.00", "12.5"),
        ("1000.00", "1000.49", "0.0"),
        ("1000.00", "1000.50", "0.1"),  # half up
        ("1000.00", "999.50", "-0.1"),
        ("-2.00", "-3.00", "-50.0"),  # less than nothing: the sign is that of the change
        ("5.00", "0.00", "-100.0"),
        ("0.00", "5.00", None),
        ("0.00", "0.00", None),
    ],
)
def test_a_change_is_a_share_of_what_is_paid_now(now: str, then: str, percent: str | None) -> None:
    change = AmountChange("a", Decimal(now), Decimal(then))

    assert change.percent == (None if percent is None else Decimal(percent))


def test_a_change_of_very_large_amounts_loses_no_digit() -> None:
    change = AmountChange("a", Decimal("1e33") + Decimal("0"), Decimal("1000000000000000000000000000000000.0001"))

    assert change.change == Decimal("0.0001")


ROWS = [
    total("all", None, "1.00", "2.00", currency="EUR"),
    total("plan", "p", "1.00", "2.00", currency="EUR"),
    total("sku", "calls", "1.00", "2.00", currency="EUR"),
    total("all", None, "10.00", "9.50", 3, 2),
    total("plan", "p", "6.00", "5.00", 2, 1),
    total("plan", "q", "4.00", "4.50", 1, 1),
    total("sku", "calls", "10.00", "9.50", 3, 2),
]
ACCOUNTS = [
    account("less", "a", "6.00", "5.00"),
    account("more", "b", "4.00", "4.50"),
    account("more", "c", "1.00", "2.00", "EUR"),
]


def test_each_currency_has_its_total_plans_skus_and_accounts_in_the_order_of_the_rows() -> None:
    euro, dollar = currency_comparisons(ROWS, ACCOUNTS)

    assert (euro.currency, euro.total.change) == ("EUR", Decimal("1.00"))
    assert (dollar.total.accounts, dollar.total.changed_accounts) == (3, 2)
    assert [(one.name, one.change) for one in dollar.by_plan] == [("p", Decimal("-1.00")), ("q", Decimal("0.50"))]
    assert [one.name for one in dollar.by_sku] == ["calls"]
    assert (dollar.pay_more, dollar.pay_less) == (
        (AmountChange("b", Decimal("4.00"), Decimal("4.50")),),
        (AmountChange("a", Decimal("6.00"), Decimal("5.00")),),
    )
    assert euro.pay_less == ()


@pytest.mark.parametrize(
    ("lost", "refusal"),
    [
        (5, r"changes by plan add up to -1\.00 USD, expected -0\.50"),
        (6, r"changes by sku add up to 0 USD, expected -0\.50"),
    ],
)
def test_a_row_that_was_lost_is_noticed(lost: int, refusal: str) -> None:
    rows = [row for place, row in enumerate(ROWS) if place != lost]

    with pytest.raises(ValueError, match=refusal):
        currency_comparisons(rows, ACCOUNTS)


def test_without_a_row_there_is_no_currency() -> None:
    assert currency_comparisons([], []) == []


def test_a_comparison_comes_back_from_json_as_it_was() -> None:
    for one in currency_comparisons(ROWS, ACCOUNTS):
        kept = json.loads(canonical_json(one.to_json()))

        assert CurrencyComparison.from_json(kept) == one
