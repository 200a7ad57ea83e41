"""What became of the events of a window revision, as one small document: what status, run and report say of it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import EXCLUDED_EVENTS, RAW_EVENTS
from pipeline.core.outcome import (
    WITHDRAWALS_SHOWN_MAX,
    EventOutcomes,
    FallbackCount,
    IdleWithdrawal,
    LateArrivals,
    UnbilledReplacement,
)
from pipeline.core.reason import ExclusionReason
from pipeline.core.revision import WindowRevision
from pipeline.core.window import EPOCH, BillingWindow
from pipeline.steps.inputs import build_excluded_events, pinned_meters, view_event_quantities
from pipeline.steps.links import CollectedEvents
from pipeline.steps.pinned import pin_sql, pinned_sql
from pipeline.steps.publish import publish_document, read_document, read_manifest
from pipeline.steps.workspace import Workspace

EVENT_OUTCOMES = "event_outcomes"
OUTCOME_QUERIES = (
    "exclusion_counts",
    "fallback_counts",
    "last_receipt",
    "late_arrivals",
    "late_events",
    "unbilled_replacements",
)
PLACE_COLUMNS = (("object_id", "VARCHAR"), ("line_number", "BIGINT"))
END_OF_TIME = datetime.max.replace(tzinfo=EPOCH.tzinfo)


def publish_outcomes(
    workspace: Workspace, warehouse: Warehouse, collected: CollectedEvents, revision: WindowRevision, at: datetime
) -> None:
    """Publish the outcomes of a revision, from the session that made its ``excluded_events``."""
    outcomes = computed_outcomes(workspace, warehouse, collected, revision)
    pins = {"inputs_hash": revision.inputs_hash, "sql": pin_sql(workspace, OUTCOME_QUERIES)}
    publish_document(workspace, EVENT_OUTCOMES, revision.document_scope, outcomes.to_json(), pins, at)


def computed_outcomes(
    workspace: Workspace, warehouse: Warehouse, collected: CollectedEvents, revision: WindowRevision
) -> EventOutcomes:
    """Return the outcomes of a revision, from the session that made its ``excluded_events``."""
    window = BillingWindow(revision.window_start, revision.window_end)
    bounds = {"window_start": window.start, "window_end": window.end}
    window_event_count = warehouse.select("last_receipt", bounds)[0]["event_count"]
    excluded_counts = {row["reason"]: row["event_count"] for row in warehouse.select("exclusion_counts", {})}
    fallbacks = []
    if revision.pins.get("account_fallbacks"):
        warehouse.view("usage_events", bounds)
        fallbacks = [FallbackCount(**row) for row in warehouse.select("fallback_counts", {})]
    policy_cutoff_at = window.cutoff_at(timedelta(seconds=revision.pins["grace_period_seconds"]))
    late_exclusions = (
        _late_exclusions(workspace, warehouse, revision) if ExclusionReason.LATE in excluded_counts else []
    )
    warehouse.table_rows("late_exclusions", PLACE_COLUMNS, late_exclusions)
    late = warehouse.select("late_arrivals", {**bounds, "policy_cutoff_at": policy_cutoff_at})
    idle = collected.idle_withdrawals(window)
    unbilled = _unbilled_replacements(warehouse, collected, revision)
    return EventOutcomes(
        window_event_count=window_event_count,
        billed_event_count=window_event_count - sum(excluded_counts.values()),
        fallbacks=tuple(fallbacks),
        late_arrivals=tuple(
            LateArrivals(**{name: value for name, value in row.items() if name != "age_order"}) for row in late
        ),
        idle_withdrawals=tuple(
            IdleWithdrawal(one.object_id, one.line_number, one.source, one.id, one.target_source, one.target_id, fault)
            for one, fault in idle[:WITHDRAWALS_SHOWN_MAX]
        ),
        idle_withdrawal_counts=dict(sorted(Counter(fault.value for _, fault in idle).items())),
        unbilled_replacements=tuple(unbilled[:WITHDRAWALS_SHOWN_MAX]),
        unbilled_replacement_counts=dict(sorted(Counter(one.reason for one in unbilled).items())),
        look_back_seconds=collected.inputs.look_back // timedelta(seconds=1),
    )


def _late_exclusions(workspace: Workspace, warehouse: Warehouse, revision: WindowRevision) -> list[tuple[str, int]]:
    """Return the places of the late events that are not billed either when they are on time.

    They are judged alone: a late event is the copy of its key that stands, else it would be a duplicate.
    """
    window = BillingWindow(revision.window_start, revision.window_end)
    with (
        scratch_folder(workspace.scratch, "late") as folder,
        Warehouse(workspace.scratch, sql=pinned_sql(workspace, revision.pins["sql"])) as judging,
    ):
        late_events = warehouse.write("late_events", {}, folder / "late_events.parquet", RAW_EVENTS)
        judging.view_files(RAW_EVENTS.name, RAW_EVENTS, [late_events])
        view_event_quantities(judging, pinned_meters(workspace, revision), window)
        build_excluded_events(judging, workspace, revision.pins, window, END_OF_TIME)
        places = judging.connection.table(EXCLUDED_EVENTS.name).project("object_id, line_number").fetchall()
    return [(object_id, line_number) for object_id, line_number in places]


def _unbilled_replacements(
    warehouse: Warehouse, collected: CollectedEvents, revision: WindowRevision
) -> list[UnbilledReplacement]:
    """Return the replacements of the window that take an event back and are not billed, by object and line."""
    window = BillingWindow(revision.window_start, revision.window_end)
    effective = {
        (one.object_id, one.line_number): one for one in collected.effective_replacements(window, revision.cutoff_at)
    }
    warehouse.table_rows("effective_replacements", PLACE_COLUMNS, list(effective))
    found = [
        (effective[row["object_id"], row["line_number"]], row["reason"])
        for row in warehouse.select("unbilled_replacements", {})
    ]
    return [
        UnbilledReplacement(
            one.object_id, one.line_number, one.source, one.id, one.target_source, one.target_id, reason
        )
        for one, reason in found
    ]


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
