"""Estimates, through the steps: docs/estimates.md is executed, the same draft makes the same bytes."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.dataset import ESTIMATES
from pipeline.core.manifest import Receipt
from pipeline.steps.estimate import estimate, estimates_of_draft, published_estimates, totals_by_currency
from pipeline.steps.publish import read_manifest
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import BILLING, METERS, PRICE_BOOK, write_project
from tests.steps.test_rate import AT, bill, receive, tokens

PAGE = Path(__file__).parents[2] / "docs" / "estimates.md"
TIERS = PRICE_BOOK.replace(
    'model = "per_unit"\ncurrency = "USD"\nunit_price = 3\nper_units = 1_000_000',
    'model = "graduated"\ncurrency = "USD"\ntiers = [{ up_to = 1000, unit_price = 0 }, { unit_price = 0.01 }]',
)


def open_project(tmp_path: Path, raw_bucket: ObjectStore, **files: str) -> Workspace:
    own = {name.replace("__", "."): text for name, text in files.items()}
    named = {
        "billing.toml": BILLING.replace("estimates = false", "estimates = true"),
        "price_books/2025-01-01.toml": TIERS,
        **own,
    }
    return open_workspace(write_project(tmp_path / "project", raw_bucket, named))


def nights(workspace: Workspace, usage: list[int]) -> list[Receipt]:
    """Bill one window for each number of tokens, and estimate after the last one."""
    for day, quantity in enumerate(usage, start=1):
        receive(workspace, tokens(quantity, f"2026-01-{day:02}T10:00:00Z"))
        bill(workspace, f"2026-01-{day:02}")
    return estimate(workspace, f"2026-01-{len(usage):02}", 1, AT)


def estimated(workspace: Workspace, receipts: list[Receipt]) -> dict[str, dict[str, Any]]:
    [receipt] = [one for one in receipts if one.scope == "period=2026-01"]
    return {row["account_id"]: row for row in published_estimates(workspace, receipt)}


def figures(row: dict[str, Any]) -> list[Decimal]:
    return [row[name] for name in ("amount_to_date", "forecast_amount", "low_amount", "high_amount")]


def worked_example() -> tuple[list[int], list[Decimal]]:
    """Return the usage by day and the amounts of the first table of the page."""
    days = [
        int(text.replace(",", "")) for text in re.findall(r"^\| \d+ January \| ([\d,]+) \|$", PAGE.read_text(), re.M)
    ]
    amounts = re.findall(r"^\| (?:to date|forecast|low|high) \| .* \| ([\d.]+) \|$", PAGE.read_text(), re.M)
    return days, [Decimal(text) for text in amounts]


def test_the_worked_numbers_of_the_page_are_what_comes_out(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    days, amounts = worked_example()
    assert len(days) >= 2
    workspace = open_project(tmp_path, raw_bucket)

    row = estimated(workspace, nights(workspace, days))["acct-1"]

    assert figures(row) == amounts
    assert (row["days_known"], row["days"], row["problem"]) == (len(days), 31, "")


def test_the_same_draft_makes_the_same_bytes_and_another_one_another_revision(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket)
    [first] = nights(workspace, [100])
    assert estimate(workspace, "2026-01-01", 1, AT) == [first]
    draft = workspace.control_plane.publication("line_items", "period=2026-01")
    assert draft is not None
    assert read_manifest(workspace, first.manifest_hash).pins["line_items"] == draft.manifest_hash

    receive(workspace, tokens(300, "2026-01-02T10:00:00Z"))
    bill(workspace, "2026-01-02")
    [second] = estimate(workspace, "2026-01-02", 1, AT)

    assert (first.revision, second.revision) == (1, 2)
    assert estimates_of_draft(workspace, draft) == first


def test_usage_that_has_no_price_when_it_goes_on_holds_back_its_account_alone(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    head, _, *others = TIERS.replace("2025-01-01", "2026-01-11").split("[[plans.standard.charges]]")
    later = "[[plans.standard.charges]]".join([head, *others])  # without tokens-input in USD
    workspace = open_project(
        tmp_path,
        raw_bucket,
        **{
            "price_books/2025-01-01__toml": TIERS.replace("\n[plans", '\non_change = "split_counting_on"\n[plans', 1),
            "price_books/2026-01-11__toml": later,
        },
    )
    receive(workspace, tokens(50, "2026-01-02T11:00:00Z", subject="customer-3"))

    rows = estimated(workspace, nights(workspace, [100, 100]))

    assert figures(rows["acct-1"]) == [Decimal(0), None, None, None]
    assert rows["acct-1"]["problem"] == "the projected usage of SKU tokens-input has no price: no_charge"
    assert rows["acct-3"]["problem"] == ""
    # Its second day in Berlin is the only whole one: one request on each of the 28 23/24 days that are left.
    assert rows["acct-3"]["forecast_amount"] == Decimal("0.20")


def test_a_maximum_stays_as_it_is(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters__toml=METERS.replace('"sum"', '"max"', 1))

    row = estimated(workspace, nights(workspace, [1500, 1200]))["acct-1"]

    # 500 tokens above the first tier; 31 requests, one a day, 21 of them above theirs
    assert figures(row) == [Decimal("5.00"), Decimal("5.21"), Decimal("5.21"), Decimal("5.21")]


def test_a_currency_without_any_forecast_has_none_and_not_zero() -> None:
    known = {"period_id": "2026-01", "currency": "EUR", "as_of": AT, "amount_to_date": Decimal(7), "problem": ""}
    known |= dict.fromkeys(("forecast_amount", "low_amount", "high_amount"), Decimal(9))
    unknown = known | {"currency": "USD", "problem": "too few days"}
    unknown |= dict.fromkeys(("forecast_amount", "low_amount", "high_amount"))

    euro, dollar = totals_by_currency([known, known | {"problem": "too few days"}, unknown])

    assert (euro["forecast_amount"], euro["problem_count"]) == (9, 1)
    assert (dollar["amount_to_date"], dollar["forecast_amount"], dollar["high_amount"]) == (7, None, None)


def test_a_level_goes_on_by_day(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    meters = METERS.replace('aggregation = "sum"', 'aggregation = "time_weighted_sum"\nper = "hour"')
    workspace = open_project(tmp_path, raw_bucket, meters__toml=meters)
    receive(workspace, tokens(10, "2026-01-01T00:00:00Z"))
    bill(workspace, "2026-01-01")

    row = estimated(workspace, estimate(workspace, "2026-01-01", 1, AT))["acct-1"]

    # 240 token hours a day, 7440 in January: 6440 above the first tier; 31 requests as above
    assert figures(row) == [Decimal("0.00"), Decimal("64.61"), Decimal("64.61"), Decimal("64.61")]


@pytest.mark.parametrize("switched", ["off", "on"])
def test_estimates_can_be_switched_off(tmp_path: Path, raw_bucket: ObjectStore, switched: str) -> None:
    billing = BILLING.replace("estimates = false", f"estimates = {json.dumps(switched == 'on')}")
    workspace = open_project(tmp_path, raw_bucket, billing__toml=billing)

    assert [receipt.dataset for receipt in nights(workspace, [100])] == [ESTIMATES.name] * (switched == "on")
