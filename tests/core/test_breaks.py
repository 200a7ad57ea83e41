"""Breaks: how old one is, and what makes two differences the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from pipeline.core.breaks import AGE_BUCKETS, BreakClass, Difference, age_bucket
from pipeline.core.reconciliation import Control, Effect, Equation, controls_sentence, differences

OPENED = datetime(2026, 1, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "bucket"),
    [
        *((0, "0-1"), (1, "0-1"), (2, "2-7"), (7, "2-7"), (8, "8-30"), (30, "8-30")),
        *((31, "31-60"), (60, "31-60"), (61, "61-90"), (90, "61-90"), (91, ">90"), (4000, ">90")),
    ],
)
def test_a_break_is_in_the_range_of_the_whole_days_it_is_open(days: int, bucket: str) -> None:
    assert age_bucket(OPENED, OPENED + timedelta(days=days)) == bucket
    assert age_bucket(OPENED, OPENED + timedelta(days=days + 1, microseconds=-1)) == bucket
    assert bucket in AGE_BUCKETS


def failed(control: Equation, scope: str, unit: str, actual: int, account_id: str = "") -> Control:
    return Control(control, scope, unit, Decimal(2), Decimal(actual), effect=Effect.HOLD, account_id=account_id)


def test_a_control_that_passes_is_no_difference() -> None:
    assert differences([failed(Equation.USAGE_QUANTITY, "calls", "calls", 2)], window_id="2026-01-15") == []


def test_what_is_about_a_period_is_a_difference_of_the_period_on_every_night() -> None:
    control = failed(Equation.RATED_TWICE, "2026-01/acct-7", "USD", 1, "acct-7")

    of_one_night, of_another = (differences([control], window_id=f"2026-01-{day}")[0] for day in (15, 16))

    assert of_one_night == of_another
    assert of_one_night == Difference(
        *("rated_twice", "2026-01/acct-7", "USD", BreakClass.PRICE, Decimal(2), Decimal(1)),
        period_id="2026-01",
        account_id="acct-7",
    )
    assert of_one_night.domain == "period=2026-01"


def test_what_is_about_a_window_is_another_difference_in_another_window() -> None:
    control = failed(Equation.USAGE_QUANTITY, "calls", "calls", 1)

    keys = [differences([control], window_id=f"2026-01-{day}")[0].key for day in (15, 16)]

    assert keys == ["usage_quantity/window=2026-01-15/calls/calls", "usage_quantity/window=2026-01-16/calls/calls"]


@pytest.mark.parametrize(
    ("control", "unit", "actual", "expected"),
    [
        (Equation.USAGE_QUANTITY, "calls", 1, BreakClass.MISSING),
        (Equation.USAGE_QUANTITY, "calls", 3, BreakClass.EXTRA),
        (Equation.ACCOUNT_INVOICE, "USD", 1, BreakClass.AMOUNT),
        (Equation.RATED_TWICE, "USD", 3, BreakClass.PRICE),
    ],
)
def test_the_figures_say_what_kind_of_difference_it_is(
    control: Equation, unit: str, actual: int, expected: BreakClass
) -> None:
    assert failed(control, "x", unit, actual).break_class is expected


def test_one_sentence_says_what_passes_what_failed_and_who_is_held() -> None:
    passes = failed(Equation.USAGE_QUANTITY, "calls", "calls", 2)
    holds = failed(Equation.ACCOUNT_INVOICE, "acct-7", "USD", 1, "acct-7")
    stops = Control(Equation.INVOICED_AMOUNT, "2026-01", "USD", Decimal(2), Decimal(1))

    assert controls_sentence([passes, holds]) == "reconciled: 1 control passes, 1 failed, 1 account held"
    assert controls_sentence([passes, passes, stops]) == "not reconciled: 2 controls pass, 1 failed"
