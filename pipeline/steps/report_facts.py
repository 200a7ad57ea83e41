"""What a report shows beyond the pins of its revision: the night before, holds, decisions, what was adjusted.

Some of it may be otherwise tomorrow, so all of it is gathered once and published as the document ``report_facts`` of
the revision; a report that is made again reads it there (P1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.change import QuantityChange, totals_of
from pipeline.core.dataset import LINE_ITEMS, USAGE
from pipeline.core.errors import BillingError
from pipeline.core.invoice import IssuedDocument
from pipeline.core.money import exact
from pipeline.core.reason import ExclusionReason
from pipeline.core.report import (
    MOVED_ACCOUNTS_MAX,
    AccountActivity,
    AccountNight,
    AdjustingDocument,
    AdjustingLine,
    AuditNote,
    KindAmount,
    NightComparison,
    NightFacts,
    NightFigures,
    NightPart,
    PeriodFigure,
    RevisionChange,
    RevisionComparison,
)
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.steps.control_totals import RevisionTotals, pins_of_reconciliation
from pipeline.steps.diff import diff
from pipeline.steps.documents import document_bytes
from pipeline.steps.inputs import Pins
from pipeline.steps.publish import manifest_files, publish_document, read_document, read_manifest
from pipeline.steps.workspace import Workspace

REPORT_FACTS = "report_facts"
TREND_WINDOWS = 30
WINDOWS_OF_ACTIVITY = 7
SHOWN_MAX = 100
RECOUNTED_USAGE = (("account_id", "VARCHAR"), ("sku", "VARCHAR"))


def published_facts(ws: Workspace, revision: WindowRevision) -> NightFacts | None:
    """Return what was known when the report of a revision was made last, if it was made."""
    receipt = ws.control_plane.publication(REPORT_FACTS, revision.document_scope)
    if receipt is None:
        return None
    return msgspec.convert(read_document(ws, receipt.manifest_hash), NightFacts)


def publish_facts(
    ws: Workspace, revision: WindowRevision, pins: Pins, totals: RevisionTotals, at: datetime
) -> NightFacts:
    """Gather what is known now, publish it for the report of the revision, and return it."""
    facts = _gathered(ws, revision, pins, totals, at)
    content = msgspec.to_builtins(facts)
    publish_document(ws, REPORT_FACTS, revision.document_scope, content, {"inputs_hash": revision.inputs_hash}, at)
    return facts


def _gathered(ws: Workspace, revision: WindowRevision, pins: Pins, totals: RevisionTotals, at: datetime) -> NightFacts:
    length = revision.window_end - revision.window_start
    earlier = _accepted(ws, revision.window_start - TREND_WINDOWS * length, revision.window_start)
    before = next((one for one in earlier if one.window_end == revision.window_start), None)
    known_before = None if before is None else published_facts(ws, before)
    adjusting = ws.control_plane.adjusting_documents(None if known_before is None else known_before.made_at, at)
    return NightFacts(
        made_at=at,
        figures=_figures(revision, totals),
        history=_history(ws, earlier, known_before),
        comparison=_comparison(ws, revision, pins, before, earlier),
        since_revision=_since_revision(ws, revision),
        kinds=_kinds(ws, pins),
        holds=tuple(hold for hold in ws.control_plane.holds() if hold.released_at is None),
        exceptions=tuple(ws.control_plane.exceptions(revision.window_id, revision.revision)),
        adjusting_documents=tuple(_adjusting(ws, document) for document in adjusting),
        decisions=_decisions(ws, revision),
        breaks=tuple(ws.control_plane.breaks()),
        sign_offs=tuple(one for period_id in sorted(pins["drafts"]) for one in ws.control_plane.sign_offs(period_id)),
        overrides=tuple(ws.control_plane.overrides(revision.window_id, revision.revision)),
    )


def _accepted(ws: Workspace, start: datetime, end: datetime) -> list[WindowRevision]:
    """Return the newest accepted revision of each window between two instants, in order of time."""
    newest: dict[str, WindowRevision] = {}
    for one in ws.control_plane.window_revisions(start, end):
        known = newest.get(one.window_id)
        is_newer = known is None or one.revision > known.revision
        if one.state is RevisionState.ACCEPTED and start <= one.window_start < end and is_newer:
            newest[one.window_id] = one
    return sorted(newest.values(), key=lambda one: one.window_start)


def _figures(revision: WindowRevision, totals: RevisionTotals) -> NightFigures:
    events = totals.totals.events
    excluded = events.excluded_counts
    return NightFigures(
        revision.window_id,
        revision.revision,
        events.night_line_count,
        events.night_quarantine_count,
        events.window_event_count,
        events.usage_event_count,
        excluded.get(ExclusionReason.EXACT_DUPLICATE.value, 0),
        excluded.get(ExclusionReason.CONFLICTING_DUPLICATE.value, 0),
        excluded.get(ExclusionReason.LATE.value, 0),
        tuple(PeriodFigure(one.period_id, one.currency, one.amount) for one in totals.totals.period_amounts),
    )


def _history(
    ws: Workspace, earlier: Sequence[WindowRevision], known_before: NightFacts | None
) -> tuple[NightFigures, ...]:
    """Return the figures of earlier windows, as far as the report before has those of the same revisions."""
    known = [] if known_before is None else [*known_before.history, known_before.figures]
    by_revision = {(one.window_id, one.revision): one for one in known}
    history = []
    for one in earlier[-(TREND_WINDOWS - 1) :]:
        figures = by_revision.get((one.window_id, one.revision))
        if figures is None:
            own = published_facts(ws, one)
            figures = None if own is None else own.figures
        if figures is not None:
            history.append(figures)
    return tuple(history)


def _comparison(
    ws: Workspace,
    revision: WindowRevision,
    pins: Pins,
    before: WindowRevision | None,
    earlier: Sequence[WindowRevision],
) -> NightComparison:
    """Compare what the window added to its drafts with what the window before it added."""
    if before is None:
        return NightComparison(problem="No revision of the window before is accepted, so there is nothing to compare.")
    drafts = {period: draft for period, draft in pins["drafts"].items() if draft is not None}
    if pins[USAGE.name] is None or not drafts:
        return NightComparison(problem="Nothing was rated from this revision, so there is nothing to compare.")
    drafts_before = {
        period: draft for period, draft in pins_of_reconciliation(ws, before)["drafts"].items() if draft is not None
    }
    with Warehouse(ws.scratch) as warehouse:
        _build_night_lines(ws, warehouse, revision.window_id, drafts, "night_lines")
        _build_night_lines(ws, warehouse, before.window_id, drafts_before, "earlier_night_lines")
        parts = [NightPart(**row) for row in warehouse.select("night_skus", {})]
        moved = [dict(row) for row in warehouse.select("night_accounts", {"rows_max": MOVED_ACCOUNTS_MAX})]
        moved_count = max((row.pop("moved_count") for row in moved), default=0)
        movers = [AccountNight(**row) for row in moved]
        mover_parts = _mover_parts(warehouse, {mover.account_id for mover in movers})
        looked_at = [one for one in earlier if one.window_start < revision.window_start][-WINDOWS_OF_ACTIVITY:]
        warehouse.view_files("usage_now", USAGE, manifest_files(ws, pins[USAGE.name]))
        warehouse.view_files("usage_before", USAGE, [file for one in looked_at for file in _usage_files(ws, one)])
        activity = [
            AccountActivity(**row)
            for row in warehouse.select("account_activity", {"before_start": before.window_start})
        ]
    new_count = sum(one.state == "new" for one in activity)
    return NightComparison(
        window_id=before.window_id,
        revision=before.revision,
        parts=tuple(parts),
        movers=tuple(movers),
        mover_parts=tuple(mover_parts),
        moved_count=moved_count,
        windows_looked_at=len(looked_at),
        new_count=new_count,
        silent_count=len(activity) - new_count,
        activity=tuple(activity[:SHOWN_MAX]),
    )


def _usage_files(ws: Workspace, revision: WindowRevision) -> list[Path]:
    receipt = ws.control_plane.publication(USAGE.name, revision.scope, revision.revision)
    return [] if receipt is None else manifest_files(ws, receipt.manifest_hash)


def _build_night_lines(
    ws: Workspace, warehouse: Warehouse, window_id: str, drafts: Mapping[str, str], name: str
) -> None:
    """Make a table of what the drafts of periods have more than the newest drafts without the usage of a window."""
    files: dict[str, list[Path]] = {"now": [], "before": []}
    recounted: dict[str, list[Path]] = {"now": [], "before": []}
    for period_id, draft in sorted(drafts.items()):
        usage_now = read_manifest(ws, draft).pins["usage"]
        files["now"] += manifest_files(ws, draft)
        earlier = _draft_without(ws, period_id, draft, window_id)
        if earlier is None:
            continue
        files["before"] += manifest_files(ws, earlier)
        usage_before = read_manifest(ws, earlier).pins["usage"]
        for other in sorted({*usage_now, *usage_before} - {window_id}):
            if usage_now.get(other) != usage_before.get(other):
                for side, usage in (("now", usage_now), ("before", usage_before)):
                    recounted[side] += manifest_files(ws, usage[other]) if usage.get(other) else []
    for side in ("now", "before"):
        warehouse.view_files(f"lines_{side}", LINE_ITEMS, files[side])
        warehouse.view_files(f"usage_{side}", USAGE, recounted[side])
    if recounted["now"] or recounted["before"]:
        warehouse.build("recounted_usage", {})
    else:
        warehouse.table_rows("recounted_usage", RECOUNTED_USAGE, [])
    warehouse.build("night_lines", {}, name)


def _draft_without(ws: Workspace, period_id: str, draft: str, window_id: str) -> str | None:
    """Return the newest draft before this one that has no usage of a window, if there is one."""
    manifest = read_manifest(ws, draft)
    for number in range(manifest.revision - 1, 0, -1):
        receipt = ws.control_plane.publication(LINE_ITEMS.name, manifest.scope, number)
        if receipt is not None and window_id not in read_manifest(ws, receipt.manifest_hash).pins["usage"]:
            return receipt.manifest_hash
    return None


def _mover_parts(warehouse: Warehouse, account_ids: Iterable[str]) -> list[NightPart]:
    """Return the SKUs and causes of some accounts, both nights side by side; the largest difference first."""
    found: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    wanted = sorted(account_ids)
    for table, suffix in (("night_lines", ""), ("earlier_night_lines", "_before")):
        warehouse.keep_rows(table, "account_id", wanted)
        for account_id, _, sku, currency, cause, unit, quantity, amount in warehouse.rows(table):
            row = found.setdefault((account_id, sku, currency, cause), {"unit": ""})
            row["unit"] = unit or row["unit"]
            with exact():
                for name, value in (("quantity", quantity), ("amount", amount)):
                    row[f"{name}{suffix}"] = row.get(f"{name}{suffix}", Decimal(0)) + value
    zero = Decimal(0)
    return [
        NightPart(
            sku,
            currency,
            cause,
            row["unit"],
            row.get("quantity", zero),
            row.get("quantity_before", zero),
            row.get("amount", zero),
            row.get("amount_before", zero),
            account_id,
        )
        for (account_id, sku, currency, cause), row in sorted(found.items())
    ]


def _since_revision(ws: Workspace, revision: WindowRevision) -> RevisionComparison | None:
    """Return what changed since the newest earlier revision with usage; none if this is the first that has any."""
    for number in range(revision.revision - 1, 0, -1):
        if ws.control_plane.publication(USAGE.name, revision.scope, number) is None:
            continue
        if ws.control_plane.publication(USAGE.name, revision.scope, revision.revision) is None:
            return RevisionComparison(number, problem="The usage of this revision was not computed.")
        try:
            found = diff(ws, revision.window_id, number, revision.revision)
        except BillingError as error:
            return RevisionComparison(number, problem=f"The two could not be compared: {error.summary} ({error.code}).")
        return RevisionComparison(
            number,
            causes=found.causes,
            totals=tuple(_changed(change) for change in totals_of(found.changes)),
            account_change_count=len(found.changes),
            accounts=tuple(_changed(change) for change in found.changes[:SHOWN_MAX]),
        )
    return None


def _changed(change: QuantityChange) -> RevisionChange:
    return RevisionChange(
        change.account_id, change.sku, change.unit, change.quantity_from, change.quantity_to, dict(change.parts)
    )


def _kinds(ws: Workspace, pins: Pins) -> tuple[KindAmount, ...]:
    kinds: list[KindAmount] = []
    with Warehouse(ws.scratch) as warehouse:
        for period_id, draft in sorted(pins["drafts"].items()):
            if draft is not None:
                warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, manifest_files(ws, draft))
                kinds += [KindAmount(period_id=period_id, **row) for row in warehouse.select("kind_amounts", {})]
    return tuple(kinds)


def _adjusting(ws: Workspace, document: IssuedDocument) -> AdjustingDocument:
    content = json.loads(document_bytes(ws, document))
    return AdjustingDocument(
        document.number,
        document.kind.value,
        document.period_id,
        document.account_id,
        document.currency,
        document.total,
        document.corrects or "",
        tuple(
            AdjustingLine(
                line["description"], line["sku"], Decimal(line["quantity"]), line["unit"], Decimal(line["amount"])
            )
            for line in content["lines"]
        ),
        tuple(_cause_words(cause) for cause in content["causes"]),
    )


def _cause_words(cause: Mapping[str, Any]) -> str:
    counted = "not billed before" if cause["revision_from"] is None else f"revision {cause['revision_from']} before"
    events = cause["event_count"]
    return (
        f"window {cause['window_id']}: revision {cause['revision_to']}, {counted}; "
        f"{events:,} event{'s'[: events != 1]} of the account differ"
    )


def _decisions(ws: Workspace, revision: WindowRevision) -> tuple[AuditNote, ...]:
    """Return what the audit log says of the revision."""
    decisions = []
    for entry in ws.control_plane.audit_log(revision.document_scope):
        details = json.loads(entry.details)
        why = str(details.get("why") or details.get("reason") or "").splitlines()
        decisions.append(
            AuditNote(
                entry.action.replace("_", " "),
                str(details.get("by", "the pipeline")),
                datetime.fromisoformat(entry.at),
                why[0] if why else "",
            )
        )
    return tuple(decisions)
