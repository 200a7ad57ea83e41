"""What a scheduler asks: boundaries of windows, periods and cutoffs, and how a run is settled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import InputError, PublicationError
from pipeline.core.revision import RevisionState
from pipeline.core.window import is_collected, parse_window
from pipeline.steps.accept import reject
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.run import run_window
from pipeline.steps.schedule import (
    cutoff_is_collected,
    late_window_runs,
    period_of_run,
    period_to_close,
    settle,
    window_of_run,
    window_schedule,
)
from pipeline.steps.workspace import Workspace
from tests.fixtures_project import put_events, usage_event

DAY = timedelta(days=1)
WINDOW = parse_window("2026-01-15", DAY)
CUTOFF = datetime(2026, 1, 16, 6, tzinfo=UTC)
AT = datetime(2026, 1, 20, tzinfo=UTC)


def quiet(_sentence: str) -> None:
    return None


def test_the_window_of_a_run_is_the_one_that_ended_with_its_data_interval() -> None:
    assert window_of_run(None, datetime(2026, 1, 16, tzinfo=UTC), DAY) == WINDOW
    assert window_of_run(None, datetime(2026, 1, 16, 23, 59, tzinfo=UTC), DAY) == WINDOW
    assert window_of_run(None, datetime(2026, 1, 15, 23, 59, tzinfo=UTC), DAY) != WINDOW


def test_a_named_window_counts_more_than_the_data_interval() -> None:
    assert window_of_run("2026-01-15", AT, DAY) == WINDOW


def test_a_run_without_data_interval_and_window_is_refused() -> None:
    with pytest.raises(InputError, match=r"schedule\.no_window"):
        window_of_run(None, None, DAY)


def test_a_scheduled_run_closes_the_month_before_it() -> None:
    assert period_of_run(None, datetime(2026, 3, 5, 12, tzinfo=UTC), is_manual=False) == "2026-02"
    assert period_of_run(None, datetime(2026, 1, 5, 12, tzinfo=UTC), is_manual=False) == "2025-12"


def test_a_manual_run_names_its_period_because_closing_cannot_be_undone() -> None:
    with pytest.raises(InputError, match=r"schedule\.no_period"):
        period_of_run(None, AT, is_manual=True)


def test_a_scheduled_run_closes_no_period_before_the_first_window(workspace: Workspace) -> None:
    in_january = datetime(2026, 1, 5, 12, tzinfo=UTC)
    in_february = datetime(2026, 2, 5, 12, tzinfo=UTC)

    # New York is behind UTC: its December reaches into the first window, 1 January.
    assert period_to_close(workspace, None, in_january, is_manual=False) == "2025-12"
    assert period_to_close(workspace, None, in_february, is_manual=False) == "2026-01"
    assert period_to_close(workspace, None, datetime(2025, 12, 5, tzinfo=UTC), is_manual=False) is None


def test_the_schedule_is_read_from_the_settings_of_the_project(project_folder: Path) -> None:
    schedule = window_schedule(project_folder)

    assert schedule.first_window_start == datetime(2026, 1, 1, tzinfo=UTC)
    assert schedule.length == DAY
    assert schedule.first_period_end == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_window_may_start_when_collection_reached_its_cutoff_and_not_before() -> None:
    assert is_collected(CUTOFF, CUTOFF)
    assert not is_collected(CUTOFF, CUTOFF - timedelta(microseconds=1))
    assert not is_collected(CUTOFF, None)


def test_the_cutoff_has_the_grace_period_of_the_project(workspace: Workspace) -> None:
    collect(workspace, CUTOFF - timedelta(microseconds=1), quiet)
    before = cutoff_is_collected(workspace, WINDOW)
    collect(workspace, CUTOFF, quiet)

    assert not before
    assert cutoff_is_collected(workspace, WINDOW)


def test_a_late_window_gets_one_run_whose_id_names_the_revision_it_supersedes(
    workspace: Workspace, raw_bucket: ObjectStore
) -> None:
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(id="a")], CUTOFF - timedelta(hours=1))
    collect(workspace, CUTOFF, quiet)
    run_window(workspace, WINDOW, AT, quiet)
    assert late_window_runs(workspace) == []

    put_events(raw_bucket, "usage/b.ndjson", [usage_event(id="b")], CUTOFF + timedelta(hours=1))
    collect(workspace, CUTOFF + DAY, quiet)

    runs = late_window_runs(workspace)
    assert runs == late_window_runs(workspace)
    assert runs == [
        {
            "trigger_run_id": "late__2026-01-15__after_revision_1",
            "conf": {"window": "2026-01-15", "include_late": True},
        }
    ]


def test_a_revision_that_was_not_accepted_is_settled_as_rejected(workspace: Workspace) -> None:
    collect(workspace, CUTOFF, quiet)
    deduplicate(workspace, WINDOW, AT)

    state = settle(workspace, "2026-01-15", 1, AT, "a task failed")

    revision = workspace.control_plane.latest_revision("2026-01-15")
    assert state == "rejected"
    assert revision is not None
    assert revision.state is RevisionState.REJECTED


def test_a_revision_that_was_accepted_stays_accepted_when_it_is_settled(workspace: Workspace) -> None:
    collect(workspace, CUTOFF, quiet)
    run_window(workspace, WINDOW, AT, quiet)

    assert settle(workspace, "2026-01-15", 1, AT, "a task failed") == "accepted"


def test_settling_a_rejected_revision_again_changes_nothing(workspace: Workspace) -> None:
    collect(workspace, CUTOFF, quiet)
    deduplicate(workspace, WINDOW, AT)
    reject(workspace, "2026-01-15", 1, AT, "a gate")
    entries = len(workspace.control_plane.audit_log())

    assert settle(workspace, "2026-01-15", 1, AT, "a task failed") == "rejected"
    assert len(workspace.control_plane.audit_log()) == entries


def test_settling_a_revision_that_does_not_exist_is_refused(workspace: Workspace) -> None:
    with pytest.raises(PublicationError, match=r"revision\.unknown"):
        settle(workspace, "2026-01-15", 1, AT, "a task failed")
