"""Billing windows from collected events to accepted revisions and their reports: the order of one night.

The DAG `bill_window` runs the same steps one by one; this is the road without Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.check import Severity
from pipeline.core.errors import BillingError, NotReadyError
from pipeline.core.outcome import LateArrivals
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import BillingWindow, is_collected, windows_between
from pipeline.steps.accept import accept, reject
from pipeline.steps.aggregate import aggregate, find_revision
from pipeline.steps.check import check
from pipeline.steps.deduplicate import deduplicate, exclusion_counts
from pipeline.steps.estimate import estimate
from pipeline.steps.finish import finish_night
from pipeline.steps.late import late_windows
from pipeline.steps.outcomes import published_outcomes
from pipeline.steps.price_trials import run_canary
from pipeline.steps.rate import rate
from pipeline.steps.reconcile import reconcile
from pipeline.steps.report import report, report_path
from pipeline.steps.workspace import Workspace

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What a run of one window came to: the revision that is current now, and whether this run made it."""

    window_id: str
    revision: int
    is_new: bool
    reason: str
    billed_events: int
    excluded_events: dict[str, int]
    fallback_events: int
    late_arrivals: tuple[LateArrivals, ...]
    idle_withdrawals: dict[str, int]
    unbilled_replacements: dict[str, int]
    report: Path


@dataclass(frozen=True, slots=True)
class LeftOutWindow:
    """A window that is due and could not be closed for lack of evidence: the refusal in its words."""

    window_id: str
    code: str
    summary: str
    details: tuple[str, ...]


def run_window(
    workspace: Workspace,
    window: BillingWindow,
    at: datetime,
    say: Say,
    *,
    include_late: bool = False,
    accept_incomplete: str | None = None,
) -> WindowResult:
    """Compute the window and accept it if every gate passes; unchanged inputs publish nothing new.

    A window whose evidence is missing opens no revision, unless ``accept_incomplete`` says why it is closed all the
    same. A gate that refuses leaves the revision rejected, with its report, and raises.
    """
    revision = compute_window(
        workspace, window, at, say, include_late=include_late, accept_incomplete=accept_incomplete
    )
    return settle_window(workspace, revision, at, say)


def compute_window(
    workspace: Workspace,
    window: BillingWindow,
    at: datetime,
    say: Say,
    *,
    include_late: bool = False,
    accept_incomplete: str | None = None,
) -> WindowRevision:
    """Return the window's current revision, its usage published; the half of a run that knows no other window."""
    revision = deduplicate(workspace, window, at, include_late=include_late, accept_incomplete=accept_incomplete)
    if revision.state is not RevisionState.ACCEPTED:
        say(f"{window.window_id}: revision {revision.revision} opened ({revision.reason})")
        with _rejected_when_refused(workspace, revision, at, say):
            usage = aggregate(workspace, revision.window_id, revision.revision, at)
            say(f"{window.window_id}: usage has {usage.row_count:,} rows")
    return revision


def settle_window(
    workspace: Workspace,
    revision: WindowRevision,
    at: datetime,
    say: Say,
    beside: Sequence[WindowRevision] = (),
) -> WindowResult:
    """Rate a computed revision and accept it if every gate passes; an accepted one stays as it is.

    ``beside`` are computed revisions of other windows that are settled next, see ``rate``.
    """
    if revision.state is RevisionState.ACCEPTED:
        say(f"{revision.window_id}: revision {revision.revision} is current")
        return _result(workspace, revision, at, say, is_new=False)
    with _rejected_when_refused(workspace, revision, at, say):
        _rate_and_accept(workspace, revision, at, say, beside)
    return _result(workspace, revision, at, say, is_new=True)


@contextmanager
def _rejected_when_refused(workspace: Workspace, revision: WindowRevision, at: datetime, say: Say) -> Iterator[None]:
    try:
        yield
    except BillingError as error:
        if find_revision(workspace, revision.window_id, revision.revision).state is RevisionState.ACCEPTED:
            raise  # by another run of the window at the same time; what this one was refused with is still its answer
        reject(workspace, revision.window_id, revision.revision, at, str(error))
        path = finish_night(workspace, revision.window_id, revision.revision, at, say)
        say(f"{revision.window_id}: revision {revision.revision} rejected, see {path}")
        raise


def run_due_windows(
    workspace: Workspace, now: Callable[[], datetime], say: Say
) -> Iterator[WindowResult | LeftOutWindow]:
    """Run every window that is due, in order, with the late events of each; say beforehand how many they are.

    A window that is not shown to be complete is left out with its sentence and holds back no other; any other refusal
    ends the run.
    """
    windows = due_windows(workspace)
    if windows:
        say(f"windows that are due: {len(windows):,}, from {windows[0].window_id} to {windows[-1].window_id}")
    for window in windows:
        try:
            yield run_window(workspace, window, now(), say, include_late=True)
        except NotReadyError as error:
            left_out = left_out_window(window, error)
            if left_out is None:
                raise
            yield left_out


def left_out_window(window: BillingWindow, refusal: BillingError) -> LeftOutWindow | None:
    """Return the window as one that is left out, if it was refused because it is not shown to be complete."""
    if not isinstance(refusal, NotReadyError) or refusal.code != "window.incomplete":
        return None
    return LeftOutWindow(window.window_id, refusal.code, refusal.summary, refusal.details)


def due_windows(workspace: Workspace) -> list[BillingWindow]:
    """Return, in order, each window that is collected past its cutoff and is not accepted, or that late events reached.

    Windows count from the first one of the project; one that reaches only into final periods is left alone when late.
    """
    settings = workspace.project.settings.window
    watermark_at = workspace.control_plane.watermark_at()
    if watermark_at is None:
        return []
    collected = [
        window
        for window in windows_between(settings.first_window_start, watermark_at, settings.length)
        if is_collected(window.cutoff_at(settings.grace_period), watermark_at)
    ]
    accepted = workspace.control_plane.accepted_revisions()
    late = set(late_windows(workspace))
    return [window for window in collected if window.window_id not in accepted or window in late]


def _rate_and_accept(
    workspace: Workspace, revision: WindowRevision, at: datetime, say: Say, beside: Sequence[WindowRevision]
) -> None:
    window_id, number = revision.window_id, revision.revision
    for draft in rate(workspace, window_id, number, at, beside):
        say(f"{window_id}: draft of {draft.scope} has {draft.row_count:,} line items")
    if run_canary(workspace, window_id, number, beside):
        say(f"{window_id}: the canary price book has rated its accounts in the shadow, see the report")
    checked = check(workspace, window_id, number, at)
    warnings = checked.failed(Severity.WARNING)
    say(f"{window_id}: {len(checked.results)} expectations checked, {len(warnings)} warnings")
    for warning in warnings:
        example = f", for example {warning.sample_keys[0]}" if warning.sample_keys else ""
        say(f"{window_id}: warning: {warning.dataset}: expected {warning.expected}, got {warning.observed}{example}")
    controls = reconcile(workspace, window_id, number, at)
    say(f"{window_id}: {controls.row_count:,} controls reconciled")
    accept(workspace, window_id, number, at)
    say(f"{window_id}: revision {number} accepted")
    for estimates in estimate(workspace, window_id, number, at):
        say(f"{window_id}: estimates of {estimates.scope} are of {estimates.row_count:,} accounts")


def _result(workspace: Workspace, revision: WindowRevision, at: datetime, say: Say, *, is_new: bool) -> WindowResult:
    path = report_path(workspace, revision.window_id, revision.revision)
    # A revision that is closed without evidence may have been given one more exception, which is no input of it.
    has_exceptions = bool(workspace.control_plane.exceptions(revision.window_id, revision.revision))
    if is_new:
        finish_night(workspace, revision.window_id, revision.revision, at, say)
    elif has_exceptions or not path.is_file():
        report(workspace, revision.window_id, revision.revision, at)
    outcomes = published_outcomes(workspace, revision)
    with Warehouse(workspace.scratch) as warehouse:
        excluded = exclusion_counts(workspace, warehouse, revision)
    return WindowResult(
        revision.window_id,
        revision.revision,
        is_new,
        revision.reason,
        outcomes.billed_event_count if outcomes else 0,
        excluded,
        outcomes.fallback_event_count if outcomes else 0,
        outcomes.late_arrivals if outcomes else (),
        dict(outcomes.idle_withdrawal_counts) if outcomes else {},
        dict(outcomes.unbilled_replacement_counts) if outcomes else {},
        path,
    )
