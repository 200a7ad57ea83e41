"""The report shows every number of the night, asks no other host for anything, and is the same bytes each time."""

from __future__ import annotations

import html
import json
import re
from datetime import date, timedelta
from decimal import Decimal

import pytest

from pipeline.core.check import Severity
from pipeline.core.errors import ReconciliationError
from pipeline.core.report import EVENT_TEXT_CHARACTERS_MAX
from pipeline.core.report_model import Cell, ReportModel
from pipeline.core.report_sections import report_model
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.accept import accept, reject
from pipeline.steps.check import check
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.reconcile import reconcile
from pipeline.steps.report import Format, report, report_facts
from pipeline.steps.run import run_window
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import put_events, put_object, usage_event
from tests.steps.night import AT, START, WINDOW, compute, computed_night, forged_revision, put_night, revision_of


def page_of(ws: Workspace, revision: WindowRevision) -> str:
    return report(ws, revision.window_id, revision.revision, AT).read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """Return what a reader sees, without tags and with single spaces."""
    body = page[page.index("<body>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def reconciled_night(ws: Workspace) -> WindowRevision:
    revision = revision_of(ws)
    reconcile(ws, revision.window_id, revision.revision, AT)
    return revision


def test_the_report_of_an_accepted_night_begins_with_its_verdict(night: Workspace) -> None:
    revision = revision_of(night)
    checked = check(night, revision.window_id, revision.revision, AT)
    reconcile(night, revision.window_id, revision.revision, AT)
    accept(night, revision.window_id, revision.revision, AT)

    page = page_of(night, revision)

    words = words_of(page)
    assert (
        "reconciled: unexplained 0 events, 0.00 EUR, 0.00 USD; 3 events billed, 5 excluded, 2 lines quarantined"
        in words
    )
    assert "1, accepted" in words
    assert f"{len(checked.failed(Severity.WARNING))} not met" in words


def test_the_report_shows_the_night_step_by_step(night: Workspace) -> None:
    words = words_of(page_of(night, reconciled_night(night)))

    for step in (
        "lines received 10",
        "quarantined: empty object -1",
        "quarantined: malformed line -1",
        "events received 8",
        "of other windows -1",
        "from other nights +1",
        "events of the window 8",
        "excluded: exact duplicate -1",
        "excluded: conflicting duplicate -1",
        "excluded: late -1",
        "excluded: orphaned account -1",
        "excluded: unreadable quantity -1",
        "events billed 3",
    ):
        assert step in words, step
    assert "unexplained -" not in words


def test_the_report_shows_quantities_amounts_and_where_conflicts_were_read(night: Workspace) -> None:
    words = words_of(page_of(night, reconciled_night(night)))

    assert "2,003,048.5" in words, "raw quantity of tokens-input"
    assert "2,001,001.5" in words, "billed quantity of tokens-input"
    assert re.search(r"2026-01 EUR 1 2 5\.6000028 5\.60 0\.0000028", words), "exact, rounded and residual"
    assert re.search(r"api b request\.completed customer-2 .* usage/a\.ndjson@\w+ 4 usage/a\.ndjson@\w+ 2", words)
    assert "billing run --window 2026-01-15 --include-late" in words


def test_the_same_revision_makes_the_same_bytes_whatever_has_arrived_since(workspace: Workspace) -> None:
    computed_night(workspace)
    revision = reconciled_night(workspace)
    first = page_of(workspace, revision)
    put_events(workspace.raw, "usage/more.ndjson", [usage_event(id="more")], START + timedelta(hours=20))
    collect(workspace, AT + timedelta(days=1), lambda _: None)
    compute(workspace, AT + timedelta(days=1))

    again = page_of(workspace, revision)

    assert again == first


def test_a_hold_made_after_the_report_is_in_it_only_when_it_is_made_afresh(night: Workspace) -> None:
    revision = reconciled_night(night)
    before = page_of(night, revision)
    night.control_plane.hold_account("2026-01", "acct-1", "disputed", AT, "ana")
    night.control_plane.hold_account("2025-12", "acct-1", "of a final period", AT, "ana")

    again = page_of(night, revision)
    fresh = report(night, revision.window_id, revision.revision, AT, refresh=True).read_text(encoding="utf-8")

    assert again == before
    assert "No account is held." in words_of(before)
    assert "1 account held" in words_of(fresh)
    assert "disputed" in words_of(fresh)
    assert "of a final period" in words_of(fresh)
    assert page_of(night, revision) == fresh, "and what was known then is pinned from then on"


def test_every_format_is_written_from_the_same_facts(night: Workspace) -> None:
    revision = reconciled_night(night)

    first = report(night, revision.window_id, revision.revision, AT, list(Format))

    assert first.suffix == ".html"
    written = {path.suffix for path in first.parent.glob("2026-01-15-r1.*")}
    assert written == {".html", ".xlsx", ".json", ".parquet"}
    content = json.loads(first.with_suffix(".json").read_text(encoding="utf-8"))
    assert content["sentence"] in words_of(first.read_text(encoding="utf-8"))


def test_two_nights_are_compared_and_new_and_silent_accounts_are_named(workspace: Workspace) -> None:
    first = [
        usage_event(id="a1", time="2026-01-14T10:00:00Z", data={"input_tokens": 1_000_000}),
        usage_event(id="a2", time="2026-01-14T10:00:00Z", subject="customer-2", data={"input_tokens": 1_000_000}),
    ]
    second = [
        usage_event(id="b1", data={"input_tokens": 3_000_000}),
        usage_event(id="b3", subject="customer-3", data={"input_tokens": 1_000_000}),
    ]
    put_events(workspace.raw, "usage/first.ndjson", first, START - timedelta(hours=2))
    put_events(workspace.raw, "usage/second.ndjson", second, START + timedelta(hours=13))
    collect(workspace, AT, lambda _: None)
    before = BillingWindow(START - timedelta(days=1), START)
    run_window(workspace, before, AT, lambda _: None)
    run_window(workspace, WINDOW, AT, lambda _: None)

    model = report_model_of(workspace, WINDOW.window_id)

    assert {row[0]: row[2] for row in cells_of(model, "activity")} == {"acct-2": "silent", "acct-3": "new"}
    [euro] = [sums for sums in model.table("causes").sums() if sums.cells[0] == "USD"]
    movers = {row[0]: row[3:6] for row in cells_of(model, "movers")}
    now, then, change = movers["acct-1"]
    assert isinstance(now, Decimal)
    assert isinstance(then, Decimal)
    assert now == 3 * then
    assert change == now - then
    assert euro.cells[0] == "USD"
    assert [row[0] for row in cells_of(model, "trends")] == ["2026-01-14", "2026-01-15"]


def test_what_changed_since_the_revision_before_is_told_by_cause(workspace: Workspace) -> None:
    computed_night(workspace)
    late = AT + timedelta(hours=1)
    revision = compute(workspace, late, include_late=True)
    reconcile(workspace, revision.window_id, revision.revision, late)

    model = report_model_of(workspace, revision.window_id, revision.revision)

    table = model.table("revision_skus")
    rows = {row.cells[0]: row.cells for row in table.rows}
    assert rows["tokens-input"][4] == 40
    assert [column.name for column in table.columns][4] == "late_events"
    _, _, quantity_from, quantity_to, _ = rows["tokens-input"]
    assert isinstance(quantity_from, Decimal)
    assert isinstance(quantity_to, Decimal)
    assert quantity_to - quantity_from == 40


def report_model_of(ws: Workspace, window_id: str, revision: int = 1) -> ReportModel:
    return report_model(report_facts(ws, window_id, revision, AT))


def cells_of(model: ReportModel, table: str) -> list[tuple[Cell, ...]]:
    return [row.cells for row in model.table(table).rows]


def test_the_report_asks_no_host_for_anything_and_runs_nothing(night: Workspace) -> None:
    page = page_of(night, reconciled_night(night))

    assert "default-src 'none'" in page
    assert not re.search(
        r"(?i)<(script|link|img|iframe|object|embed|base|form)\b|url\(|@import|https?://|\son\w+=", page
    )
    assert set(re.findall(r'href="([^"]*)"', page)) <= {f"#{anchor}" for anchor in re.findall(r'id="([^"]*)"', page)}


def test_raw_bytes_of_a_producer_cannot_act_on_the_page(workspace: Workspace) -> None:
    hostile = b'<script>alert("1")</script><img src=x onerror=alert(1)>\x1b[31m\xff\n'
    put_object(workspace.raw, "usage/hostile.ndjson", hostile, START + timedelta(hours=12))
    collect(workspace, AT, lambda _: None)
    revision = compute(workspace)

    page = page_of(workspace, revision)

    assert "<script" not in page
    assert "<img" not in page
    assert r'<script>alert("1")</script><img src=x onerror=alert(1)>\x1b[31m\xff' in html.unescape(page)


def test_events_that_no_window_bills_are_steps_of_their_own(workspace: Workspace) -> None:
    times = ("2025-12-31T23:59:59.999999Z", "2026-01-01T00:00:00Z", "2026-01-16T01:00:00Z", "2026-01-22T12:59:59Z")
    events = [usage_event(id=time, time=time) for time in times]
    put_events(workspace.raw, "usage/outside.ndjson", [usage_event(id="a"), *events], START + timedelta(hours=13))
    collect(workspace, AT, lambda _: None)
    revision = compute(workspace)
    reconcile(workspace, revision.window_id, revision.revision, AT)

    words = words_of(page_of(workspace, revision))

    assert "events received 5 " in words
    assert "before the first window -1 4 used before the first window that is billed; never billed" in words
    assert "in the future -2 2 outside this window and used later than received" in words
    assert "of other windows -1 1 used on another day" in words
    assert "unexplained -" not in words


def test_a_report_keeps_the_first_window_that_it_was_reconciled_with(workspace: Workspace) -> None:
    events = [usage_event(id="a"), usage_event(id="early", time="2026-01-02T12:00:00Z")]
    put_events(workspace.raw, "usage/a.ndjson", events, START + timedelta(hours=13))
    collect(workspace, AT, lambda _: None)
    revision = compute(workspace)
    reconciled = reconcile(workspace, revision.window_id, revision.revision, AT)
    before = page_of(workspace, revision)
    billing = workspace.project.folder / "billing.toml"
    billing.write_text(billing.read_text().replace("first_window = 2026-01-01", "first_window = 2026-01-05"))
    moved = open_workspace(workspace.project.folder)

    assert moved.project.settings.window.first_window == date(2026, 1, 5)
    assert reconcile(moved, revision.window_id, revision.revision, AT) == reconciled
    assert page_of(moved, revision) == before
    assert "of other windows -1" in words_of(before)


def test_a_report_keeps_the_tolerance_that_its_revision_was_opened_with(workspace: Workspace) -> None:
    events = [usage_event(id="a"), usage_event(id="ahead", time="2026-01-16T00:30:00Z")]
    put_events(workspace.raw, "usage/a.ndjson", events, WINDOW.end - timedelta(minutes=30))
    collect(workspace, AT, lambda _: None)
    revision = compute(workspace)
    billing = workspace.project.folder / "billing.toml"
    billing.write_text(billing.read_text().replace("[raw]", 'future_tolerance = "2h"\n\n[raw]'))

    words = words_of(page_of(open_workspace(workspace.project.folder), revision))

    assert "in the future -1" in words


def test_a_long_text_of_an_excluded_event_is_shortened(workspace: Workspace) -> None:
    long = "x" * 100_000
    put_events(workspace.raw, "usage/long.ndjson", [usage_event(id=long, subject=long)], START + timedelta(hours=13))
    collect(workspace, AT, lambda _: None)

    page = page_of(workspace, compute(workspace))

    cut = "x" * (EVENT_TEXT_CHARACTERS_MAX - 1) + "…"
    assert f"<td><bdi>{cut}</bdi></td>" in page
    assert f">api {cut}</bdi></th>" in page
    assert "x" * EVENT_TEXT_CHARACTERS_MAX not in page


def test_a_reason_shows_its_first_twenty_events_and_how_many_more(workspace: Workspace) -> None:
    events = [usage_event(id=f"r{number:02}", subject="customer-404") for number in range(23)]
    put_events(workspace.raw, "usage/orphans.ndjson", events, START + timedelta(hours=13))
    collect(workspace, AT, lambda _: None)

    page = page_of(workspace, compute(workspace))

    assert len(re.findall(r">api r\d\d<", page)) == 20
    assert "and 3 more in excluded_events" in page


def test_a_rejected_revision_has_a_report_that_says_why(night: Workspace) -> None:
    revision = revision_of(night)
    reject(night, revision.window_id, revision.revision, AT, "check.critical_failed: a sum is <negative>\n  why")

    words = words_of(page_of(night, revision))

    assert "not reconciled: check.critical_failed: a sum is <negative>; 3 events would be billed" in words
    assert "The reconciliation has not run for this revision." in words


def test_a_revision_whose_usage_was_never_computed_has_a_report(workspace: Workspace) -> None:
    put_night(workspace.raw)
    collect(workspace, AT, lambda _: None)
    revision = deduplicate(workspace, WINDOW, AT)

    words = words_of(page_of(workspace, revision))

    assert "Usage was not computed." in words
    assert "There is no draft with this revision." in words


def test_a_failed_control_is_shown_with_both_sides(night: Workspace) -> None:
    queries = {"usage": "SELECT * FROM usage WHERE account_id <> 'acct-1'"}
    revision = forged_revision(night, revision_of(night), queries)
    with pytest.raises(ReconciliationError):
        reconcile(night, revision.window_id, revision.revision, AT)

    words = words_of(page_of(night, revision))

    assert words.startswith("Skip to the report Test Ltd · test project")
    assert re.search(r"not reconciled: 4 of \d+ controls failed", words)
    assert "tokens-input tokens 2,001,001.5 2,000,001.5 -1,000 0 fail" in words


def test_no_number_of_the_report_has_an_exponent(night: Workspace) -> None:
    words = words_of(page_of(night, reconciled_night(night)))

    assert not re.search(r"\b\d(\.\d+)?[eE][+-]?\d+\b", re.sub(r"\b[0-9a-f]{12,}\b", "", words))


def test_the_evidence_names_every_object_manifest_and_pin(night: Workspace) -> None:
    revision = reconciled_night(night)
    receipt = night.control_plane.publication("usage", revision.scope, 1)
    assert receipt is not None

    page = page_of(night, revision)

    night = night.control_plane.objects_received(START, AT)
    assert all(known.object_id in page for known in night if known.received_at < WINDOW.end + timedelta(hours=6))
    assert receipt.manifest_hash in page
    assert receipt.content_hash in page
    assert revision.pins["meters.toml"] in page
    assert revision.inputs_hash in page
