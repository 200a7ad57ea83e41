"""The account directory: what rows of one account may differ in, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline.core.account import AccountDirectory, AccountRow, directory_problems, plan_change_problems

HOUR = timedelta(hours=1)


def row(valid_from: str, valid_to: str | None = None, plan: str = "small", **changed: Any) -> AccountRow:
    fields = {
        "account_id": "acct-1",
        "name": "First",
        "currency": "USD",
        "time_zone": "UTC",
        "plan": plan,
        "valid_from": valid_from,
        "external_references": (f"customer-{plan}-{valid_from}",),
    }
    return AccountRow.model_validate({**fields, **({"valid_to": valid_to} if valid_to else {}), **changed})


@pytest.mark.parametrize(("column", "value"), [("name", "Other"), ("currency", "EUR"), ("time_zone", "Europe/Berlin")])
def test_a_fact_that_is_not_dated_is_the_same_in_every_row(column: str, value: str) -> None:
    rows = [row("2026-01-01T00:00:00Z", "2026-01-10T00:00:00Z"), row("2026-01-10T00:00:00Z", **{column: value})]

    (problem,) = directory_problems(rows)

    assert problem.startswith(f"account acct-1: {column} is ")


@pytest.mark.parametrize(
    ("ends", "begins", "is_accepted"),
    [
        ("2026-01-10T00:00:00Z", "2026-01-10T00:00:00Z", True),
        ("2026-01-10T00:00:00.000001Z", "2026-01-10T00:00:00Z", False),
        ("2026-01-10T00:00:00Z", "2026-01-12T00:00:00Z", True),
        (None, "2026-01-10T00:00:00Z", False),
    ],
)
def test_an_account_has_one_plan_at_a_time(ends: str | None, begins: str, is_accepted: bool) -> None:
    rows = [row(begins, plan="large"), row("2026-01-01T00:00:00Z", ends)]

    problems = directory_problems(rows)

    expected = (
        "account acct-1: plan is 'small' and 'large' at the same time, on 2026-01-10T00:00:00+00:00; end the row of "
        "the one plan (valid_to) where the other begins (valid_from)"
    )
    assert problems == ([] if is_accepted else [expected])


def test_a_plan_inside_the_time_of_another_is_refused_although_a_short_row_lies_between() -> None:
    rows = [
        row("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        row("2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z"),
        row("2026-02-01T00:00:00Z", plan="large"),
    ]

    assert [problem[:40] for problem in directory_problems(rows)] == ["account acct-1: plan is 'small' and 'lar"]


def test_rows_of_one_plan_may_overlap() -> None:
    rows = [row("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"), row("2026-02-01T00:00:00Z")]

    assert directory_problems(rows) == []
    assert plan_change_problems(rows, HOUR) == []


@pytest.mark.parametrize(
    ("at", "grain", "is_accepted"),
    [
        ("2026-01-10T05:00:00Z", HOUR, True),
        ("2026-01-10T05:30:00Z", HOUR, False),
        ("2026-01-10T05:30:00Z", timedelta(minutes=30), True),
        ("2026-01-10T05:00:00.000001Z", HOUR, False),
        ("2026-01-10T00:00:00+05:45", HOUR, False),
        ("2026-01-10T00:00:00+05:45", timedelta(minutes=15), True),
    ],
)
def test_a_plan_changes_on_a_grain(at: str, grain: timedelta, is_accepted: bool) -> None:
    rows = [row("2026-01-01T00:10:00Z", at), row(at, plan="large")]

    problems = plan_change_problems(rows, grain)

    assert [problem[:58] for problem in problems] == (
        [] if is_accepted else ["account acct-1: plan changes from 'small' to 'large' on 20"]
    )


def test_an_account_has_the_plan_of_its_newest_row_whatever_their_order() -> None:
    rows = (row("2026-02-01T00:00:00Z", plan="large"), row("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"))

    assert AccountDirectory(rows).accounts()["acct-1"].plan == "large"
