"""Report: the page on which a person sees whether a night is right, and signs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.adapters.documents import render
from pipeline.adapters.report_files import report_json, report_parquet
from pipeline.adapters.report_xlsx import workbook
from pipeline.adapters.text_formats import format_instant
from pipeline.core.check import CheckReport
from pipeline.core.dataset import EXCLUDED_EVENTS, RECONCILIATION, USAGE
from pipeline.core.manifest import Receipt
from pipeline.core.outcome import EventOutcomes
from pipeline.core.report import TOP_ACCOUNTS_MAX, EstimateFacts, Evidence, ReportFacts
from pipeline.core.report_model import ReportModel
from pipeline.core.report_sections import report_model
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.steps.aggregate import find_revision
from pipeline.steps.completeness import published_completeness
from pipeline.steps.control_totals import (
    Night,
    pinned_night,
    pinned_objects,
    pins_of_reconciliation,
    revision_totals,
)
from pipeline.steps.estimate import estimates_of_draft, largest_estimates, published_estimates, totals_by_currency
from pipeline.steps.inputs import Pins
from pipeline.steps.outcomes import stored_outcomes
from pipeline.steps.price_trials import canary_of
from pipeline.steps.publish import read_document, read_manifest
from pipeline.steps.reconcile import published_controls
from pipeline.steps.report_facts import publish_facts, published_facts
from pipeline.steps.service_levels import published_service_levels
from pipeline.steps.workspace import Workspace


class Format(StrEnum):
    """How a report is written; every format has the same figures."""

    HTML = "html"
    XLSX = "xlsx"
    JSON = "json"
    PARQUET = "parquet"


def report(
    ws: Workspace,
    window_id: str,
    revision: int,
    at: datetime,
    formats: Collection[Format] = (Format.HTML,),
    *,
    refresh: bool = False,
) -> Path:
    """Write the reconciliation report of a window revision, also of a rejected one; return the first file's path.

    What is known at ``at`` is published with the first report of a revision, so the same revision makes the same bytes
    ever after; ``refresh`` publishes what is known now instead, and so does an exception that was recorded since.
    """
    model = report_model(report_facts(ws, window_id, revision, at, refresh=refresh))
    paths = []
    for one in formats:
        content = _CONTENT[one](model)
        ws.lake.put_bytes(content, "documents", f".{one.value}")
        path = report_path(ws, window_id, revision, one)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths[0]


def report_path(ws: Workspace, window_id: str, revision: int, format_: Format = Format.HTML) -> Path:
    """Return where people look for the report of a revision, whether it is there or not."""
    return ws.out / "reports" / f"{window_id.replace(':', '')}-r{revision}.{format_.value}"


def _page(model: ReportModel) -> bytes:
    return render("report.html", {"report": model}).encode()


_CONTENT: dict[Format, Callable[[ReportModel], bytes]] = {
    Format.HTML: _page,
    Format.XLSX: workbook,
    Format.JSON: report_json,
    Format.PARQUET: report_parquet,
}


def report_facts(ws: Workspace, window_id: str, revision: int, at: datetime, *, refresh: bool = False) -> ReportFacts:
    """Return everything that the report of a revision is made of; what is known at ``at`` as ``report`` says."""
    found = find_revision(ws, window_id, revision)
    pins = pins_of_reconciliation(ws, found)
    night, objects = pinned_night(pins), pinned_objects(ws, pins)
    totals = revision_totals(ws, found, pins)
    reconciled = ws.control_plane.publication(RECONCILIATION.name, found.scope, revision)
    outcomes = stored_outcomes(ws, pins.get("event_outcomes"))
    evidence = Evidence(
        parameters=_parameters(found, night, pins, outcomes),
        receipts=_receipts(ws, pins, reconciled),
        pins=_flat({**found.pins, "raw_event_files": len(found.pins["raw_event_files"]), "controls": pins["sql"]}),
        objects=tuple(known for known in objects if night.holds(known.received_at)),
    )
    measured = published_service_levels(ws, window_id, revision)
    known = published_facts(ws, found)
    exceptions = tuple(ws.control_plane.exceptions(window_id, revision))
    if known is None or refresh or known.exceptions != exceptions:
        known = publish_facts(ws, found, pins, totals, at)
    return ReportFacts(
        project_name=pins["project"],
        legal_entity=pins["legal_entity"],
        revision=found,
        decision_reason=_rejection(ws, found),
        totals=totals.totals,
        has_usage=pins[USAGE.name] is not None,
        controls=None if reconciled is None else tuple(published_controls(ws, reconciled)),
        quarantine=totals.quarantine,
        excluded=totals.excluded,
        accounts=totals.accounts,
        checks=_checks(ws, pins),
        evidence=evidence,
        night=known,
        completeness=published_completeness(ws, pins.get("completeness")),
        outcomes=outcomes,
        estimates=_estimates(ws, pins),
        canary=canary_of(ws, found),
        service_levels=() if measured is None else measured.levels,
    )


def _checks(ws: Workspace, pins: Pins) -> CheckReport | None:
    if pins["check_results"] is None:
        return None
    return CheckReport.from_json(read_document(ws, pins["check_results"]))


def _estimates(ws: Workspace, pins: Pins) -> EstimateFacts | None:
    """Return what was estimated from the drafts of the revision, if anything was."""
    totals: list[Mapping[str, Any]] = []
    accounts: list[Mapping[str, Any]] = []
    for _, draft in sorted(pins["drafts"].items()):
        receipt = None if draft is None else estimates_of_draft(ws, _receipt(ws, draft))
        if receipt is not None:
            rows = published_estimates(ws, receipt)
            totals += totals_by_currency(rows)
            accounts += largest_estimates(rows, TOP_ACCOUNTS_MAX)
    return EstimateFacts(tuple(totals), tuple(accounts)) if totals else None


def _rejection(ws: Workspace, revision: WindowRevision) -> str:
    """Return why the revision was rejected, from the audit log; the empty text for any other state."""
    if revision.state is not RevisionState.REJECTED:
        return ""
    subject = revision.document_scope
    entries = [entry for entry in ws.control_plane.audit_log(subject) if entry.action == "revision_rejected"]
    return str(json.loads(entries[-1].details)["why"]) if entries else ""


def _parameters(revision: WindowRevision, night: Night, pins: Pins, outcomes: EventOutcomes | None) -> dict[str, str]:
    look_back = "" if outcomes is None else str(timedelta(seconds=outcomes.look_back_seconds))
    start = "the beginning" if night.start is None else format_instant(night.start)
    return {
        "Window (event time)": (
            f"from {format_instant(revision.window_start)} up to, not including, {format_instant(revision.window_end)}"
        ),
        "Night (receipt time)": f"from {start} up to, not including, {format_instant(night.end)}",
        "First window (usage before it is never billed)": (
            f"begins at {format_instant(datetime.fromisoformat(pins['first_window_start']))}"
        ),
        "Cutoff": f"{format_instant(revision.cutoff_at)}; received at or after it is late",
        "Grace period": str(timedelta(seconds=revision.pins["grace_period_seconds"])),
        "Grain": str(timedelta(seconds=revision.pins["grain_seconds"])),
        "Tolerance for event times after receipt": str(timedelta(seconds=revision.pins["future_tolerance_seconds"])),
        "Look-back for copies in other windows, both ways": look_back or "not known",
        "Why this revision": revision.reason,
        "Version of the pipeline": pins["code_version"],
    }


def _receipts(ws: Workspace, pins: Pins, reconciled: Receipt | None) -> tuple[Receipt, ...]:
    manifests = [
        *pins["collections"]["raw_events"],
        *pins["collections"]["quarantine"],
        *(pins[dataset.name] for dataset in (EXCLUDED_EVENTS, USAGE)),
        pins.get("event_outcomes"),
        *pins["drafts"].values(),
        pins.get("completeness"),
        pins["check_results"],
    ]
    receipts = [_receipt(ws, manifest_hash) for manifest_hash in manifests if manifest_hash is not None]
    return (*receipts, *([] if reconciled is None else [reconciled]))


def _receipt(ws: Workspace, manifest_hash: str) -> Receipt:
    manifest = read_manifest(ws, manifest_hash)
    return Receipt(
        manifest.dataset,
        manifest.scope,
        manifest.revision,
        manifest_hash,
        manifest.row_count,
        manifest.content_hash,
    )


def _flat(pins: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested pins as one list of names and texts."""
    flat: dict[str, str] = {}
    for name, value in sorted(pins.items()):
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
