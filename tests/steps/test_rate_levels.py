"""Aggregations other than sums, through the steps: levels over a month's end, empty periods, a meter that changed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.errors import PricingError
from pipeline.core.reconciliation import Verdict
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.aggregate import aggregate, find_revision
from pipeline.steps.backfill import backfill
from pipeline.steps.check import check
from pipeline.steps.deduplicate import deduplicate, exclusion_counts
from pipeline.steps.diff import diff
from pipeline.steps.publish import read_manifest
from pipeline.steps.rate import rate
from pipeline.steps.reconcile import published_controls, reconcile
from pipeline.steps.rerun import rerun
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


def bill(workspace: Workspace, window_id: str, *, gates: bool = False) -> list[str]:
    """Count and rate a window and accept it, after check and reconcile if asked; return the drafts that it touched."""
    revision = deduplicate(workspace, parse_window(window_id, ONE_DAY), AT)
    aggregate(workspace, window_id, revision.revision, AT)
    receipts = rate(workspace, window_id, revision.revision, AT)
    if gates:
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
    bill(workspace, "2026-02-01", gates=True)
    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(72), "GiB-hours")}
    assert disk_hours(workspace, "2026-02") == {"acct-1": (Decimal(2 * 6 + 18), "GiB-hours")}


def test_a_level_lasts_over_nights_without_any_event_and_the_draft_pins_where_it_came_from(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket)
    receive(workspace, level(GIBIBYTE, "2026-01-30T00:00:00Z"))
    for window_id in ("2026-01-30", "2026-01-31", "2026-02-01"):
        bill(workspace, window_id, gates=window_id == "2026-02-01")

    draft_receipt = workspace.control_plane.publication("line_items", "period=2026-02")
    assert draft_receipt is not None
    pins = read_manifest(workspace, draft_receipt.manifest_hash).pins
    assert disk_hours(workspace, "2026-02") == {"acct-1": (Decimal(24), "GiB-hours")}
    assert sorted(pins["earlier_levels"]) == ["2026-01-30"]
    assert sorted(pins["usage"]) == ["2026-01-31", "2026-02-01"], "Berlin's February begins on 31 January"
    assert pins["levels_until"] == "2026-02-02T00:00:00+00:00"


def test_a_level_ends_with_the_validity_of_its_account(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    until_ten = ACCOUNTS.replace(
        "2026-01-01T00:00:00Z,,customer-1\n", "2026-01-01T00:00:00Z,2026-01-31T10:00:00Z,customer-1\n"
    )
    workspace = open_project(tmp_path, raw_bucket, accounts=until_ten)
    receive(workspace, level(GIBIBYTE, "2026-01-31T00:00:00Z"))

    bill(workspace, "2026-01-31", gates=True)

    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(10), "GiB-hours")}


def test_a_maximum_of_nothing_makes_no_line(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters=METERS.replace('"sum"', '"max"'))
    receive(workspace, level(-5, "2026-01-30T00:00:00Z"), level(-7, "2026-01-30T01:00:00Z"))

    bill(workspace, "2026-01-30")
    bill(workspace, "2026-02-01", gates=True)

    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(-5), "tokens")}
    assert workspace.control_plane.publication("line_items", "period=2026-02") is None


MOVED = ACCOUNTS.replace("2026-01-01T00:00:00Z,,customer-1\n", "2026-01-01T00:00:00Z,2026-01-31T10:30:00Z,customer-1\n")


def test_a_level_splits_where_its_resource_moves_to_another_account(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    next_owner = "acct-2,{},2026-01-31T10:30:00Z,,customer-1\n"
    facts = next(line for line in ACCOUNTS.splitlines() if line.startswith("acct-2,")).split(",")[1:5]
    workspace = open_project(tmp_path, raw_bucket, accounts=MOVED + next_owner.format(",".join(facts)))
    receive(workspace, level(GIBIBYTE, "2026-01-30T00:00:00Z"))

    bill(workspace, "2026-01-30")
    bill(workspace, "2026-01-31", gates=True)

    assert {name: quantity for name, (quantity, _) in disk_hours(workspace, "2026-01").items()} == {
        "acct-1": Decimal("34.5"),
        "acct-2": Decimal("13.5"),
    }


def test_a_level_that_is_sent_while_nobody_owns_its_resource_is_billed_to_the_next_owner_only(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    facts = ",".join(next(line for line in ACCOUNTS.splitlines() if line.startswith("acct-2,")).split(",")[1:5])
    taken_over = MOVED + f"acct-2,{facts},2026-01-31T18:00:00Z,,customer-1\n"
    workspace = open_project(tmp_path, raw_bucket, accounts=taken_over)
    receive(workspace, level(GIBIBYTE, "2026-01-30T00:00:00Z"), level(2 * GIBIBYTE, "2026-01-31T12:00:00Z"))
    bill(workspace, "2026-01-30")
    bill(workspace, "2026-01-31", gates=True)

    assert disk_hours(workspace, "2026-01") == {
        "acct-1": (Decimal("34.5"), "GiB-hours"),
        "acct-2": (Decimal(2 * 6), "GiB-hours"),
    }
    with Warehouse(workspace.scratch) as warehouse:
        revision = find_revision(workspace, "2026-01-31", 1)
        assert exclusion_counts(workspace, warehouse, revision) == {"orphaned_account": 1}
    assert rerun(workspace, "2026-01-31", 1).is_identical

    mended = taken_over.replace("2026-01-31T18:00:00Z", "2026-01-31T11:00:00Z")
    (workspace.project.folder / "accounts.csv").write_text(mended, encoding="utf-8")
    changed = open_workspace(workspace.project.folder)
    bill(changed, "2026-01-31", gates=True)

    assert disk_hours(changed, "2026-01")["acct-2"] == (Decimal(1 + 2 * 12), "GiB-hours")
    [change] = [one for one in diff(changed, "2026-01-31", 1, 2).changes if one.sku == "tokens-input"]
    assert (change.account_id, change.change, dict(change.parts)) == ("acct-2", 12, {"account_mapping": 12})


def test_two_resources_of_an_account_have_levels_of_their_own(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    two = ACCOUNTS.replace(",,customer-1\n", ",,customer-1;disk-2\n")
    workspace = open_project(tmp_path, raw_bucket, accounts=two)
    receive(workspace, level(GIBIBYTE, "2026-01-31T00:00:00Z"))
    receive(workspace, level(2 * GIBIBYTE, "2026-01-31T12:00:00Z") | {"subject": "disk-2"})

    bill(workspace, "2026-01-31")

    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(24 + 24), "GiB-hours")}


def test_a_level_ends_when_its_meter_measures_something_else(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = open_project(tmp_path, raw_bucket)
    receive(workspace, level(GIBIBYTE, "2026-01-30T12:00:00Z"))
    in_eu = usage_event(id="eu", time="2026-01-31T06:00:00Z", data={"input_tokens": 2 * GIBIBYTE, "region": "eu"})
    receive(workspace, in_eu)
    bill(workspace, "2026-01-30")
    by_region = DISK.replace('value = "data.input_tokens"', 'value = "data.input_tokens"\ndimensions = ["region"]')
    (workspace.project.folder / "meters.toml").write_text(by_region, encoding="utf-8")
    changed = open_workspace(workspace.project.folder)

    bill(changed, "2026-01-31")
    bill(changed, "2026-02-01", gates=True)

    assert disk_hours(changed, "2026-01") == {"acct-1": (Decimal(12 + 2 * 18), "GiB-hours")}
    assert disk_hours(changed, "2026-02") == {"acct-1": (Decimal(2 * 24), "GiB-hours")}


def test_a_level_goes_on_when_only_what_is_priced_changes(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = open_project(tmp_path, raw_bucket)
    receive(workspace, level(GIBIBYTE, "2026-01-31T12:00:00Z"))
    bill(workspace, "2026-01-31")
    in_mebibytes = DISK.replace('billing_unit = "GiB"', 'billing_unit = "MiB"').replace(
        "per = ", 'description = "x"\nper = '
    )
    (workspace.project.folder / "meters.toml").write_text(in_mebibytes, encoding="utf-8")
    changed = open_workspace(workspace.project.folder)

    bill(changed, "2026-02-01", gates=True)

    assert disk_hours(changed, "2026-02") == {"acct-1": (Decimal(24 * 1024), "MiB-hours")}


def test_an_aggregation_that_changes_within_a_period_is_taken_on_by_all_its_windows_at_once(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    workspace = open_project(tmp_path, raw_bucket, meters=METERS)
    receive(
        workspace, level(3, "2026-01-30T00:00:00Z"), level(4, "2026-01-30T01:00:00Z"), level(5, "2026-01-31T00:00:00Z")
    )
    windows = [parse_window(window_id, ONE_DAY) for window_id in ("2026-01-30", "2026-01-31", "2026-02-01")]
    bill(workspace, "2026-01-30")
    bill(workspace, "2026-01-31")
    (workspace.project.folder / "meters.toml").write_text(METERS.replace('"sum"', '"max"'), encoding="utf-8")
    changed = open_workspace(workspace.project.folder)

    with pytest.raises(PricingError) as refusal:
        bill(changed, "2026-01-31")
    results = list(backfill(changed, windows, 1, lambda: AT, lambda _: None))

    assert "the SKU is aggregated as" in refusal.value.details[0]
    assert "billing backfill" in refusal.value.details[0]
    assert [result.window_id for result in results] == ["2026-01-30", "2026-01-31", "2026-02-01"]
    assert disk_hours(changed, "2026-01") == {"acct-1": (Decimal(5), "tokens")}


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

    bill(open_workspace(workspace.project.folder), "2026-01-31", gates=True)

    assert disk_hours(workspace, "2026-01") == {"acct-1": (Decimal(8), "tokens")}
