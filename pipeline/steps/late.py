"""Which windows are worth another revision: late usage reached them, or what they were computed from changed."""

from __future__ import annotations

from collections.abc import Iterable, Set
from datetime import timedelta

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow, period_containing
from pipeline.steps.deduplicate import late_event_count
from pipeline.steps.inputs import current_pins
from pipeline.steps.links import CollectedEvents
from pipeline.steps.workspace import Workspace


def late_windows(workspace: Workspace) -> list[BillingWindow]:
    """Return, in order, each window whose accepted revision is not all that is known about it by now.

    Its inputs changed (raw event files, withdrawals, directory, meters, SQL, settings), or it left events out as late.
    What a window of a final period comes to by then is settled by adjustments (P5).
    """
    return _outdated(workspace, workspace.control_plane.accepted_revisions().values())


def late_windows_by_state(workspace: Workspace) -> tuple[list[BillingWindow], list[BillingWindow]]:
    """Return ``late_windows`` in two: those of open periods, and those whose periods are all final."""
    final_periods = workspace.control_plane.final_periods()
    accepted = workspace.control_plane.accepted_revisions()
    outdated = _outdated(workspace, accepted.values())
    final = {revision.window_id for revision in accepted.values() if _is_final(workspace, revision, final_periods)}
    return (
        [window for window in outdated if window.window_id not in final],
        [window for window in outdated if window.window_id in final],
    )


def _outdated(workspace: Workspace, revisions: Iterable[WindowRevision]) -> list[BillingWindow]:
    collected = CollectedEvents(workspace)
    with Warehouse(workspace.scratch) as warehouse:
        return [
            _window(revision)
            for revision in revisions
            if current_pins(workspace, _window(revision), revision, collected) != revision.pins
            or late_event_count(workspace, warehouse, revision) > 0
        ]


def _is_final(workspace: Workspace, revision: WindowRevision, final_periods: Set[str]) -> bool:
    return periods_touched(workspace, _window(revision)) <= final_periods


def periods_touched(workspace: Workspace, window: BillingWindow) -> set[str]:
    """Return the ids of the billing periods that share an instant with the window, in each zone of the directory."""
    instants = (window.start, window.end - timedelta(microseconds=1))
    return {
        period_containing(instant, time_zone).period_id
        for time_zone in workspace.project.directory.time_zones() or ("UTC",)
        for instant in instants
    }


def _window(revision: WindowRevision) -> BillingWindow:
    return BillingWindow(revision.window_start, revision.window_end)
