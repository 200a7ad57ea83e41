"""Adjustments of final periods: signed differences by line, which add up to what the period comes to by now (P5)."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.adjustment import adjustments
from pipeline.core.line_item import LineItem, LineKind

JANUARY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))


def line(tier: int, quantity: str, amount_exact: str, amount: str) -> LineItem:
    exact, rounded = Decimal(amount_exact), Decimal(amount)
    return LineItem(
        f"acct-7/calls/2026-01/graduated/{tier}",
        *("acct-7", "2026-01", 1, *JANUARY, "standard", "calls", "Calls", LineKind.USAGE, "graduated", tier),
        *(Decimal(quantity), "calls", Decimal(2), Decimal(1), Decimal(0), "USD", exact, rounded, exact - rounded),
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


def test_a_difference_below_a_minor_unit_is_kept_and_one_without_any_number_is_not() -> None:
    unchanged, smaller = line(1, "5", "10", "10"), line(2, "1", "0.001", "0")

    kept = adjustments([unchanged, smaller], [unchanged, smaller._replace(quantity=Decimal(2))], 1)

    assert [(one.corrects_line_item_id[-1], one.line.quantity, one.line.amount) for one in kept] == [("2", 1, 0)]


def test_earlier_adjustments_count_as_billed() -> None:
    first, second = line(1, "5", "10", "10"), line(1, "3", "6", "6")

    assert adjustments([first, second], [line(1, "8", "16", "16")], 2) == []


lines = st.builds(
    lambda tier, quantity, exact: line(tier, str(quantity), str(exact), str(exact.quantize(Decimal("0.01")))),
    st.integers(1, 3),
    st.decimals(-100, 100, places=3),
    st.decimals(-100, 100, places=4),
)


@given(st.lists(lines, max_size=6), st.lists(lines, max_size=6))
def test_what_was_billed_and_its_adjustments_add_up_to_what_is_rated(
    billed: list[LineItem], rated: list[LineItem]
) -> None:
    found = adjustments(billed, rated, 1)

    for name in ("quantity", "amount_exact", "amount", "residual"):
        total: Counter[str] = Counter()
        for one in billed:
            total[one.line_item_id] += getattr(one, name)
        for adjustment in found:
            total[adjustment.corrects_line_item_id] += getattr(adjustment.line, name)
        for one in rated:
            total[one.line_item_id] -= getattr(one, name)
        assert not any(total.values())
