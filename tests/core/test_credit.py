"""Credits: in one order, never below zero, after everything; and what a document says of them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.credit import CreditBalance, CreditGrant, CreditKind, draw_credits
from pipeline.core.invoice import DocumentKind, PreparedDocument

GRANTED = datetime(2026, 1, 1, tzinfo=UTC)
ISSUED = date(2026, 2, 1)


def prepared(account_id: str, total: str = "10.00", **changes: Any) -> PreparedDocument:
    """Return a document that is nothing but its figures."""
    facts: dict[str, Any] = {
        "kind": DocumentKind.INVOICE,
        "currency": "USD",
        "subtotal": Decimal(total),
        "total": Decimal(total),
        "issue_date": ISSUED,
        "last_date": ISSUED,
        "line_items_manifest": "0" * 64,
        "corrects": None,
        **changes,
    }
    members = {"document": f'"{facts["kind"]}"'.encode(), "total": b'"%s"' % total.encode(), "lines": b"[]"}
    members["currency"] = f'"{facts["currency"]}"'.encode()
    return PreparedDocument(account_id=account_id, members=members, **facts)


def credit(grant_id: str, balance: str = "10", *, is_revoked: bool = False, **changes: Any) -> CreditBalance:
    facts: dict[str, Any] = {
        "account_id": "acct-7",
        "currency": "USD",
        "kind": CreditKind.PREPAID,
        "amount": Decimal(100),
        "priority": 0,
        "expires_on": None,
        "reason": f"because of {grant_id}",
        "granted_at": GRANTED,
        "granted_by": "ana",
        **changes,
    }
    return CreditBalance(CreditGrant(grant_id, **facts), Decimal(balance), is_revoked)


def drawn(total: str, *balances: CreditBalance, currency: str = "USD", on: date = ISSUED) -> dict[str, str]:
    return {draw.grant_id: f"{draw.amount:f}" for draw in draw_credits(Decimal(total), currency, on, balances)}


def test_credits_are_drawn_by_priority_then_expiry_then_age_then_id() -> None:
    balances = [
        credit("e", priority=1),
        credit("d", granted_at=GRANTED + timedelta(days=1)),
        credit("c"),
        credit("b"),
        credit("z", priority=0, expires_on=date(2026, 3, 1), granted_at=GRANTED + timedelta(days=2)),
    ]

    assert list(drawn("45", *balances)) == ["z", "b", "c", "d", "e"]
    assert drawn("45", *balances)["e"] == "5"


def test_a_document_draws_no_more_than_it_comes_to_and_than_there_is() -> None:
    assert drawn("7.50", credit("a", "5"), credit("b", "5")) == {"a": "5", "b": "2.50"}
    assert drawn("70", credit("a", "5"), credit("b", "5")) == {"a": "5", "b": "5"}


def test_the_last_day_of_the_period_decides_whether_a_credit_has_expired() -> None:
    until = credit("a", expires_on=ISSUED)

    assert drawn("1", until) == {"a": "1"}
    assert drawn("1", until, on=ISSUED + timedelta(days=1)) == {}


@pytest.mark.parametrize("total", ["0", "-5"])
def test_a_document_of_zero_or_below_leaves_credits_alone(total: str) -> None:
    assert drawn(total, credit("a")) == {}


def test_a_credit_of_another_currency_is_left_alone() -> None:
    assert drawn("5", credit("a", currency="EUR"), credit("b", "1")) == {"b": "1"}


def test_a_revoked_credit_and_an_empty_one_are_never_drawn() -> None:
    assert drawn("5", credit("a", is_revoked=True), credit("b", "0")) == {}


def test_a_draw_names_its_grant_on_the_document() -> None:
    [draw] = draw_credits(Decimal(5), "USD", ISSUED, [credit("a", kind=CreditKind.PROMOTIONAL)])

    assert draw.to_json() == {
        "grant_id": "a",
        "description": "because of a",
        "kind": "promotional",
        "amount": "5",
    }


@pytest.mark.parametrize(
    ("amount", "currency", "said"),
    [
        ("0", "USD", "more than zero"),
        ("-1", "USD", "more than zero, got -1$"),
        ("NaN", "USD", "more than zero"),
        ("0.001", "USD", "at most 2 decimals"),
        ("1.5", "JPY", "at most 0 decimals"),
    ],
)
def test_a_credit_is_a_whole_amount_of_its_currency(amount: str, currency: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        credit("a", amount=Decimal(amount), currency=currency)


credits_strategy = st.lists(
    st.builds(
        credit,
        st.text("abcdefgh", min_size=1, max_size=3),
        st.decimals("0", "30", places=2).map(str),
        is_revoked=st.booleans(),
        priority=st.integers(-1, 1),
        expires_on=st.none() | st.dates(ISSUED - timedelta(days=1), ISSUED + timedelta(days=1)),
        granted_at=st.sampled_from([GRANTED, GRANTED + timedelta(days=1)]),
        currency=st.sampled_from(["USD", "EUR"]),
    ),
    max_size=6,
    unique_by=lambda one: one.grant.grant_id,
)


@settings(max_examples=60)
@given(credits_strategy, st.decimals("-20", "100", places=2), st.randoms())
def test_no_balance_falls_below_zero_and_the_order_given_does_not_matter(
    balances: list[CreditBalance], total: Decimal, random: Any
) -> None:
    draws = draw_credits(total, "USD", ISSUED, balances)
    shuffled = list(balances)
    random.shuffle(shuffled)

    left = {one.grant.grant_id: one.balance for one in balances}
    assert all(0 < draw.amount <= left[draw.grant_id] for draw in draws)
    assert sum(draw.amount for draw in draws) <= max(total, Decimal(0))
    assert draw_credits(total, "USD", ISSUED, shuffled) == draws
    usable = [one.balance for one in balances if one.grant.currency == "USD" and one.is_usable_for(ISSUED)]
    assert sum(draw.amount for draw in draws) == max(min(total, sum(usable, Decimal(0))), Decimal(0))
    assert len({one.grant.draw_order for one in balances}) == len(balances)
