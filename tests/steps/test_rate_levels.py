"""Aggregations other than sums, through the steps: levels over a month's end, empty periods, a meter that changed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import PricingError
from pipeline.core.reconciliation import Verdict
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.aggregate import aggregate
from pipeline.steps.check import check
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.publish import read_manifest
from pipeline.steps.rate import rate
from pipeline.steps.reconcile import published_controls, reconcile
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, METERS, usage_event, write_project
from tests.steps.test_rate import AT, LAST_NIGHTS, draft, receive

DISK = METERS.replace('aggregation = "sum"', 'aggregation = "time_weighted_sum"\nper = "hour"').replace(
    'unit = "tokens"', 'unit = "bytes"\nbilling_unit = "GiB"'
)
GIBIBYTE = 2**30


def open_project(tmp_path: Path, raw_bucket: ObjectStore, **files: str) -> Workspace:
    named = {
        "billing.toml": LAST_NIGHTS,
        "meters.toml": files.get("meters", DISK),
        "accounts.csv": files.get("accounts", ACCOUNTS),
    }
    return open_workspace(write_project(tmp_path / "project", raw_bucket, named))


def level(size: int, time: str) -> dict[str, Any]:
    return usage_event(id=f"{time}-{size}", time=time, data={"input_tokens": size})


def bill(workspace: Workspace, window_id: str) -> list[str]:
    """Count, rate, check and reconcile a window and accept it; return the drafts that it touched."""
    revision = deduplicate(workspace, parse_window(window_id, ONE_DAY), AT)
    aggregate(workspace, window_id, revision.revision, AT)
    receipts = rate(workspace, window_id, revision.revision, AT)
    check(workspace, window_id, revision.revision, AT)
    controls = published_controls(workspace, reconcile(workspace, window_id, revision.revision, AT))
    assert {control.verdict for control in controls} == {Verdict.PASS}
    workspace.control_plane.decide_revision(window_id, revision.revision, RevisionState.ACCEPTED, AT, "test")
    return [receipt.scope for receipt in receipts]


def disk_hours(workspace: Workspace, period_id: str) -> dict[str, tuple[Decimal, str]]:
    rows = draft(workspace, period_id)
    return {row["account_id"]: (row["quantity"], row["unit"]) for row in rows if row["sku"] == "tokens-input"}


def test_a_level_is_billed_night_by_night_and_over_the_end_of_the_month(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket)
    receive(workspace, level(2 * GIBIBYTE, "2026-01-30T12:00:00Z"), level(GIBIBYTE, "2026-02-01T06:00:00Z"))

    bill(workspace, "2026-01-30")
    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(24), "GiB-hours")}, "12 h until the end of the night"
    bill(workspace, "2026-01-31")
    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(72), "GiB-hours")}
    bill(workspace, "2026-02-01")
    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(72), "GiB-hours")}
    assert disk_hours(workspace, "2026-02") == {"acct-1": (Decimal(2 * 6 + 18), "GiB-hours")}


def test_a_level_lasts_over_nights_without_any_event_and_the_draft_pins_where_it_came_from(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket)
    receive(workspace, level(GIBIBYTE, "2026-01-30T00:00:00Z"))
    for window_id in ("2026-01-30", "2026-01-31", "2026-02-01"):
        bill(workspace, window_id)

    draft_receipt = workspace.control_plane.publication("line_items", "period=2026-02")
    assert draft_receipt is not None
    pins = read_manifest(workspace, draft_receipt.manifest_hash).pins
    assert disk_hours(workspace, "2026-02") == {"acct-1": (Decimal(24), "GiB-hours")}
    assert sorted(pins["earlier_usage"]) == ["2026-01-30"]
    assert sorted(pins["usage"]) == ["2026-01-31", "2026-02-01"], "Berlin's February begins on 31 January"
    assert pins["levels_until"] == "2026-02-02T00:00:00+00:00"


def test_a_level_ends_with_the_validity_of_its_account(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    until_ten = ACCOUNTS.replace(
        "2026-01-01T00:00:00Z,,customer-1\n", "2026-01-01T00:00:00Z,2026-01-31T10:00:00Z,customer-1\n"
    )
    workspace = open_project(tmp_path, raw_bucket, accounts=until_ten)
    receive(workspace, level(GIBIBYTE, "2026-01-31T00:00:00Z"))

    bill(workspace, "2026-01-31")

    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(10), "GiB-hours")}


def test_a_maximum_of_nothing_makes_no_line(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters=METERS.replace('"sum"', '"max"'))
    receive(workspace, level(-5, "2026-01-30T00:00:00Z"), level(-7, "2026-01-30T01:00:00Z"))

    bill(workspace, "2026-01-30")
    bill(workspace, "2026-02-01")

    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(-5), "tokens")}
    assert workspace.control_plane.publication("line_items", "period=2026-02") is None


def test_an_aggregation_that_changed_within_the_period_is_refused_until_the_meter_is_put_back(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters=METERS)
    receive(
        workspace, level(3, "2026-01-30T00:00:00Z"), level(4, "2026-01-30T01:00:00Z"), level(5, "2026-01-31T00:00:00Z")
    )
    bill(workspace, "2026-01-30")
    (workspace.project.folder / "meters.toml").write_text(METERS.replace('"sum"', '"max"'), encoding="utf-8")
    changed = open_workspace(workspace.project.folder)

    with pytest.raises(PricingError) as refusal:
        bill(changed, "2026-01-31")

    assert "the SKU is aggregated as sum in some windows and as max in others" in refusal.value.details[0]
    (workspace.project.folder / "meters.toml").write_text(METERS, encoding="utf-8")
    bill(open_workspace(workspace.project.folder), "2026-01-31")
    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(12), "tokens")}


@pytest.mark.parametrize("new_meter", ['value = "data.output"', 'dimensions = ["model"]\nvalue = "data.input_tokens"'])
def test_a_meter_that_keeps_its_aggregation_may_change_within_the_period(
    tmp_path: Path, raw_bucket: ObjectStore, new_meter: str
) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters=METERS)
    receive(workspace, level(3, "2026-01-30T00:00:00Z"))
    later = usage_event(id="b", time="2026-01-31T00:00:00Z", data={"input_tokens": 5, "output": 5, "model": "m"})
    receive(workspace, later)
    bill(workspace, "2026-01-30")
    text = METERS.replace('value = "data.input_tokens"', new_meter)
    (workspace.project.folder / "meters.toml").write_text(text, encoding="utf-8")

    bill(open_workspace(workspace.project.folder), "2026-01-31")

    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(8), "tokens")}
