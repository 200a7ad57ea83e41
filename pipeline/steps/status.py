"""Status: where billing stands, for the person who asks; reads only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import LINE_ITEMS, RECONCILIATION
from pipeline.core.reconciliation import failed_controls
from pipeline.core.revision import WindowRevision
from pipeline.steps.completeness import source_status, unclaimed_status
from pipeline.steps.deduplicate import late_event_count
from pipeline.steps.documents import is_invoice
from pipeline.steps.late import late_windows_by_state
from pipeline.steps.outcomes import published_outcomes
from pipeline.steps.reconcile import published_controls
from pipeline.steps.workspace import Workspace


def status(ws: Workspace) -> dict[str, Any]:
    """Return how far collection is, the newest revision of each window with its verdict, and the state of each period.

    Every value is text, a whole number, a truth value or nothing, so that it can be printed as JSON.
    """
    ledger = ws.control_plane.ledger()
    newest = {revision.window_id: revision for revision in ws.control_plane.window_revisions()}
    with Warehouse(ws.scratch) as warehouse:
        sources = source_status(ws, warehouse)
        windows = [_window(ws, warehouse, revision) for revision in newest.values()]
    late, late_after_close = (
        {window.window_id for window in windows_of_state} for windows_of_state in late_windows_by_state(ws)
    )
    final_periods = ws.control_plane.final_periods()
    period_ids = sorted({*final_periods, *(_month(revision.window_start) for revision in newest.values())})
    return {
        "project": ws.project.settings.name,
        "watermark": _text(ws.control_plane.watermark_at()),
        "sources": sources,
        "collected": {
            "objects": len(ledger),
            "lines": sum(known.line_count for known in ledger),
            "raw_events": sum(known.raw_event_count for known in ledger),
            "quarantined": sum(known.quarantine_count for known in ledger),
        },
        "pending_objects": len(ws.control_plane.pending_objects()),
        "unclaimed_objects": unclaimed_status(ws),
        "windows": [
            {
                **window,
                "needs_revision": window["window"] in late,
                "late_after_close": window["window"] in late_after_close,
            }
            for window in windows
        ],
        "periods": [_period(ws, period_id, period_id in final_periods) for period_id in period_ids],
    }


def _window(ws: Workspace, warehouse: Warehouse, revision: WindowRevision) -> dict[str, Any]:
    outcomes = published_outcomes(ws, revision)
    reconciled = ws.control_plane.publication(RECONCILIATION.name, revision.scope, revision.revision)
    verdict = "not reconciled yet"
    if reconciled is not None:
        failed = failed_controls(published_controls(ws, reconciled))
        verdict = f"{len(failed)} controls failed" if failed else "reconciled"
    return {
        "window": revision.window_id,
        "revision": revision.revision,
        "state": revision.state.value,
        "verdict": verdict,
        "billed_events": None if outcomes is None else outcomes.billed_event_count,
        "late_events": late_event_count(ws, warehouse, revision),
        "late_arrivals": [] if outcomes is None else outcomes.to_json()["late_arrivals"],
        "fallback_events": 0 if outcomes is None else outcomes.fallback_event_count,
        "idle_withdrawals": 0 if outcomes is None else sum(outcomes.idle_withdrawal_counts.values()),
        "unbilled_replacements": 0 if outcomes is None else sum(outcomes.unbilled_replacement_counts.values()),
        "cutoff_at": _text(revision.cutoff_at),
        "exceptions": len(ws.control_plane.exceptions(revision.window_id, revision.revision)),
    }


def _period(ws: Workspace, period_id: str, is_final: bool) -> dict[str, Any]:
    draft = ws.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
    return {
        "period": period_id,
        "state": "final" if is_final else "open",
        "line_items": 0 if draft is None else draft.row_count,
        "invoices": sum(is_invoice(document) for document in ws.control_plane.documents(period_id)),
        "held": len(ws.control_plane.held_accounts(period_id)),
    }


def _month(instant: datetime) -> str:
    return instant.strftime("%Y-%m")


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
