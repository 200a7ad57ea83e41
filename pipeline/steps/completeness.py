"""Completeness: what each source has shown so far, and whether a window may be closed on it (P9).

The rules are in ``core.completeness``; here is where their facts come from: the object ledger and the evidence of
the control plane, and for control files the events of the window, counted by SQL. What was known when a revision was
opened is published as a document, and the reconciliation pins it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.completeness import (
    HEARTBEAT_UP_TO,
    EvidenceKind,
    Missing,
    PendingObject,
    ProducerCount,
    ProducerTotal,
    SourceException,
    SourceFacts,
    SourceHour,
    SourceHours,
    UnclaimedObject,
    WindowBounds,
    complete_until,
    control_differences,
    evidence_of,
    first_missing,
    joined_hours,
    missing_evidence,
    missing_heartbeat,
    offset_overlaps,
    producer_totals,
    summed_paths,
)
from pipeline.core.contract import SourceContract
from pipeline.core.decimals import plain_text
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.evidence import ControlFile, Offsets
from pipeline.core.report import CompletenessFacts, SourceCompleteness
from pipeline.core.revision import LedgerObject, RevisionState, WindowRevision
from pipeline.core.window import BillingWindow, is_collected, windows_between
from pipeline.steps.inputs import view_raw_event_files
from pipeline.steps.publish import publish_document, read_document, read_manifest
from pipeline.steps.workspace import Workspace

COMPLETENESS = "completeness"
MISSING_SHOWN_MAX = 10
OBJECTS_SHOWN_MAX = 20
QUERIES = ("source_hour_totals", "window_objects")
CONTRACT_OBJECTS = (("object_id", "VARCHAR"),)
SUMMED_PATHS = (("path", "VARCHAR"),)


@dataclass(frozen=True, slots=True)
class SourceState:
    """What one source has shown about one window: its kind of evidence, up to when it is complete, what is missing."""

    contract: str
    evidence: str
    has_manifest: bool
    watermark_at: datetime | None
    missing: tuple[Missing, ...]
    totals: tuple[ProducerTotal, ...] = ()  # of the producers, as far as they count


def source_facts(ws: Workspace, contract: SourceContract) -> SourceFacts:
    """Return all that the control plane knows about a source and that its kind of evidence looks at."""
    watermark_at = ws.control_plane.watermark_at()
    is_by_object = isinstance(contract.completeness, ControlFile | Offsets) or contract.manifest is not None
    known = ws.control_plane.collected_objects(contract.name) if is_by_object else []
    kinds = {one.key: claim[1] for one in known if (claim := evidence_of([contract], one.key)) is not None}
    evidence = ws.control_plane.evidence(contract.name)
    read_at = {one.evidence.key: one.received_at for one in evidence}
    unread = [one for one in known if one.key in kinds and one.received_at >= read_at.get(one.key, one.received_at)]
    return SourceFacts(
        contract,
        watermark_at,
        objects=[one for one in known if one.key not in kinds],
        evidence=evidence,
        unread_manifests=[one for one in unread if kinds[one.key] is EvidenceKind.MANIFEST],
        unread_control_files=[one for one in unread if kinds[one.key] is EvidenceKind.CONTROL_FILE],
    )


def source_states(
    ws: Workspace, window: BillingWindow, cutoff_at: datetime, raw_event_paths: Sequence[str]
) -> list[SourceState]:
    """Return what each source has shown about a window, in order of contract.

    ``cutoff_at`` is that of the revision; ``raw_event_paths`` are the lake paths of the window's raw event files.
    """
    settings = ws.project.settings.window
    bounds = WindowBounds(window, window.cutoff_at(settings.grace_period), cutoff_at, settings.future_tolerance)
    states = []
    for contract in sorted(ws.project.contracts, key=lambda contract: contract.name):
        facts = source_facts(ws, contract)
        hours = _hours(ws, facts, bounds, raw_event_paths)
        totals = tuple(producer_totals(facts, window, hours))
        states.append(replace(_state(facts, bounds, missing_evidence(facts, bounds, hours)), totals=totals))
    return states


def _state(facts: SourceFacts, bounds: WindowBounds, missing: Sequence[Missing]) -> SourceState:
    watermark_at = complete_until(facts, bounds.window.end)
    if isinstance(facts.contract.completeness, ControlFile) and missing and watermark_at is not None:
        first_hour = min(one.since for one in missing) - timedelta(hours=1)
        watermark_at = min(watermark_at, max(first_hour, bounds.window.start))
    contract = facts.contract
    return SourceState(
        contract.name, contract.completeness.evidence, contract.manifest is not None, watermark_at, tuple(missing)
    )


def _hours(ws: Workspace, facts: SourceFacts, bounds: WindowBounds, raw_event_paths: Sequence[str]) -> SourceHours:
    """Return what was collected of the source in each hour of the window; nothing where no control file asks for it."""
    if not isinstance(facts.contract.completeness, ControlFile) or not raw_event_paths:
        return {}
    window = {"window_start": bounds.window.start, "window_end": bounds.window.end}
    with Warehouse(ws.scratch) as warehouse:
        view_raw_event_files(warehouse, ws, raw_event_paths)
        of_window = [row["object_id"] for row in warehouse.select("window_objects", window)]
        _table_what_counts(warehouse, facts, ws.control_plane.ledger(of_window), [bounds.window])
        return _counted_hours(warehouse, bounds)


def _table_what_counts(
    warehouse: Warehouse, facts: SourceFacts, ledger: Sequence[LedgerObject], windows: Sequence[BillingWindow]
) -> None:
    """Make ``contract_objects`` and ``summed_paths``: whose events count, and what control files of the windows sum."""
    of_contract = [(one.object_id,) for one in ledger if one.contract == facts.contract.name]
    warehouse.table_rows("contract_objects", CONTRACT_OBJECTS, of_contract)
    paths = {"quantity", *(path for window in windows for path in summed_paths(facts, window))}
    warehouse.table_rows("summed_paths", SUMMED_PATHS, [(path,) for path in sorted(paths)])


def _counted_hours(warehouse: Warehouse, bounds: WindowBounds) -> SourceHours:
    """Return what ``raw_events`` hold of each hour of the window."""
    window = {"window_start": bounds.window.start, "window_end": bounds.window.end}
    rows = warehouse.select("source_hour_totals", {**window, "cutoff_at": bounds.cutoff_at})
    hours = {}
    for key, of_hour in groupby(rows, key=lambda row: (row["source"], row["hour_start"])):
        sums: dict[str, Decimal | None] = {}
        for row in of_hour:
            event_count, sums[row["path"]] = row["event_count"], row["total"]
        hours[key] = SourceHour(event_count, sums)
    return hours


# Closing a window ----------------------------------------------------------------------------------------------------


def require_complete(
    ws: Workspace, revision: WindowRevision, states: Sequence[SourceState], accept_incomplete: str | None, at: datetime
) -> list[SourceException]:
    """Return the exceptions to record with the revision; refuse it when evidence is missing that nobody accepts.

    What was accepted for this revision before is not asked again; something else that is missing is. An empty reason is
    refused, and nothing is accepted that is not missing.
    """
    if accept_incomplete is not None and not accept_incomplete.strip():
        raise InputError(
            "window.no_reason",
            "an incomplete window is accepted with a reason",
            ['expected a sentence, such as --accept-incomplete "broker lost partition 3, ticket 4711"'],
        )
    known = {
        (exception.contract, sentence)
        for exception in ws.control_plane.exceptions(revision.window_id, revision.revision)
        for sentence in exception.missing
    }
    missing = [
        (state.contract, one)
        for state in states
        for one in state.missing
        if (state.contract, one.sentence) not in known
    ]
    if missing and accept_incomplete is None:
        shown = [f"{contract}: {one.sentence}, since {one.since.isoformat()}" for contract, one in missing]
        more = len(shown) - MISSING_SHOWN_MAX
        raise NotReadyError(
            "window.incomplete",
            f"window {revision.window_id} is not shown to be complete: {first_missing(missing)}",
            [
                *(f"missing: {line}" for line in shown[:MISSING_SHOWN_MAX]),
                *([f"and {more:,} more, see `billing status`"] if more > 0 else []),
                "run `billing collect` when the objects are there, or close it as it is: "
                f'billing run --window {revision.window_id} --accept-incomplete "why"',
            ],
        )
    by_contract: dict[str, list[str]] = {}
    for contract, one in missing:
        by_contract.setdefault(contract, []).append(one.sentence)
    return [
        SourceException(
            revision.window_id, revision.revision, contract, tuple(sentences), (accept_incomplete or "").strip(), at
        )
        for contract, sentences in by_contract.items()
    ]


def publish_completeness(ws: Workspace, revision: WindowRevision, states: Sequence[SourceState], at: datetime) -> None:
    """Publish what was known when the revision was opened; again only if something else is missing by now.

    An accepted revision keeps what it was accepted with.
    """
    if revision.state is RevisionState.ACCEPTED:
        return
    scope = revision.document_scope
    published = ws.control_plane.publication(COMPLETENESS, scope)
    if published is not None:
        known = read_document(ws, published.manifest_hash)["sources"]
        before = [(source["contract"], [one["sentence"] for one in source["missing"]]) for source in known]
        now = [(state.contract, [one.sentence for one in state.missing]) for state in states]
        if before == now:
            return
    unclaimed, pending = ws.control_plane.unclaimed_objects(), ws.control_plane.pending_objects()
    content = {
        "sources": [
            {
                "contract": state.contract,
                "evidence": state.evidence,
                "has_manifest": state.has_manifest,
                # Beyond the cutoff it says when collection ran, and nothing about the window (P1).
                "watermark": state.watermark_at and min(state.watermark_at, revision.cutoff_at).isoformat(),
                "missing": [{"sentence": one.sentence, "since": one.since.isoformat()} for one in state.missing],
                "totals": [[*one[:3], plain_text(one.expected), plain_text(one.actual)] for one in state.totals],
            }
            for state in states
        ],
        "pending_count": len(pending),
        "pending": [_plain(one) for one in pending[:OBJECTS_SHOWN_MAX]],
        "unclaimed_count": len(unclaimed),
        "unclaimed": [_plain(one) for one in unclaimed[:OBJECTS_SHOWN_MAX]],
    }
    pins = {"inputs_hash": revision.inputs_hash, "sql": {query: Warehouse.sql_hash(query) for query in QUERIES}}
    publish_document(ws, COMPLETENESS, scope, content, pins, at)


def published_completeness(ws: Workspace, manifest_hash: str | None) -> CompletenessFacts | None:
    """Return the document of that manifest; None for a revision that was reconciled before there was one."""
    if manifest_hash is None:
        return None
    document = read_document(ws, manifest_hash)
    return CompletenessFacts(
        sources=tuple(
            SourceCompleteness(
                source["contract"],
                source["evidence"],
                source["has_manifest"],
                _instant(source["watermark"]),
                tuple(Missing(one["sentence"], datetime.fromisoformat(one["since"])) for one in source["missing"]),
            )
            for source in document["sources"]
        ),
        pending_count=document["pending_count"],
        pending=tuple(
            PendingObject(**{**one, "since": datetime.fromisoformat(one["since"])}) for one in document["pending"]
        ),
        unclaimed_count=document["unclaimed_count"],
        unclaimed=tuple(
            UnclaimedObject(**{**one, "first_seen_at": datetime.fromisoformat(one["first_seen_at"])})
            for one in document["unclaimed"]
        ),
    )


def published_producer_totals(ws: Workspace, manifest_hash: str | None) -> tuple[ProducerTotal, ...]:
    """Return what the producers of all sources counted, from the document of that manifest."""
    if manifest_hash is None:
        return ()
    return tuple(
        ProducerTotal(ProducerCount(counted), scope, unit, Decimal(expected), Decimal(actual))
        for source in read_document(ws, manifest_hash)["sources"]
        for counted, scope, unit, expected, actual in source["totals"]
    )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _plain(value: Any) -> dict[str, Any]:
    return {name: item.isoformat() if isinstance(item, datetime) else item for name, item in asdict(value).items()}


# Status --------------------------------------------------------------------------------------------------------------


def source_status(ws: Workspace, warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return for each contract its evidence, up to when it is complete, what is missing, and what waits in the bucket.

    A gap is missing until it is filled, whatever was accepted meanwhile: it holds the watermark. A heartbeat or an hour
    is missing for a window that is collected and either not accepted, or accepted without it. Of what is missing the
    first ten are named, what nobody accepted before what somebody did; ``missing_count`` is how many there are.
    """
    watermark_at = ws.control_plane.watermark_at()
    exceptions = _newest_exceptions(ws)
    open_windows = _open_windows(ws, watermark_at)
    pending = ws.control_plane.pending_objects()
    sources = []
    for contract in sorted(ws.project.contracts, key=lambda contract: contract.name):
        facts = source_facts(ws, contract)
        of_contract = [one for one in exceptions if one[0].contract == contract.name]
        shown_until, missing = _status_of_source(ws, warehouse, facts, open_windows, of_contract)
        entries = _missing_entries(facts, missing, of_contract)
        sources.append(
            {
                "contract": contract.name,
                "evidence": contract.completeness.evidence,
                "has_manifest": contract.manifest is not None,
                "watermark": None if shown_until is None else shown_until.isoformat(),
                "missing_count": len(entries),
                "missing": entries[:MISSING_SHOWN_MAX],
                "overlaps": offset_overlaps(facts),
                "pending": [
                    _plain(one)
                    for one in pending
                    if contract.covers(one.key) or evidence_of([contract], one.key) is not None
                ],
            }
        )
    return sources


def _newest_exceptions(ws: Workspace) -> list[tuple[SourceException, WindowRevision]]:
    """Return the exceptions of each window's newest revision, with that revision."""
    newest = {revision.window_id: revision for revision in ws.control_plane.window_revisions()}
    exceptions = ws.control_plane.exceptions()
    return [(one, newest[one.window_id]) for one in exceptions if newest[one.window_id].revision == one.revision]


def _status_of_source(
    ws: Workspace,
    warehouse: Warehouse,
    facts: SourceFacts,
    open_windows: Sequence[BillingWindow],
    exceptions: Sequence[tuple[SourceException, WindowRevision]],
) -> tuple[datetime | None, list[Missing]]:
    """Return up to when a source is complete, from the first open window on, and each thing that is missing, once."""
    settings = ws.project.settings.window
    shown_from = facts.watermark_at or settings.first_window_start
    collected = {
        window: cutoff_at
        for window in open_windows
        if is_collected(cutoff_at := window.cutoff_at(settings.grace_period), facts.watermark_at)
    }
    cutoffs = collected | {
        BillingWindow(revision.window_start, revision.window_end): revision.cutoff_at for _, revision in exceptions
    }
    asked = sorted(cutoffs)
    if open_windows:
        shown_from = open_windows[0].end if open_windows[0] in collected else open_windows[0].start
    shown_until = complete_until(facts, shown_from)
    missing = [gap for gap, _ in facts.gaps]
    if asked:
        missing += missing_heartbeat(facts, asked[-1])
    if isinstance(facts.contract.completeness, ControlFile):
        files = _raw_event_files_by_date(ws, asked)
        _table_what_counts(warehouse, facts, ws.control_plane.ledger() if files else [], asked)
        for window in asked:
            bounds = WindowBounds(window, cutoffs[window], cutoffs[window], settings.future_tolerance)
            paths = sorted({path for event_date in window.event_dates() for path in files.get(event_date, ())})
            hours: SourceHours = {}
            if paths:
                view_raw_event_files(warehouse, ws, paths)
                hours = _counted_hours(warehouse, bounds)
            found = list(control_differences(facts, window, hours))
            missing += found
            if found and shown_until is not None and window in collected:
                shown_until = min(shown_until, found[0].since - timedelta(hours=1))
    return shown_until, list({one.sentence: one for one in reversed(missing)}.values())


def _missing_entries(
    facts: SourceFacts, missing: Sequence[Missing], exceptions: Sequence[tuple[SourceException, WindowRevision]]
) -> list[dict[str, Any]]:
    """Return what is missing as the status names it, with the reason and the windows that it was accepted for."""
    accepted: dict[str, dict[str, list[str]]] = {}
    awaited = [one.sentence for one in missing if one.sentence.startswith(HEARTBEAT_UP_TO)]
    for exception, revision in exceptions:
        sentences = set(exception.missing)
        # The sentence of a heartbeat changes with each one that comes, and still another is awaited.
        is_awaited = facts.heartbeat_at is None or facts.heartbeat_at < revision.window_end
        if is_awaited and any(sentence.startswith(HEARTBEAT_UP_TO) for sentence in sentences):
            sentences |= set(awaited)
        for sentence in sentences:
            accepted.setdefault(sentence, {}).setdefault(exception.reason, []).append(exception.window_id)
    by_reasons: dict[tuple[str, ...], list[Missing]] = {}
    for one in missing:
        by_reasons.setdefault(tuple(accepted.get(one.sentence, ())), []).append(one)
    entries = []
    for reasons, of_reasons in by_reasons.items():
        for joined, parts in joined_hours(of_reasons):
            windows = {
                reason: sorted({window_id for part in parts for window_id in accepted[part.sentence][reason]})
                for reason in reasons
            }
            entry = {
                "sentence": joined.sentence,
                "since": joined.since.isoformat(),
                "accepted": [{"reason": reason, "windows": windows[reason]} for reason in reasons],
            }
            entries.append((bool(reasons), joined.since, joined.sentence, entry))
    return [entry for *_, entry in sorted(entries, key=lambda one: one[:3])]


def _raw_event_files_by_date(ws: Workspace, windows: Sequence[BillingWindow]) -> dict[date, set[str]]:
    """Return the lake paths of the raw event files of each date of the windows, each manifest read once."""
    files: dict[date, set[str]] = {}
    event_dates = sorted({event_date for window in windows for event_date in window.event_dates()})
    for manifest_hash in ws.control_plane.raw_event_manifests(event_dates):
        for file in read_manifest(ws, manifest_hash).files:
            files.setdefault(date.fromisoformat(file.partition), set()).add(file.path)
    return files


def unclaimed_status(ws: Workspace) -> dict[str, Any]:
    """Return how many objects nobody collects, and the first of them."""
    unclaimed = ws.control_plane.unclaimed_objects()
    return {"count": len(unclaimed), "first": [_plain(one) for one in unclaimed[:OBJECTS_SHOWN_MAX]]}


def _open_windows(ws: Workspace, watermark_at: datetime | None) -> list[BillingWindow]:
    """Return, in order, each window since the first one that is not accepted, up to the one that is filling now."""
    if watermark_at is None:
        return []
    settings = ws.project.settings.window
    accepted = ws.control_plane.accepted_revisions()
    until = watermark_at + timedelta(microseconds=1)
    windows = windows_between(settings.first_window_start, until, settings.length)
    return [window for window in windows if window.window_id not in accepted]
