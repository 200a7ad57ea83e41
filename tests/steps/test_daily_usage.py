"""Usage by day, through the steps: sums, values of the day, levels over midnight, days of the account's zone."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.window import billing_period
from pipeline.steps.daily_usage import _day_starts, usage_by_day
from pipeline.steps.period_usage import period_inputs
from pipeline.steps.workspace import Workspace
from tests.fixtures_project import ACCOUNTS, METERS
from tests.steps.test_rate import receive
from tests.steps.test_rate_levels import DISK, GIBIBYTE, bill, level, open_project

BERLIN = ACCOUNTS.replace("USD,UTC,standard,2026-01-01T00:00:00Z", "USD,Europe/Berlin,standard,2025-12-31T23:00:00Z")


def days(workspace: Workspace, period_id: str) -> dict[str, list[dict[str, Any]]]:
    inputs = period_inputs(workspace, period_id, candidate=None)
    return {account_id: json.loads(entries) for account_id, entries in usage_by_day(workspace, period_id, inputs.pins)}


def test_sums_are_shown_on_the_day_of_the_account_and_add_up_to_the_period(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters=METERS, accounts=BERLIN)
    receive(
        workspace, level(5, "2026-01-30T12:00:00Z"), level(7, "2026-01-30T22:59:59Z"), level(9, "2026-01-30T23:00:00Z")
    )
    bill(workspace, "2026-01-30")

    found = days(workspace, "2026-01")

    [entry] = [one for one in found["acct-1"] if one["sku"] == "tokens-input"]
    assert entry["first_date"] == "2026-01-01"
    assert len(entry["quantities"]) == 31
    assert [(day, text) for day, text in enumerate(entry["quantities"], start=1) if text != "0"] == [
        (30, "12"),
        (31, "9"),
    ]


def test_a_maximum_is_that_of_each_day(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    meters = METERS.replace('aggregation = "sum"', 'aggregation = "max"')
    workspace = open_project(tmp_path, raw_bucket, meters=meters)
    receive(
        workspace, level(5, "2026-01-30T12:00:00Z"), level(9, "2026-01-30T13:00:00Z"), level(3, "2026-01-31T12:00:00Z")
    )
    bill(workspace, "2026-01-30")
    bill(workspace, "2026-01-31")

    [_, entry] = days(workspace, "2026-01")["acct-1"]

    assert entry["quantities"][28:] == ["0", "9", "3"]


def test_a_level_counts_from_midnight_to_midnight_on_days_without_an_event_too(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters=DISK)
    receive(workspace, level(2 * GIBIBYTE, "2026-01-30T12:00:00Z"), level(GIBIBYTE, "2026-02-01T12:00:00Z"))
    for window_id in ("2026-01-30", "2026-01-31", "2026-02-01"):
        bill(workspace, window_id)

    of_disk = {
        month: next(one for one in days(workspace, month)["acct-1"] if one["unit"] == "GiB-hours")
        for month in ("2026-01", "2026-02")
    }

    assert of_disk["2026-01"]["quantities"][28:] == ["0", "24", "48"]
    assert of_disk["2026-02"]["quantities"][:3] == ["36", "0", "0"]


def test_days_in_a_month_of_a_clock_change_are_shorter_and_longer() -> None:
    march = _day_starts(billing_period("2026-03", "Europe/Berlin"))
    october = _day_starts(billing_period("2026-10", "Europe/Berlin"))

    lengths = {
        (end.timestamp() - start.timestamp()) // 3600 for starts in (march, october) for start, end in pairwise(starts)
    }
    assert lengths == {23, 24, 25}
    assert [len(march), len(october)] == [32, 32]
