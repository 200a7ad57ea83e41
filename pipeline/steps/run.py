"""One billing window from collected events to an accepted revision and its report: the order of one night.

The DAG `bill_window` runs the same steps one by one; this is the road without Airflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.core.errors import BillingError
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.accept import accept, reject
from pipeline.steps.aggregate import aggregate
from pipeline.steps.check import check
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.rate import rate
from pipeline.steps.reconcile import reconcile
from pipeline.steps.report import report
from pipeline.steps.workspace import Workspace


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What a run of one window came to: the revision that is current now, and whether this run made it."""

    window_id: str
    revision: int
    is_new: bool
    reason: str
    report: Path


def run_window(
    workspace: Workspace,
    window: BillingWindow,
    at: datetime,
    say: Callable[[str], None],
    *,
    include_late: bool = False,
) -> WindowResult:
    """Compute the window and accept it if every gate passes; unchanged inputs publish nothing new.

    A gate that refuses leaves the revision rejected, with its report, and raises.
    """
    revision = deduplicate(workspace, window, at, include_late=include_late)
    if revision.state is RevisionState.ACCEPTED:
        say(f"{window.window_id}: revision {revision.revision} is current")
        return _result(workspace, revision, is_new=False)
    say(f"{window.window_id}: revision {revision.revision} opened ({revision.reason})")
    try:
        _compute(workspace, revision, at, say)
    except BillingError as error:
        reject(workspace, revision.window_id, revision.revision, at, str(error))
        path = report(workspace, revision.window_id, revision.revision)
        say(f"{window.window_id}: revision {revision.revision} rejected, see {path}")
        raise
    return _result(workspace, revision, is_new=True)


def _compute(workspace: Workspace, revision: WindowRevision, at: datetime, say: Callable[[str], None]) -> None:
    window_id, number = revision.window_id, revision.revision
    usage = aggregate(workspace, window_id, number, at)
    say(f"{window_id}: usage has {usage.row_count:,} rows")
    for draft in rate(workspace, window_id, number, at):
        say(f"{window_id}: draft of {draft.scope} has {draft.row_count:,} line items")
    checked = check(workspace, window_id, number, at)
    say(f"{window_id}: {len(checked.results)} expectations checked")
    controls = reconcile(workspace, window_id, number, at)
    say(f"{window_id}: {controls.row_count:,} controls reconciled")
    accept(workspace, window_id, number, at)
    say(f"{window_id}: revision {number} accepted")


def _result(workspace: Workspace, revision: WindowRevision, *, is_new: bool) -> WindowResult:
    path = report(workspace, revision.window_id, revision.revision)
    return WindowResult(revision.window_id, revision.revision, is_new, revision.reason, path)
