"""Service levels: what each night says about how well billing works, published once for each window revision.

It is measured when the revision is decided, from what was published and from the control plane, and never again: the
report of a revision shows what was known that night. History is the newest revision of each window. What a night cost
is no property of its data and is kept apart (``run_costs``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.account import VALID_FOR_EVER, AccountRow
from pipeline.core.dataset import (
    ESTIMATES,
    EXCLUDED_EVENTS,
    LINE_ITEMS,
    RAW_EVENTS,
    RECONCILIATION,
    USAGE,
)
from pipeline.core.invoice import DocumentKind, DocumentState
from pipeline.core.manifest import Receipt
from pipeline.core.meter import Aggregation
from pipeline.core.reason import ExclusionReason
from pipeline.core.reconciliation import Control, Equation, failed_controls, unexplained_event_count
from pipeline.core.recount import RecountedEvent, RowFigures, RowKey, recounted_usage, wrong_rows
from pipeline.core.revision import WindowRevision
from pipeline.core.sli import (
    Indicator,
    MeasuredWindow,
    Measurement,
    ServiceLevel,
    ServiceLevelSettings,
    service_levels,
)
from pipeline.core.window import billing_period, next_period_id
from pipeline.steps.aggregate import find_revision
from pipeline.steps.deduplicate import exclusion_counts
from pipeline.steps.inputs import pinned_account_rows, pinned_meters, view_raw_event_files
from pipeline.steps.outcomes import published_outcomes
from pipeline.steps.pinned import pin_sql
from pipeline.steps.publish import dataset_files, publish_document, read_document
from pipeline.steps.reconcile import published_controls
from pipeline.steps.render import invoice_folder
from pipeline.steps.workspace import Workspace

SERVICE_LEVELS = "service_levels"
SERVICE_LEVEL_QUERIES = ("event_latencies", "sampled_accounts", "exclusion_counts", "estimate_errors")
RECOUNTED_EVENTS_MAX = 20_000  # of one account: each is read in Python
WRONG_ROWS_SHOWN_MAX = 5
DISPUTED_PERIODS = 3
ONE_MICROSECOND = timedelta(microseconds=1)
_TWO_PLACES = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class PublishedServiceLevels:
    """The service levels of one window revision, in the order of ``Indicator``."""

    window_id: str
    revision: int
    window_end: datetime
    levels: tuple[ServiceLevel, ...]

    def level(self, indicator: Indicator) -> ServiceLevel | None:
        """Return the level of one indicator, if it was known that night."""
        return next((level for level in self.levels if level.indicator is indicator), None)


def publish_service_levels(ws: Workspace, window_id: str, revision: int, at: datetime) -> PublishedServiceLevels:
    """Measure a revision that is decided and publish its service levels; what is published stays as it is."""
    published = published_service_levels(ws, window_id, revision)
    if published is not None:
        return published
    found = find_revision(ws, window_id, revision)
    settings = ws.project.settings.sli
    measured = {one.indicator: one for one in _measurements(ws, found, at, settings)}
    this = MeasuredWindow(found.window_end, {name: measured[name] for name in Indicator if name in measured})
    levels = service_levels(this, measured_windows(ws, found, settings.rolling_days), settings)
    content = {
        "window_id": window_id,
        "revision": revision,
        "window_end": found.window_end.isoformat(),
        "levels": [level.to_json() for level in levels],
    }
    pins = {"inputs_hash": found.inputs_hash, "sql": pin_sql(ws, SERVICE_LEVEL_QUERIES)}
    publish_document(ws, SERVICE_LEVELS, found.document_scope, content, pins, at)
    return PublishedServiceLevels(window_id, revision, found.window_end, levels)


def published_service_levels(ws: Workspace, window_id: str, revision: int) -> PublishedServiceLevels | None:
    """Return the service levels of a revision as they were measured that night, or None if they were not."""
    receipt = ws.control_plane.publication(SERVICE_LEVELS, f"window={window_id}/revision={revision}")
    return None if receipt is None else _stored(ws, receipt)


def newest_service_levels(ws: Workspace, window_id: str | None = None) -> PublishedServiceLevels | None:
    """Return the service levels of the newest revision that was measured: of a window, or of the newest window."""
    published = _newest_by_window(ws)
    name = max(published, default=None) if window_id is None else window_id
    return _stored(ws, published[name]) if name in published else None


def measured_windows(ws: Workspace, but: WindowRevision, days: int) -> list[MeasuredWindow]:
    """Return what was measured of the other windows in the days before a window's end, oldest first."""
    starts = {
        revision.window_id
        for revision in ws.control_plane.window_revisions(but.window_end - timedelta(days=days), but.window_start)
    }
    stored = [
        _stored(ws, receipt) for window_id, receipt in sorted(_newest_by_window(ws).items()) if window_id in starts
    ]
    return [
        MeasuredWindow(one.window_end, {level.indicator: level.measurement for level in one.levels}) for one in stored
    ]


def _newest_by_window(ws: Workspace) -> dict[str, Receipt]:
    newest: dict[str, tuple[int, Receipt]] = {}
    for receipt in ws.control_plane.newest_publications(SERVICE_LEVELS):
        window, _, revision = receipt.scope.removeprefix("window=").partition("/revision=")
        newest[window] = max(newest.get(window, (0, receipt)), (int(revision), receipt), key=lambda pair: pair[0])
    return {window: receipt for window, (_, receipt) in newest.items()}


def _stored(ws: Workspace, receipt: Receipt) -> PublishedServiceLevels:
    document = read_document(ws, receipt.manifest_hash)
    return PublishedServiceLevels(
        document["window_id"],
        document["revision"],
        datetime.fromisoformat(document["window_end"]),
        tuple(ServiceLevel.from_json(fields) for fields in document["levels"]),
    )


# What is measured -----------------------------------------------------------------------------------------------------


def _measurements(
    ws: Workspace, revision: WindowRevision, at: datetime, settings: ServiceLevelSettings
) -> Iterator[Measurement]:
    with Warehouse(ws.scratch) as warehouse:
        yield from _events(ws, warehouse, revision, settings)
    reconciled = ws.control_plane.publication(RECONCILIATION.name, revision.scope, revision.revision)
    controls = None if reconciled is None else published_controls(ws, reconciled)
    yield _missing_events(controls)
    yield _recounted(ws, revision, settings)
    yield _reconciled(controls)
    yield _available(ws, revision, at, settings)
    audited_count, change_count = ws.control_plane.audited_counts()
    yield Measurement(Indicator.AUDIT_TRAIL, audited_count, change_count)
    final_periods = sorted(ws.control_plane.final_periods())
    yield _files(ws, final_periods)
    yield _on_time(ws, final_periods, at, settings)
    yield _disputed(ws, final_periods[-DISPUTED_PERIODS:])
    yield _estimated(ws, final_periods, settings)


def _events(
    ws: Workspace, warehouse: Warehouse, revision: WindowRevision, settings: ServiceLevelSettings
) -> Iterator[Measurement]:
    view_raw_event_files(warehouse, ws, revision.pins["raw_event_files"])
    bounds = {"window_start": revision.window_start, "window_end": revision.window_end}
    threshold = settings.ingestion_latency.threshold
    row = warehouse.select("event_latencies", {**bounds, "threshold": threshold})[0]
    count, p95 = row["event_count"], row["p95_microseconds"]
    figures = {} if p95 is None else {"p95_seconds": (Decimal(p95) / 1_000_000).quantize(_TWO_PLACES)}
    nothing = "the window has no event"
    yield Measurement(Indicator.INGESTION_LATENCY, row["in_time_count"], count, figures, "" if count else nothing)
    is_enough = count >= settings.events_per_window.events_min
    yield Measurement(Indicator.EVENTS_PER_WINDOW, int(is_enough), 1, {"events": Decimal(count)})
    outcomes = published_outcomes(ws, revision)
    excluded = exclusion_counts(ws, warehouse, revision)
    if outcomes is None or not count:
        note = nothing if outcomes else "the window was not deduplicated"
        for indicator in (Indicator.DUPLICATE_RATE, Indicator.LATE_RATE, Indicator.ACCOUNT_MAPPING):
            yield Measurement(indicator, 0, 0, {}, note)
        return
    exact, conflicts = (
        excluded.get(reason, 0) for reason in (ExclusionReason.EXACT_DUPLICATE, ExclusionReason.CONFLICTING_DUPLICATE)
    )
    copies = {"exact_events": Decimal(exact), "conflicting_events": Decimal(conflicts)}
    yield Measurement(Indicator.DUPLICATE_RATE, count - exact - conflicts, count, copies)
    late = sum(one.event_count for one in outcomes.late_arrivals if one.sku is None)
    yield Measurement(Indicator.LATE_RATE, count - min(late, count), count)
    orphaned, fallback = excluded.get(ExclusionReason.ORPHANED_ACCOUNT, 0), outcomes.fallback_event_count
    failed = {"orphaned_events": Decimal(orphaned), "fallback_events": Decimal(fallback)}
    yield Measurement(Indicator.ACCOUNT_MAPPING, count - orphaned - fallback, count, failed)


def _missing_events(controls: Sequence[Control] | None) -> Measurement:
    """Compare with what the producers counted, of which the reconciliation has a control for each source."""
    indicator = Indicator.MISSING_EVENT_RATE
    if controls is None:
        return Measurement(indicator, 0, 0, {}, "the window was not reconciled")
    counted = [control for control in controls if control.control is Equation.PRODUCER_EVENTS]
    total = int(sum(control.expected for control in counted))
    missing = int(sum(max(Decimal(0), -control.delta) for control in counted))
    note = "" if total else "no producer counts the events of the window"
    return Measurement(indicator, total - missing, total, {"missing_events": Decimal(missing)}, note)


def _recounted(ws: Workspace, revision: WindowRevision, settings: ServiceLevelSettings) -> Measurement:
    """Count the usage of a few accounts again, from raw events and in Python, and compare the rows."""
    indicator = Indicator.AGGREGATION_ACCURACY
    if ws.control_plane.publication(USAGE.name, revision.scope, revision.revision) is None:
        return Measurement(indicator, 0, 0, {}, "the window has no usage")
    usage_files, excluded_files = (
        dataset_files(ws, dataset, revision.scope, revision.revision) for dataset in (USAGE, EXCLUDED_EVENTS)
    )
    fallbacks = {account_id for _, account_id in revision.pins.get("account_fallbacks", [])}
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(USAGE.name, USAGE, usage_files)
        draw = {
            "draw": f"{revision.window_id}/{revision.revision}",
            "account_count": settings.aggregation_accuracy.accounts,
            "event_count_max": RECOUNTED_EVENTS_MAX,
        }
        drawn = [row["account_id"] for row in warehouse.select("sampled_accounts", draw)]
        accounts = [account_id for account_id in drawn if account_id not in fallbacks]
        if not accounts:
            return Measurement(indicator, 0, 0, {}, "no account is small enough to be counted in Python")
        owners = _owners(ws, revision, accounts)
        subjects = sorted({reference for row in owners for reference in row.external_references})
        paths = [ws.lake.local_file(path) for path in revision.pins["raw_event_files"]]
        warehouse.table_files(RAW_EVENTS.name, RAW_EVENTS, paths, ("subject", subjects))
        warehouse.table_files(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS, excluded_files, ("subject", subjects))
        warehouse.table_files("sampled_usage", USAGE, usage_files, ("account_id", accounts))
        excluded = {row[:2] for row in warehouse.rows(EXCLUDED_EVENTS.name)}
        events = list(_billed_events(revision, owners, warehouse.rows(RAW_EVENTS.name), excluded))
        found = {}
        for row in warehouse.rows("sampled_usage"):
            fields = dict(zip(USAGE.column_names, row, strict=True))
            figures = RowFigures(fields["quantity"], fields["value_sum"], fields["event_count"])
            key = RowKey(fields["account_id"], fields["sku"], fields["dimensions"], fields["grain_start"])
            found[key] = (Aggregation(fields["aggregation"]), figures)
    grain = timedelta(seconds=revision.pins["grain_seconds"])
    recounted = recounted_usage(events, pinned_meters(ws, revision), grain)
    wrong = wrong_rows(found, recounted)
    row_count = len(found.keys() | recounted.keys())
    counts = {"accounts": Decimal(len(accounts)), "events": Decimal(len(events))}
    return Measurement(indicator, row_count - len(wrong), row_count, counts, "; ".join(wrong[:WRONG_ROWS_SHOWN_MAX]))


def _owners(ws: Workspace, revision: WindowRevision, accounts: Sequence[str]) -> list[AccountRow]:
    content = ws.lake.get_bytes(f"pins/{revision.pins['accounts.csv']}")
    return [
        AccountRow.model_validate(
            {
                **row,
                "valid_to": row["valid_to"] or VALID_FOR_EVER,
                "external_references": [one.strip() for one in row["external_references"].split(";") if one.strip()],
            }
        )
        for row in pinned_account_rows(content)
        if row["account_id"] in accounts
    ]


def _billed_events(
    revision: WindowRevision, owners: Sequence[AccountRow], rows: Any, excluded: set[tuple[Any, ...]]
) -> Iterator[tuple[str, RecountedEvent]]:
    owners_of: dict[str, list[AccountRow]] = {}
    for owner in owners:
        for reference in owner.external_references:
            owners_of.setdefault(reference, []).append(owner)
    for row in rows:
        fields = dict(zip(RAW_EVENTS.column_names, row, strict=True))
        event_at = fields["event_at"]
        if not revision.window_start <= event_at < revision.window_end:
            continue
        if (fields["object_id"], fields["line_number"]) in excluded:
            continue
        for owner in owners_of.get(fields["subject"], []):
            if owner.valid_from <= event_at < owner.valid_to:
                yield owner.account_id, RecountedEvent(fields["type"], event_at, fields["quantity"], fields["data"])


def _reconciled(controls: Sequence[Control] | None) -> Measurement:
    if controls is None:
        return Measurement(Indicator.RECONCILIATION, 0, 0, {}, "the window was not reconciled")
    failed = len(failed_controls(controls))
    figures = {"failed_controls": Decimal(failed), "unexplained_events": Decimal(unexplained_event_count(controls))}
    return Measurement(Indicator.RECONCILIATION, len(controls) - failed, len(controls), figures)


def _available(ws: Workspace, revision: WindowRevision, at: datetime, settings: ServiceLevelSettings) -> Measurement:
    """Tell whether some revision of the window was accepted by the deadline, which counts from the first cutoff."""
    grace = timedelta(seconds=revision.pins["grace_period_seconds"])
    deadline_at = revision.window_end + grace + settings.pipeline_availability.deadline
    accepted_at = ws.control_plane.first_accepted_at(revision.window_id)
    indicator = Indicator.PIPELINE_AVAILABILITY
    if accepted_at is None and at < deadline_at:
        return Measurement(indicator, 0, 0, {}, "the window is not accepted, and its deadline is to come")
    return Measurement(indicator, int(accepted_at is not None and accepted_at <= deadline_at), 1)


def _files(ws: Workspace, final_periods: Sequence[str]) -> Measurement:
    indicator = Indicator.EXPORT_SUCCESS
    if not final_periods:
        return Measurement(indicator, 0, 0, {}, "no period is final")
    period_id = final_periods[-1]
    folder, formats = invoice_folder(ws, period_id), ws.project.settings.documents.formats
    documents = ws.control_plane.documents(period_id)
    there = {(path.name.partition("_")[0], path.suffix) for path in folder.rglob("*")}
    wanted = [(document.number, f".{extension}") for document in documents for extension in formats]
    note = "" if wanted else f"period {period_id} has no document"
    return Measurement(indicator, sum(file in there for file in wanted), len(wanted), {}, note)


def _on_time(ws: Workspace, final_periods: Sequence[str], at: datetime, settings: ServiceLevelSettings) -> Measurement:
    """Look at the newest period whose invoices are due, or are issued before they are."""
    indicator, deadline = Indicator.INVOICES_ON_TIME, settings.invoices_on_time.deadline
    first = ws.project.settings.window.first_window.strftime("%Y-%m")
    due = [period for period in _months(first, at) if billing_period(period, "UTC").end + deadline <= at]
    period_id = max([*due, *final_periods], default=None)
    if period_id is None:
        return Measurement(indicator, 0, 0, {}, "no invoice is due")
    deadline_at = billing_period(period_id, "UTC").end + deadline
    if period_id not in final_periods:
        if ws.control_plane.publication(LINE_ITEMS.name, f"period={period_id}") is None:
            return Measurement(indicator, 0, 0, {}, f"nothing was charged in {period_id}")
        return Measurement(indicator, 0, 1, {}, f"period {period_id} is not final")
    issued_at = ws.control_plane.issued_at(period_id)
    invoices = [one for one in ws.control_plane.documents(period_id) if one.kind is DocumentKind.INVOICE]
    good = sum(issued_at[one.number] <= deadline_at for one in invoices)
    owed = len(ws.control_plane.held_accounts(period_id)) + len(ws.control_plane.accounts_to_invoice(period_id))
    still_owed = owed if at >= deadline_at else 0
    note = "" if invoices or still_owed else f"period {period_id} has no invoice"
    return Measurement(indicator, good, len(invoices) + still_owed, {}, note)


def _months(first: str, at: datetime) -> Iterator[str]:
    period_id = first
    while billing_period(period_id, "UTC").end <= at:
        yield period_id
        period_id = next_period_id(period_id)


def _disputed(ws: Workspace, periods: Sequence[str]) -> Measurement:
    """Count the invoices that were voided or credited: as long as nobody records disputes, that is what shows them."""
    documents = [document for period_id in periods for document in ws.control_plane.documents(period_id)]
    invoices = [document for document in documents if document.kind is DocumentKind.INVOICE]
    void = {document.number for document in invoices if document.state is DocumentState.VOID}
    credited = {document.corrects for document in documents if document.kind is DocumentKind.CREDIT_NOTE}
    disputed = [document for document in invoices if document.number in void | credited]
    figures = {"void_invoices": Decimal(len(void)), "credited_invoices": Decimal(len(disputed) - len(void - credited))}
    note = "" if invoices else "no period is final"
    return Measurement(Indicator.DISPUTE_RATE, len(invoices) - len(disputed), len(invoices), figures, note)


def _estimated(ws: Workspace, final_periods: Sequence[str], settings: ServiceLevelSettings) -> Measurement:
    """Compare the estimate that was the middle one of the newest final period's nights with what it came to."""
    indicator = Indicator.ESTIMATE_ACCURACY
    scope = f"period={final_periods[-1]}" if final_periods else ""
    newest = ws.control_plane.publication(ESTIMATES.name, scope) if scope else None
    lines = ws.control_plane.publication(LINE_ITEMS.name, scope) if scope else None
    if newest is None or lines is None:
        return Measurement(indicator, 0, 0, {}, "no final period has estimates")
    middle = (newest.revision + 1) // 2
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(ESTIMATES.name, ESTIMATES, dataset_files(ws, ESTIMATES, scope, middle))
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, dataset_files(ws, lines))
        within = int(settings.estimate_accuracy.within_percent * 100)
        rows = warehouse.select("estimate_errors", {"within": within})
    count = sum(row["account_count"] for row in rows)
    note = "" if count else "no account had a forecast"
    return Measurement(indicator, sum(row["close_count"] for row in rows), count, {}, note)
