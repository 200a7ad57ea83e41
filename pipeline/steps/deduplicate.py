"""Open a window revision and decide, for each raw event of the window, whether it is billed.

Revision 1 is cut off at ``window_end + grace_period``; what is late waits for the next revision, which takes in
everything collected until it is opened, whatever it is opened for. A revision keeps its cutoff and its pins, so running
the step again publishes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.dataset import EXCLUDED_EVENTS, Dataset
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.reason import ExclusionReason
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import BillingWindow, is_collected
from pipeline.steps.completeness import publish_completeness, require_complete, source_states
from pipeline.steps.derivation import publish_link_inputs
from pipeline.steps.inputs import (
    Pins,
    build_excluded_events,
    changed_inputs,
    current_pins,
    inputs_hash,
    pinned_meters,
    view_event_quantities,
    view_raw_event_files,
    view_raw_events,
)
from pipeline.steps.links import CollectedEvents, pinned_withdrawn_events
from pipeline.steps.outcomes import OUTCOME_QUERIES, publish_outcomes
from pipeline.steps.pinned import pin_sql, pinned_sql
from pipeline.steps.publish import dataset_files, publish_revision
from pipeline.steps.workspace import Workspace

PENDING_SHOWN_MAX = 10
ONE_MICROSECOND = timedelta(microseconds=1)


def deduplicate(
    workspace: Workspace,
    window: BillingWindow,
    at: datetime,
    include_late: bool = False,
    accept_incomplete: str | None = None,
) -> WindowRevision:
    """Publish ``excluded_events`` of the window's current revision, and what became of its events; return it.

    Every other raw event of the window is billed: ``usage_events`` is that rest, and is stored nowhere.

    An accepted revision whose inputs are unchanged is returned as it is: nothing is computed or published. One that was
    not finished is computed again, to the same bytes. Changed inputs open the next one, and so does ``include_late``
    when the accepted revision left late events out. ``NotReadyError`` until collection reached the cutoff and every
    source has shown that it is complete (P9); ``accept_incomplete`` is the reason why the revision is closed without.
    """
    _require_billed_window(workspace, window)
    _require_collected(workspace, window)
    collected = CollectedEvents(workspace)
    current = current_revision(workspace, window, include_late=include_late, collected=collected)
    revision = current or _next_revision(workspace, window, collected)
    states = source_states(workspace, window, revision.cutoff_at, revision.pins["raw_event_files"])
    exceptions = require_complete(workspace, revision, states, accept_incomplete, at)
    if current is None or exceptions:
        pin_sql(workspace, revision.pins["sql"])
        candidate = replace(revision, state=RevisionState.CANDIDATE)
        revision = workspace.control_plane.open_revision(candidate, at, exceptions)
    if revision.state is RevisionState.ACCEPTED:
        return revision
    publish_completeness(workspace, revision, states, at)
    publish_link_inputs(workspace, collected, revision, at)
    with (
        scratch_folder(workspace.scratch, "deduplicate") as folder,
        revision_warehouse(workspace, revision, {query: sql_text(query) for query in OUTCOME_QUERIES}) as warehouse,
    ):
        for dataset, file in computed_events(workspace, warehouse, revision, folder):
            publish_revision(workspace, dataset, revision.scope, revision.revision, [file], revision_pins(revision), at)
        publish_outcomes(workspace, warehouse, collected, revision, at)
    return revision


def current_revision(
    workspace: Workspace,
    window: BillingWindow,
    *,
    include_late: bool,
    collected: CollectedEvents | None = None,
) -> WindowRevision | None:
    """Return the revision that a run of the window comes to without opening another one, if there is one.

    That is the newest accepted revision if its inputs are those of now, whatever was opened and rejected after it; else
    the newest revision, if it has them and waits to be finished. With ``include_late``, one that left late events out
    is not it.
    """
    collected = collected or CollectedEvents(workspace)
    accepted = workspace.control_plane.accepted_revision(window.window_id)
    newest = workspace.control_plane.latest_revision(window.window_id)
    with Warehouse(workspace.scratch) as warehouse:
        for revision in (accepted, newest if newest != accepted else None):
            if revision is None or current_pins(workspace, window, revision, collected) != revision.pins:
                continue
            if not include_late or late_event_count(workspace, warehouse, revision) == 0:
                return revision
    return None


def revision_warehouse(
    workspace: Workspace, revision: WindowRevision, others: Mapping[str, str] | None = None
) -> Warehouse:
    """Return a session that runs the SQL that the revision pins, whatever the files of today say.

    ``others`` has the text of queries that make no published row, by name.
    """
    return Warehouse(workspace.scratch, sql={**(others or {}), **pinned_sql(workspace, revision.pins["sql"])})


def computed_events(
    workspace: Workspace, warehouse: Warehouse, revision: WindowRevision, folder: Path
) -> list[tuple[Dataset, Path]]:
    """Write ``excluded_events`` of a revision into a folder, from its pins alone.

    The session keeps what they were made of: ``raw_events``, ``event_quantities``, ``excluded_events``.
    """
    window = BillingWindow(revision.window_start, revision.window_end)
    view_raw_events(warehouse, workspace, revision.pins)
    view_event_quantities(warehouse, pinned_meters(workspace, revision), window)
    build_excluded_events(warehouse, workspace, revision.pins, window, revision.cutoff_at)
    excluded = warehouse.write_table("excluded_events", folder / "excluded_events.parquet", EXCLUDED_EVENTS)
    return [(EXCLUDED_EVENTS, excluded)]


def revision_pins(revision: WindowRevision) -> dict[str, str]:
    """Return the pins of what a revision publishes: the revision's inputs, by hash, and its cutoff."""
    return {"inputs_hash": revision.inputs_hash, "cutoff_at": revision.cutoff_at.isoformat()}


def exclusion_counts(workspace: Workspace, warehouse: Warehouse, revision: WindowRevision) -> dict[str, int]:
    """Return how many events the published revision left out, by reason; empty if it was not published."""
    if workspace.control_plane.publication(EXCLUDED_EVENTS.name, revision.scope, revision.revision) is None:
        return {}
    files = dataset_files(workspace, EXCLUDED_EVENTS, revision.scope, revision.revision)
    warehouse.view_files(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS, files)
    return {count["reason"]: count["event_count"] for count in warehouse.select("exclusion_counts", {})}


def late_event_count(workspace: Workspace, warehouse: Warehouse, revision: WindowRevision) -> int:
    """Return how many events the published revision left out as late; 0 if it was not published.

    A late event of another window counts when it withdraws one of this window.
    """
    if workspace.control_plane.publication(EXCLUDED_EVENTS.name, revision.scope, revision.revision) is None:
        return 0
    withdrawals = {
        (one.winner_object_id, one.winner_line_number)
        for one in pinned_withdrawn_events(workspace, revision.pins)
        if one.reason == ExclusionReason.VOIDED
        and one.winner_received_at >= revision.cutoff_at
        and not revision.window_start <= one.winner_event_at < revision.window_end
    }
    return exclusion_counts(workspace, warehouse, revision).get(ExclusionReason.LATE, 0) + len(withdrawals)


def _require_billed_window(workspace: Workspace, window: BillingWindow) -> None:
    first_window = workspace.project.settings.window.first_window
    if window.start.date() < first_window:
        raise InputError(
            "window.before_first_window",
            f"window {window.window_id} is before the first window that is billed",
            [f"billing.toml: window.first_window is {first_window.isoformat()}; usage before it is never invoiced"],
        )


def _require_collected(workspace: Workspace, window: BillingWindow) -> None:
    cutoff_at = window.cutoff_at(workspace.project.settings.window.grace_period)
    watermark_at = workspace.control_plane.watermark_at()
    if not is_collected(cutoff_at, watermark_at):
        reached = "nothing was collected yet" if watermark_at is None else f"it reached {watermark_at.isoformat()}"
        pending = workspace.control_plane.pending_objects()
        raise NotReadyError(
            "window.not_collected",
            f"window {window.window_id} is not collected up to its cutoff",
            [
                f"expected collection up to {cutoff_at.isoformat()}, {reached}",
                *(f"pending since {one.since.isoformat()}: {one.key}" for one in pending[:PENDING_SHOWN_MAX]),
                "run `billing collect` after the cutoff",
            ],
        )


def _next_revision(workspace: Workspace, window: BillingWindow, collected: CollectedEvents) -> WindowRevision:
    """Return the revision that comes next, which is not open yet; its reason is what changed since the accepted one."""
    newest = workspace.control_plane.latest_revision(window.window_id)
    before = workspace.control_plane.accepted_revision(window.window_id) or newest
    pins = current_pins(workspace, window, before, collected)
    policy_cutoff_at = window.cutoff_at(workspace.project.settings.window.grace_period)
    if newest is None or before is None:
        number, cutoff_at, reason = 1, policy_cutoff_at, "first computation of the window"
    else:
        number = newest.revision + 1
        with Warehouse(workspace.scratch) as warehouse:
            cutoff_at = _cutoff_after_last_receipt(workspace, warehouse, window, pins, policy_cutoff_at)
            late_count = late_event_count(workspace, warehouse, before)
            behind_count = _behind_count(workspace, warehouse, window, before, pins)
        reason = changed_inputs(before.pins, pins) or f"late events taken in: {late_count:,}"
        if behind_count:
            known_by = f"the cutoff of revision {before.revision}"
            reason += f", objects received before {known_by} and seen later: {behind_count:,}"
    return WindowRevision(
        window.window_id, number, window.start, window.end, cutoff_at, inputs_hash(pins), pins, reason
    )


def _behind_count(
    workspace: Workspace, warehouse: Warehouse, window: BillingWindow, before: WindowRevision, pins: Pins
) -> int:
    """Return how many objects with events of the window showed up behind the watermark: too late, though not late."""
    added = sorted({*pins["raw_event_files"]} - {*before.pins["raw_event_files"]})
    if not added:
        return 0
    view_raw_event_files(warehouse, workspace, added)
    rows = warehouse.select("window_objects", {"window_start": window.start, "window_end": window.end})
    objects = workspace.control_plane.ledger([row["object_id"] for row in rows])
    return sum(known.received_at < before.cutoff_at for known in objects)


def _cutoff_after_last_receipt(
    workspace: Workspace, warehouse: Warehouse, window: BillingWindow, pins: Pins, policy_cutoff_at: datetime
) -> datetime:
    """Return a cutoff that takes in everything collected: the events of the window, and withdrawals of them."""
    view_raw_events(warehouse, workspace, pins)
    (last,) = warehouse.select("last_receipt", {"window_start": window.start, "window_end": window.end})
    withdrawn_at = [withdrawn.winner_received_at for withdrawn in pinned_withdrawn_events(workspace, pins)]
    receipts: list[datetime | None] = [last["last_received_at"], *withdrawn_at]
    return max([policy_cutoff_at, *(received_at + ONE_MICROSECOND for received_at in receipts if received_at)])
