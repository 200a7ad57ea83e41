"""Adjustments of final periods: signed differences by line, which add up to what the period comes to by now (P5)."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.adjustment import adjustments
from pipeline.core.line_item import LineItem, LineKind

JANUARY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))


def line(tier: int, quantity: str, amount_exact: str, amount: str, flat_fee: str = "0") -> LineItem:
    exact, rounded = Decimal(amount_exact), Decimal(amount)
    return LineItem(
        f"acct-7/calls/2026-01/graduated/{tier}",
        *("acct-7", "2026-01", 1, *JANUARY, "standard", "calls", "Calls", LineKind.USAGE, "graduated", tier),
        *(Decimal(quantity), "calls", Decimal(2), Decimal(1), Decimal(flat_fee), "USD"),
        *(exact, rounded, exact - rounded),
        *("standard", "prices@0123456789ab"),
    )


def test_five_billed_and_eight_rated_leave_three_to_bill() -> None:
    [late] = adjustments([line(1, "5", "10", "10")], [line(1, "8", "16", "16")], 1)

    assert late.corrects_line_item_id == "acct-7/calls/2026-01/graduated/1"
    assert late.line.line_item_id == "acct-7/calls/2026-01/graduated/1/adjustment/1"
    assert (late.line.quantity, late.line.amount_exact, late.line.amount) == (Decimal(3), Decimal(6), Decimal(6))


def test_usage_that_reaches_another_tier_adds_its_line_and_changes_the_one_before() -> None:
    billed = [line(1, "9", "18", "18")]
    rated = [line(1, "10", "20", "20"), line(2, "4", "4.005", "4.01")]

    lines = [adjustment.line for adjustment in adjustments(billed, rated, 2)]

    assert [(one.tier, one.quantity, one.amount, one.residual) for one in lines] == [
        (1, Decimal(1), Decimal(2), Decimal(0)),
        (2, Decimal(4), Decimal("4.01"), Decimal("-0.005")),
    ]


def test_a_line_that_is_not_rated_any_more_is_taken_back_whole() -> None:
    [back] = adjustments([line(2, "4", "4.005", "4.01")], [], 1)

    assert (back.line.quantity, back.line.amount, back.line.residual) == (
        Decimal(-4),
        Decimal("-4.01"),
        Decimal("0.005"),
    )


@pytest.mark.parametrize("name", ["quantity", "amount_exact", "amount"])
def test_a_difference_in_any_number_is_kept_and_a_line_without_one_is_not(name: str) -> None:
    unchanged, changed = line(1, "5", "10", "10"), line(2, "1", "1", "1")

    kept = adjustments([unchanged, changed], [unchanged, changed._replace(**{name: Decimal("1.001")})], 1)

    assert [(one.corrects_line_item_id[-1], getattr(one.line, name)) for one in kept] == [("2", Decimal("0.001"))]


def test_the_fee_of_a_tier_that_was_entered_is_part_of_the_difference() -> None:
    [late] = adjustments([line(2, "1", "5", "5", "4")], [], 1)

    assert late.line.flat_fee == -4


def test_a_line_is_called_what_it_was_called_last() -> None:
    old, new = (line(1, "5", "10", "10")._replace(description=text) for text in ("Calls", "API calls"))

    [rated] = adjustments([old], [new._replace(quantity=Decimal(6))], 1)
    [taken_back] = adjustments([old, new], [], 2)

    assert (rated.line.description, taken_back.line.description) == ("API calls", "API calls")


def test_numbers_of_thirty_digits_lose_none_of_them() -> None:
    [late] = adjustments([line(1, "0.000000001", "0", "0")], [line(1, "12345678901234567890123456789", "0", "0")], 1)

    assert late.line.quantity == Decimal("12345678901234567890123456788.999999999")


def test_one_line_in_two_currencies_is_a_contradiction() -> None:
    billed = line(1, "5", "10", "10")

    with pytest.raises(ValueError, match="is in EUR and was billed in USD"):
        adjustments([billed], [billed._replace(currency="EUR")], 1)


def test_earlier_adjustments_count_as_billed() -> None:
    first, second = line(1, "5", "10", "10"), line(1, "3", "6", "6")

    assert adjustments([first, second], [line(1, "8", "16", "16")], 2) == []


lines = st.builds(
    lambda tier, quantity, exact: line(
        *(tier, str(quantity), str(exact), str(exact.quantize(Decimal("0.01")))),
        flat_fee=str(exact - 2 * quantity),  # the unit price is 2
    ),
    st.integers(1, 3),
    st.decimals(-100, 100, places=3),
    st.decimals(-100, 100, places=4),
)


@given(st.lists(lines, max_size=6), st.lists(lines, max_size=6))
def test_what_was_billed_and_its_adjustments_add_up_to_what_is_rated(
    billed: list[LineItem], rated: list[LineItem]
) -> None:
    found = adjustments(billed, rated, 1)

    for name in ("quantity", "flat_fee", "amount_exact", "amount", "residual"):
        total: Counter[str] = Counter()
        for one in billed:
            total[one.line_item_id] += getattr(one, name)
        for adjustment in found:
            total[adjustment.corrects_line_item_id] += getattr(adjustment.line, name)
        for one in rated:
            total[one.line_item_id] -= getattr(one, name)
        assert not any(total.values())
