"""A provider's report in the bucket is matched with usage every night; a difference opens a break and holds."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from pipeline.core.breaks import BreakClass
from pipeline.core.errors import InputError
from pipeline.core.reconciliation import Control, Equation
from pipeline.steps.collect import collect
from pipeline.steps.reconcile import published_controls, reconcile
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import put_object
from tests.steps.night import AT, CUTOFF, compute, put_night, revision_of

CONTRACT = """
name = "model_host"
version = "1"
prefix = "external/host/"
suffixes = [".csv"]
format = "csv"

[columns]
account = "customer"
sku = "meter"
day = "day"
quantity = "units"

[accounts]
"c-3" = "acct-3"

[skus]
"in" = "tokens-input"

[tolerance]
reason = "the host counts every token"
"""
KEY = "external/host/2026-01.csv"


@pytest.fixture
def project(workspace: Workspace) -> Workspace:
    """The night's project with a contract of a report, and the objects of the night in the bucket."""
    folder = workspace.project.folder / "external"
    folder.mkdir()
    (folder / "model_host.toml").write_text(CONTRACT, encoding="utf-8")
    put_night(workspace.raw)
    return open_workspace(workspace.project.folder)


def reported(project: Workspace, *rows: str) -> dict[tuple[Equation, str], Control]:
    """Collect the night with a report of these rows, reconcile it, and return the controls of the report."""
    content = "\n".join(["customer,meter,day,units", *rows]).encode()
    put_object(project.raw, KEY, content, CUTOFF - timedelta(hours=1))
    collect(project, AT, lambda _: None)
    compute(project)
    revision = revision_of(project)
    receipt = reconcile(project, revision.window_id, revision.revision, AT)
    controls = published_controls(project, receipt)
    return {(one.control, one.scope): one for one in controls if one.control.value.startswith("external")}


def test_a_report_that_says_what_was_used_passes_and_holds_nobody(project: Workspace) -> None:
    controls = reported(
        project,
        "acct-1,in,2026-01-15,1000",
        "acct-2,in,2026-01-15,0.5",
        "c-3,in,2026-01-15,2000000",
        "c-3,in,2026-01-15,1",
        "c-3,in,2026-01-16,77",
    )

    assert [(scope, one.expected, one.actual) for (_, scope), one in sorted(controls.items())] == [
        ("2026-01/model_host/acct-1/tokens-input", 1000, 1000),
        ("2026-01/model_host/acct-2/tokens-input", Decimal("0.5"), Decimal("0.5")),
        ("2026-01/model_host/acct-3/tokens-input", 2_000_001, 2_000_001),
    ]
    assert {one.verdict.value for one in controls.values()} == {"pass"}
    assert project.control_plane.held_accounts("2026-01") == {}
    assert project.control_plane.breaks() == []


def test_an_account_that_used_more_than_the_report_says_is_held_and_the_night_is_accepted(project: Workspace) -> None:
    controls = reported(project, "acct-1,in,2026-01-15,1000", "acct-2,in,2026-01-15,0.5", "c-3,in,2026-01-15,2000000")

    [failed] = [one for one in controls.values() if one.verdict.value == "fail"]
    assert (failed.account_id, failed.delta, failed.break_class) == ("acct-3", 1, BreakClass.AMOUNT)
    assert list(project.control_plane.held_accounts("2026-01")) == ["acct-3"]
    [found] = project.control_plane.breaks(domain="period=2026-01")
    assert (found.control, found.account_id) == ("external_usage", "acct-3")


def test_an_account_is_released_by_itself_when_its_control_passes_and_what_a_person_holds_stays(
    project: Workspace,
) -> None:
    rows = ("acct-1,in,2026-01-15,1000", "acct-2,in,2026-01-15,0.6")
    reported(project, *rows, "c-3,in,2026-01-15,2000000")
    project.control_plane.hold_account("2026-01", "acct-2", "disputed", AT, "ben")
    assert list(project.control_plane.held_accounts("2026-01")) == ["acct-2", "acct-3"]
    content = "\n".join(
        [
            "customer,meter,day,units",
            "acct-1,in,2026-01-15,1040",
            "acct-2,in,2026-01-15,0.5",
            "c-3,in,2026-01-15,2000001",
        ]
    )
    put_object(project.raw, KEY, content.encode(), CUTOFF + timedelta(hours=1))
    collect(project, AT + timedelta(hours=2), lambda _: None)

    second = compute(project, AT + timedelta(hours=2), include_late=True)
    reconcile(project, second.window_id, second.revision, AT + timedelta(hours=2))

    assert project.control_plane.held_accounts("2026-01") == {"acct-2": "disputed"}
    released = [one for one in project.control_plane.holds("2026-01") if one.released_at is not None]
    assert {(one.account_id, one.released_by) for one in released} == {("acct-2", "reconcile"), ("acct-3", "reconcile")}
    assert "passes in window 2026-01-15" in str(released[0].release_reason)


def test_a_customer_that_nobody_knows_opens_a_break_and_holds_nobody(project: Workspace) -> None:
    reported(
        project,
        *("acct-1,in,2026-01-15,1000", "acct-2,in,2026-01-15,0.5", "c-3,in,2026-01-15,2000001"),
        "c-9,in,2026-01-15,5",
    )

    [found] = project.control_plane.breaks()
    assert (found.break_class, found.account_id, found.expected, found.actual) == (BreakClass.MAPPING, None, 5, 0)
    assert project.control_plane.held_accounts("2026-01") == {}


def test_a_report_that_cannot_be_read_is_a_break_and_stops_no_collection(project: Workspace) -> None:
    controls = reported(project, "acct-1,in,2026-01-15,many")

    [found] = controls.values()
    assert "row 1: units: found 'many'" in found.tolerance_reason
    [opened] = project.control_plane.breaks()
    assert (opened.break_class, opened.unit, opened.scope) == (
        BreakClass.MISSING,
        "reports",
        f"2026-01/model_host/{KEY}",
    )


def test_a_report_is_neither_usage_nor_unclaimed(project: Workspace) -> None:
    put_object(project.raw, KEY, b"customer,meter,day,units\nacct-1,in,2026-01-15,1", CUTOFF - timedelta(hours=1))

    result = collect(project, AT, lambda _: None)

    assert KEY not in result.unclaimed_keys
    [said] = project.control_plane.evidence("model_host")
    assert (said.evidence.key, said.evidence.kind.value) == (KEY, "external_report")


def test_a_contract_that_shares_keys_with_a_source_is_refused(workspace: Workspace) -> None:
    folder = workspace.project.folder / "external"
    folder.mkdir()
    (folder / "host.toml").write_text(CONTRACT.replace("external/host/", "usage/").replace(".csv", ".ndjson"))

    with pytest.raises(InputError) as refusal:
        open_workspace(workspace.project.folder)

    assert any("found keys that both model_host and" in problem for problem in refusal.value.details)
