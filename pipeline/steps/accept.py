"""Accept: the only step that makes a window revision visible to invoices; and reject, when a gate refused it."""

from __future__ import annotations

from datetime import datetime

from pipeline.core.approval import approved_override
from pipeline.core.check import CheckReport, Severity, failed_check_sentences, require_checks_passed
from pipeline.core.dataset import RECONCILIATION
from pipeline.core.errors import NotReadyError
from pipeline.core.reconciliation import Control, failed_control_sentences, require_reconciled
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.steps.aggregate import find_revision
from pipeline.steps.check import check_report
from pipeline.steps.reconcile import published_controls
from pipeline.steps.run_manifest import publish_run_manifest
from pipeline.steps.workspace import Workspace


def accept(ws: Workspace, window_id: str, revision: int, at: datetime) -> None:
    """Accept a revision whose stored checks and controls, of this very revision, all passed; refuse any other.

    The gates are read again from what they stored, so no caller can accept past them: only an approved override of
    exactly what failed does. Accepting again is a no-op.
    """
    found = find_revision(ws, window_id, revision)
    checked, controls = _stored_gates(ws, found)
    warnings = len(checked.failed(Severity.WARNING))
    why = f"{len(checked.results)} expectations ({warnings} warnings) and {len(controls)} controls passed"
    failures = (*failed_check_sentences(checked), *failed_control_sentences(controls))
    override = approved_override(ws.control_plane.overrides(window_id, revision), failures)
    if override is not None:
        why = (
            f"{len(failures)} failures overridden by {override.requested_by} and {override.approved_by}: "
            f"{override.reason}"
        )
    else:
        require_checks_passed(checked)
        require_reconciled(controls, f"window {window_id} revision {revision}")
    if found.state is not RevisionState.ACCEPTED:
        publish_run_manifest(ws, found, at)
    ws.control_plane.decide_revision(window_id, revision, RevisionState.ACCEPTED, at, why)


def gate_failures(ws: Workspace, window_id: str, revision: int) -> tuple[str, ...]:
    """Return a sentence for each critical expectation and each control that stops a revision, as they were stored."""
    checked, controls = _stored_gates(ws, find_revision(ws, window_id, revision))
    return (*failed_check_sentences(checked), *failed_control_sentences(controls))


def _stored_gates(ws: Workspace, found: WindowRevision) -> tuple[CheckReport, list[Control]]:
    checked = check_report(ws, found.window_id, found.revision)
    reconciled = ws.control_plane.publication(RECONCILIATION.name, found.scope, found.revision)
    not_run = [gate for gate, stored in (("check", checked), ("reconcile", reconciled)) if stored is None]
    if checked is None or reconciled is None:
        raise NotReadyError(
            "accept.gate_not_run",
            f"revision {found.revision} of window {found.window_id} has not passed its gates",
            [f"not run: {', '.join(not_run)}", "nothing was accepted; run the gates before accept"],
        )
    return checked, published_controls(ws, reconciled)


def reject(ws: Workspace, window_id: str, revision: int, at: datetime, why: str) -> None:
    """Reject a revision that a gate refused, with the reason; it stays as evidence and is never billed."""
    ws.control_plane.decide_revision(window_id, revision, RevisionState.REJECTED, at, why)
