from __future__ import annotations

from datetime import datetime

import pytest

from pipeline.core.invoice import InvoiceDraft
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.late import late_windows, periods_touched
from pipeline.steps.workspace import Workspace
from tests.steps.raw_events import CUTOFF_AT, WINDOW, commit_raw_events, instant, numbered, raw_event

NOW = instant("2026-01-16T08:00:00Z")


def accept_newest(workspace: Workspace, include_late: bool = False) -> None:
    revision = deduplicate(workspace, WINDOW, NOW, include_late=include_late)
    workspace.control_plane.decide_revision(
        WINDOW.window_id, revision.revision, RevisionState.ACCEPTED, NOW, "every gate passed"
    )


def finalise(workspace: Workspace, period_id: str, at: datetime = NOW) -> None:
    def no_document(draft: InvoiceDraft, number: str) -> str:
        raise AssertionError(f"no draft was given, yet {number} is asked for {draft}")

    workspace.control_plane.finalise_period(period_id, "TEST", [], no_document, at)


def test_a_window_that_left_no_event_out_is_not_late(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()])
    accept_newest(workspace)

    assert late_windows(workspace) == []


def test_a_window_whose_accepted_revision_left_events_out_is_late_until_they_are_taken_in(
    workspace: Workspace,
) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(id="late", received_at=CUTOFF_AT)]))
    accept_newest(workspace)

    before = late_windows(workspace)
    accept_newest(workspace, include_late=True)

    assert before == [WINDOW]
    assert late_windows(workspace) == []


def test_a_window_is_late_when_files_came_after_its_accepted_revision(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()])
    accept_newest(workspace)
    commit_raw_events(workspace, [raw_event(object_id="usage/late@1", id="late", received_at=NOW)], NOW)

    assert late_windows(workspace) == [WINDOW]


def test_a_window_that_is_not_accepted_is_not_late_because_it_is_still_being_made(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(id="late", received_at=CUTOFF_AT)]))
    deduplicate(workspace, WINDOW, NOW)

    assert late_windows(workspace) == []


def test_a_window_of_a_final_period_is_late_too_because_an_adjustment_settles_it(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(id="late", received_at=CUTOFF_AT)]))
    accept_newest(workspace)

    finalise(workspace, "2026-01")

    assert [window.window_id for window in late_windows(workspace)] == ["2026-01-15"]


@pytest.mark.parametrize(
    ("window_id", "periods"),
    [
        ("2026-01-15", {"2026-01"}),
        ("2026-01-31", {"2026-01", "2026-02"}),  # 23:00 UTC is February in Berlin
        ("2026-02-01", {"2026-01", "2026-02"}),  # 04:59 UTC is January in New York
    ],
)
def test_a_window_touches_each_period_that_its_accounts_are_in(
    workspace: Workspace, window_id: str, periods: set[str]
) -> None:
    assert periods_touched(workspace, parse_window(window_id, ONE_DAY)) == periods
