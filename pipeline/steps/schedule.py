"""What a scheduler asks: when windows begin, which window or period a run is about, whether it may start, how it ended.

No clock is read here. A run knows its own instant, and how far collection is complete is the watermark. DAG files
import this module each time they are parsed, so the steps it calls are imported when it calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.adapters.project_files import load_settings
from pipeline.core.errors import InputError, PublicationError
from pipeline.core.revision import RevisionState
from pipeline.core.window import (
    BillingWindow,
    billing_period,
    is_collected,
    parse_window,
    require_utc,
    window_containing,
)

if TYPE_CHECKING:
    from pipeline.steps.workspace import Workspace


@dataclass(frozen=True, slots=True)
class WindowSchedule:
    """When windows begin: the first one, and their length; how long after its end a window has to be accepted."""

    first_window_start: datetime
    length: timedelta
    deadline: timedelta = timedelta(hours=12)

    @property
    def first_period_end(self) -> datetime:
        """Return the end of the first calendar month that can hold usage; a zone west of UTC is a day behind.

        >>> from datetime import UTC
        >>> WindowSchedule(datetime(2026, 2, 1, tzinfo=UTC), timedelta(days=1)).first_period_end.isoformat()
        '2026-02-01T00:00:00+00:00'
        """
        first_month = (self.first_window_start - timedelta(days=1)).strftime("%Y-%m")
        return billing_period(first_month, "UTC").end


def window_schedule(folder: Path) -> WindowSchedule:
    """Return when windows begin, from ``billing.toml`` alone; a broken file raises ``InputError``."""
    settings = load_settings(folder)
    deadline = settings.window.grace_period + settings.sli.pipeline_availability.deadline
    return WindowSchedule(settings.window.first_window_start, settings.window.length, deadline)


def window_of_run(window: str | None, data_interval_end: datetime | None, length: timedelta) -> BillingWindow:
    """Return the window that is named, else the last one that ended when the data interval of the run did.

    >>> from datetime import UTC
    >>> window_of_run(None, datetime(2026, 1, 16, tzinfo=UTC), timedelta(days=1)).window_id
    '2026-01-15'
    """
    if window is not None:
        return parse_window(window, length)
    if data_interval_end is None:
        raise InputError(
            "schedule.no_window",
            "the run has no data interval and names no window",
            ['expected the param window, such as {"window": "2026-01-15"}'],
        )
    # Airflow's instants are a subclass of datetime whose differences are not timedeltas.
    interval_end = datetime.fromisoformat(data_interval_end.isoformat())
    end = window_containing(interval_end, length).start
    return BillingWindow(end - length, end)


def period_of_run(period: str | None, run_after: datetime, *, is_manual: bool) -> str:
    """Return the period that is named, else the calendar month before a scheduled run.

    A manual run has to name its period, because closing cannot be undone.

    >>> from datetime import UTC
    >>> period_of_run(None, datetime(2026, 2, 5, 12, tzinfo=UTC), is_manual=False)
    '2026-01'
    """
    if period is not None:
        return period
    if is_manual:
        raise InputError(
            "schedule.no_period",
            "a manual run names the period that it makes final",
            ['expected the param period, such as {"period": "2026-01"}'],
        )
    first_of_month = require_utc(run_after, "run_after").replace(day=1)
    return (first_of_month - timedelta(days=1)).strftime("%Y-%m")


def period_to_close(workspace: Workspace, period: str | None, run_after: datetime, *, is_manual: bool) -> str | None:
    """Return the period of the run, or None for a scheduled run whose month no window reaches into.

    Only zones west of UTC have usage of the month before the first window, so whether there is any depends on the
    accounts.
    """
    from pipeline.steps.prepare import windows_of_period

    period_id = period_of_run(period, run_after, is_manual=is_manual)
    if not is_manual and not windows_of_period(workspace, period_id):
        return None
    return period_id


def cutoff_is_collected(workspace: Workspace, window: BillingWindow) -> bool:
    """Tell whether the window's cutoff, with the grace period of the project, has been collected."""
    cutoff_at = window.cutoff_at(workspace.project.settings.window.grace_period)
    return is_collected(cutoff_at, workspace.control_plane.watermark_at())


def late_window_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return one run of ``bill_window`` for each window that late events reached: its id and its params.

    The id names the revision that the run supersedes, so the same late events never make a second run.
    """
    from pipeline.steps.late import late_windows

    runs = []
    for window in late_windows(workspace):
        accepted = workspace.control_plane.accepted_revision(window.window_id)
        superseded = accepted.revision if accepted else 0
        runs.append(
            {
                "trigger_run_id": f"late__{window.window_id}__after_revision_{superseded}",
                "conf": {"window": window.window_id, "include_late": True},
            }
        )
    return runs


def settle(workspace: Workspace, window_id: str, revision: int, at: datetime, why: str) -> str:
    """Reject the revision if the run that opened it ended without accepting it; return its state."""
    from pipeline.steps.accept import reject

    revisions = workspace.control_plane.window_revisions()
    state = next((r.state for r in revisions if (r.window_id, r.revision) == (window_id, revision)), None)
    if state is None:
        raise PublicationError("revision.unknown", f"window {window_id} has no revision {revision}")
    if state is RevisionState.CANDIDATE:
        reject(workspace, window_id, revision, at, why)
        return RevisionState.REJECTED.value
    return state.value
