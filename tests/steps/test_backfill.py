"""Many windows in order: the same as one by one, gone on with after a kill, and honest about what was left out."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.dataset import LINE_ITEMS, USAGE
from pipeline.core.errors import InputError, NotReadyError, PricingError
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.backfill import backfill, windows_of_backfill
from pipeline.steps.collect import collect
from pipeline.steps.publish import read_manifest
from pipeline.steps.run import LeftOutWindow, WindowResult, run_window
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import CONTRACT, PRICE_BOOK, put_events, usage_event, write_project

FIRST, LAST = (parse_window(text, ONE_DAY) for text in ("2026-01-05", "2026-01-07"))
AT = datetime(2026, 1, 10, 7, tzinfo=UTC)
BOOK = "price_books/2025-01-01.toml"


pytestmark = pytest.mark.slow


def put_days(raw: ObjectStore, subject: str = "customer-1") -> None:
    for day in range(5, 9):
        noon = datetime(2026, 1, day, 12, tzinfo=UTC)
        events = [usage_event(id=f"{day}-{n}", subject=subject, time=noon.isoformat()) for n in range(day)]
        put_events(raw, f"usage/{day:02}.ndjson", events, noon)
        late = [usage_event(id=f"late-{day}", time=noon.isoformat())]
        put_events(raw, f"usage/late-{day:02}.ndjson", late, noon + ONE_DAY)


def collected(folder: Path, raw: ObjectStore, files: dict[str, str] | None = None) -> Workspace:
    workspace = open_workspace(write_project(folder, raw, files))
    collect(workspace, AT, lambda _: None)
    return workspace


def run_backfill(ws: Workspace, at_most: int = 1, **options: Any) -> list[WindowResult | LeftOutWindow]:
    windows = windows_of_backfill(ws, FIRST, LAST)
    return list(backfill(ws, windows, at_most, lambda: AT, lambda _: None, **options))


def published(ws: Workspace) -> dict[str, Any]:
    """Return what the windows and the draft of the period came to, by content."""
    usage = {
        revision.window_id: receipt.content_hash
        for revision in ws.control_plane.accepted_revisions().values()
        if (receipt := ws.control_plane.publication(USAGE.name, revision.scope, revision.revision))
    }
    draft = ws.control_plane.publication(LINE_ITEMS.name, "period=2026-01")
    assert draft is not None
    return {
        "usage": usage,
        "draft": draft.content_hash,
        "rated": set(read_manifest(ws, draft.manifest_hash).pins["usage"]),
    }


def test_windows_at_once_come_to_the_same_as_windows_one_by_one(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    put_days(raw_bucket)
    one_by_one = collected(tmp_path / "one", raw_bucket)
    for window in windows_of_backfill(one_by_one, FIRST, LAST):
        run_window(one_by_one, window, AT, lambda _: None)
    at_once = collected(tmp_path / "two", raw_bucket)

    results = run_backfill(at_once, at_most=2)

    assert [(r.window_id, r.is_new, r.billed_events) for r in results if isinstance(r, WindowResult)] == [
        ("2026-01-05", True, 5),
        ("2026-01-06", True, 6),
        ("2026-01-07", True, 7),
    ]
    assert published(at_once) == published(one_by_one)
    assert published(at_once)["rated"] == {"2026-01-05", "2026-01-06", "2026-01-07"}
    accepted = [e.subject for e in at_once.control_plane.audit_log() if e.action == "revision_accepted"]
    assert accepted == sorted(accepted)


@pytest.mark.parametrize("at_most", [1, 2])
def test_a_second_backfill_skips_what_is_current_and_takes_in_late_events_when_told_to(
    tmp_path: Path, raw_bucket: ObjectStore, at_most: int
) -> None:
    put_days(raw_bucket)
    workspace = collected(tmp_path / "project", raw_bucket)
    run_backfill(workspace, at_most)
    raw_events = tmp_path / "project" / "lake" / "data" / "raw_events"
    raw_events.rename(tmp_path / "elsewhere")

    second = run_backfill(workspace, at_most)  # what is current is not computed: it would miss the raw events
    (tmp_path / "elsewhere").rename(raw_events)
    third = run_backfill(workspace, at_most, include_late=True)

    assert [(r.revision, r.is_new) for r in second if isinstance(r, WindowResult)] == [(1, False)] * 3
    assert [(r.revision, r.is_new) for r in third if isinstance(r, WindowResult)] == [(2, True)] * 3


def test_a_window_without_evidence_is_left_out_and_holds_back_no_other(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    put_days(raw_bucket)
    heartbeats = '\n[completeness]\nevidence = "heartbeat"\nkey_pattern = "heartbeats/.*"\n'
    workspace = collected(tmp_path / "project", raw_bucket, {"sources/usage.toml": CONTRACT + heartbeats})

    results = run_backfill(workspace, at_most=2)

    assert all(isinstance(result, LeftOutWindow) for result in results)
    assert [result.window_id for result in results] == ["2026-01-05", "2026-01-06", "2026-01-07"]


@pytest.mark.parametrize("at_most", [1, 2])
def test_a_refused_gate_ends_the_backfill_and_a_mended_one_goes_on(
    tmp_path: Path, raw_bucket: ObjectStore, at_most: int
) -> None:
    put_days(raw_bucket)
    noon = datetime(2026, 1, 6, 12, tzinfo=UTC)
    unpriced = [usage_event(id="eur", subject="customer-3", time=noon.isoformat())]
    put_events(raw_bucket, "usage/eur.ndjson", unpriced, noon)
    book = PRICE_BOOK.replace('currency = "EUR"', 'currency = "CHF"', 1)
    workspace = collected(tmp_path / "project", raw_bucket, {BOOK: book})

    with pytest.raises(PricingError):
        run_backfill(workspace, at_most)

    states = {r.window_id: r.state for r in workspace.control_plane.window_revisions()}
    assert states["2026-01-05"] is RevisionState.ACCEPTED
    assert states["2026-01-06"] is RevisionState.REJECTED
    assert states.get("2026-01-07") is not RevisionState.ACCEPTED
    mended = open_workspace(write_project(tmp_path / "project", raw_bucket, {BOOK: PRICE_BOOK}))
    results = run_backfill(mended, at_most)
    assert [r.is_new for r in results if isinstance(r, WindowResult)] == [False, True, True]


def test_a_window_that_is_not_collected_ends_the_backfill(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = collected(tmp_path / "project", raw_bucket)
    windows = windows_of_backfill(workspace, parse_window("2026-01-09", ONE_DAY), parse_window("2026-01-10", ONE_DAY))
    results: Iterator[WindowResult | LeftOutWindow] = backfill(workspace, windows, 2, lambda: AT, lambda _: None)

    first = next(results)
    with pytest.raises(NotReadyError) as refused:
        next(results)

    assert isinstance(first, WindowResult)
    assert refused.value.code == "window.not_collected"


def test_windows_in_the_wrong_order_are_refused(workspace: Workspace) -> None:
    with pytest.raises(InputError) as refused:
        windows_of_backfill(workspace, LAST, FIRST)

    assert refused.value.code == "backfill.no_window"
    assert [window.window_id for window in windows_of_backfill(workspace, LAST, LAST)] == ["2026-01-07"]


def test_a_killed_backfill_is_gone_on_with(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    put_days(raw_bucket)
    folder = tmp_path / "project"
    workspace = collected(folder, raw_bucket)
    command = [sys.executable, "-m", "pipeline", "backfill", "--from", "2026-01-05", "--to", "2026-01-07"]
    killed = subprocess.Popen([*command, "--at-most", "2", "--project", str(folder)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    first_line = killed.stdout.readline()

    killed.kill()
    killed.wait()

    assert "2026-01-05  revision 1 accepted" in first_line
    rest = run_backfill(workspace, at_most=2)
    assert [(r.revision, r.window_id) for r in rest if isinstance(r, WindowResult)] == [
        (1, f"2026-01-{day:02}") for day in range(5, 8)
    ]
    assert published(workspace)["rated"] == {f"2026-01-{day:02}" for day in range(5, 8)}


def test_a_process_ends_when_the_one_that_started_it_is_gone(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    folder = tmp_path / "project"
    collected(folder, raw_bucket)
    lock = sqlite3.connect(folder / "control_plane.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # so the process waits for a minute before it can open its revision
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.steps.backfill"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    pickle.dump((folder, FIRST, AT, False), process.stdin)

    process.stdin.close()  # as the system does for a process that was killed

    try:
        assert process.wait(timeout=40) == 0
    finally:
        process.kill()
        lock.close()
    assert open_workspace(folder).control_plane.latest_revision(FIRST.window_id) is None


@pytest.mark.slow
def test_the_command_says_a_line_for_each_window_and_a_total(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    put_days(raw_bucket)
    folder = tmp_path / "project"
    collected(folder, raw_bucket)
    command = [sys.executable, "-m", "pipeline", "backfill", "--project", str(folder)]

    ran = subprocess.run(
        [*command, "--from", "2026-01-08", "--to", "2026-01-11"], capture_output=True, text=True, check=False
    )
    wrong = subprocess.run(
        [*command, "--from", "2026-01-07", "--to", "soon"], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 1
    assert ran.stdout.splitlines() == [
        "2026-01-08  revision 1 accepted: 8 events billed, 1 excluded",
        "2026-01-09  revision 1 accepted: 0 events billed, 0 excluded",
        "4 windows: 2 accepted, 0 current, 0 left out, 2 not reached",
    ]
    assert ran.stderr.startswith("window.not_collected: ")
    assert (wrong.returncode, "--to" in wrong.stderr) == (2, True)
