"""Which windows are worth another revision: late usage reached them, or what they were computed from changed."""

from __future__ import annotations

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
    A window is left alone when every period it reaches into is final.
    """
    return _outdated(workspace, is_final=False)


def late_windows_after_close(workspace: Workspace) -> list[BillingWindow]:
    """Return the windows that ``late_windows`` leaves alone although more is known about them by now.

    What came after the close is recorded like any event, and waits for an adjustment of the final period.
    """
    return _outdated(workspace, is_final=True)


def _outdated(workspace: Workspace, *, is_final: bool) -> list[BillingWindow]:
    final_periods = workspace.control_plane.final_periods()
    accepted = workspace.control_plane.accepted_revisions()
    collected = CollectedEvents(workspace)
    with Warehouse(workspace.scratch) as warehouse:
        return [
            _window(revision)
            for revision in accepted.values()
            if (periods_touched(workspace, _window(revision)) <= final_periods) is is_final
            and (
                current_pins(workspace, _window(revision), revision, collected) != revision.pins
                or late_event_count(workspace, warehouse, revision) > 0
            )
        ]


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
