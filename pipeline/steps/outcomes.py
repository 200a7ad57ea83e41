"""What became of the events of a window revision, as one small document: what status, run and report say of it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.outcome import (
    WITHDRAWALS_SHOWN_MAX,
    EventOutcomes,
    FallbackCount,
    IdleWithdrawal,
    LateArrivals,
)
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.links import CollectedEvents
from pipeline.steps.pinned import pin_sql, pinned_sql
from pipeline.steps.publish import publish_document, read_document, read_manifest
from pipeline.steps.workspace import Workspace

EVENT_OUTCOMES = "event_outcomes"
OUTCOME_QUERIES = ("exclusion_counts", "fallback_counts", "last_receipt", "late_arrivals")


def publish_outcomes(
    workspace: Workspace, warehouse: Warehouse, collected: CollectedEvents, revision: WindowRevision, at: datetime
) -> None:
    """Publish the outcomes of a revision, from the session that made its ``excluded_events``."""
    outcomes = computed_outcomes(warehouse, collected, revision)
    pins = {"inputs_hash": revision.inputs_hash, "sql": pin_sql(workspace, OUTCOME_QUERIES)}
    publish_document(workspace, EVENT_OUTCOMES, revision.document_scope, outcomes.to_json(), pins, at)


def computed_outcomes(warehouse: Warehouse, collected: CollectedEvents, revision: WindowRevision) -> EventOutcomes:
    """Return the outcomes of a revision, from the session that made its ``excluded_events``."""
    window = BillingWindow(revision.window_start, revision.window_end)
    bounds = {"window_start": window.start, "window_end": window.end}
    window_event_count = warehouse.select("last_receipt", bounds)[0]["event_count"]
    excluded_count = sum(row["event_count"] for row in warehouse.select("exclusion_counts", {}))
    fallbacks = []
    if revision.pins["account_fallbacks"]:
        warehouse.view("usage_events", bounds)
        fallbacks = [FallbackCount(**row) for row in warehouse.select("fallback_counts", {})]
    policy_cutoff_at = window.cutoff_at(timedelta(seconds=revision.pins["grace_period_seconds"]))
    late = warehouse.select("late_arrivals", {**bounds, "policy_cutoff_at": policy_cutoff_at})
    idle = collected.idle_withdrawals(window)
    return EventOutcomes(
        window_event_count=window_event_count,
        billed_event_count=window_event_count - excluded_count,
        fallbacks=tuple(fallbacks),
        late_arrivals=tuple(
            LateArrivals(**{name: value for name, value in row.items() if name != "age_order"}) for row in late
        ),
        idle_withdrawals=tuple(
            IdleWithdrawal(one.object_id, one.line_number, one.source, one.id, one.target_source, one.target_id, fault)
            for one, fault in idle[:WITHDRAWALS_SHOWN_MAX]
        ),
        idle_withdrawal_counts=dict(sorted(Counter(fault.value for _, fault in idle).items())),
    )


def published_outcomes(workspace: Workspace, revision: WindowRevision) -> EventOutcomes | None:
    """Return the newest outcomes of a revision, if it was computed."""
    receipt = workspace.control_plane.publication(EVENT_OUTCOMES, revision.document_scope)
    return stored_outcomes(workspace, None if receipt is None else receipt.manifest_hash)


def outcome_sql(workspace: Workspace, revision: WindowRevision) -> dict[str, str]:
    """Return the SQL that the published outcomes of a revision were counted with; nothing if there are none."""
    receipt = workspace.control_plane.publication(EVENT_OUTCOMES, revision.document_scope)
    if receipt is None:
        return {}
    return pinned_sql(workspace, read_manifest(workspace, receipt.manifest_hash).pins["sql"])


def stored_outcomes(workspace: Workspace, manifest_hash: str | None) -> EventOutcomes | None:
    """Return the outcomes that a manifest names, if there is one."""
    if manifest_hash is None:
        return None
    return EventOutcomes.from_json(read_document(workspace, manifest_hash))
