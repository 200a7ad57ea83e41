"""Browse: what the pages show, from an invoice down to the line of a file that an event was read from; reads only.

All of it is published or in the control plane; nothing is computed that a night has not. What a window revision made
is asked with the SQL and the inputs that it pins, so an old revision is shown as it was. Long lists come by pages: a
page begins after the last key of the one before, so the last page costs what the first one does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.adapters.accounts_table import accounts_table
from pipeline.adapters.documents import render_texts
from pipeline.adapters.invoice_page import Withdrawn, invoice_page
from pipeline.adapters.invoice_page import read_document as read_invoice
from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.check import CheckReport, Severity
from pipeline.core.credit import CreditBalance
from pipeline.core.dataset import (
    ESTIMATES,
    EXCLUDED_EVENTS,
    LINE_ITEMS,
    QUARANTINE,
    RAW_EVENTS,
    RECONCILIATION,
    USAGE,
)
from pipeline.core.errors import InputError
from pipeline.core.hold import Hold
from pipeline.core.invoice import IssuedDocument
from pipeline.core.manifest import Manifest, Receipt
from pipeline.core.outcome import EventOutcomes
from pipeline.core.reconciliation import Control, failed_controls
from pipeline.core.revision import LedgerObject, WindowRevision
from pipeline.core.window import EPOCH, parse_window, window_containing
from pipeline.steps.check import check_report
from pipeline.steps.control_totals import night_of
from pipeline.steps.deduplicate import revision_warehouse
from pipeline.steps.documents import document_bytes, find_document
from pipeline.steps.inputs import (
    ACCOUNT_FALLBACK_COLUMNS,
    ACCOUNT_REFERENCE_COLUMNS,
    account_references,
    pinned_account_rows,
    pinned_directory,
    pinned_meters,
    table_meters,
    view_raw_event_files,
)
from pipeline.steps.outcomes import published_outcomes
from pipeline.steps.publish import dataset_files, manifest_files, read_manifest
from pipeline.steps.reconcile import published_controls
from pipeline.steps.workspace import Workspace

WINDOWS_PER_PAGE = 31
ROWS_PER_PAGE = 100
ACCOUNT_COLUMNS = ("account_id", "name", "currency", "plan", "time_zone")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A line of an object of the bucket: where an event was read, and where a page of events goes on."""

    object_id: str = ""
    line_number: int = -1


@dataclass(frozen=True, slots=True)
class ShownRevision:
    """A window revision with what its gates said; ``None`` where they have not run."""

    revision: WindowRevision
    billed_event_count: int | None
    control_count: int | None
    failed: tuple[Control, ...]
    failed_check_count: int | None  # critical ones
    exception_count: int

    @property
    def verdict(self) -> str:
        """What the gates said, in words; ``reconciled`` if they all passed."""
        said = [
            f"1 {gate} failed" if count == 1 else f"{count} {gate}s failed"
            for gate, count in (("check", self.failed_check_count), ("control", len(self.failed)))
            if count
        ]
        if said:
            return ", ".join(said)
        return "not reconciled" if None in (self.control_count, self.failed_check_count) else "reconciled"

    @property
    def is_reconciled(self) -> bool:
        return self.verdict == "reconciled"


@dataclass(frozen=True, slots=True)
class WindowPage:
    """Windows, newest first, each with its newest revision; ``before`` is where the next page goes on."""

    rows: list[ShownRevision]
    before: str | None
    watermark_at: datetime | None


@dataclass(frozen=True, slots=True)
class WindowDetail:
    """A window revision with all that was published of it; ``revisions`` are all of the window, newest first."""

    shown: ShownRevision
    revisions: list[WindowRevision]
    excluded_counts: dict[str, int]
    outcomes: EventOutcomes | None
    checks: CheckReport | None
    receipts: list[Receipt]
    drafts: list[Receipt]
    exceptions: list[Any]


@dataclass(frozen=True, slots=True)
class RowPage:
    """Rows of a page, how many there are in all, and the key after which the next page begins, if there is one."""

    rows: list[Row]
    row_count: int
    after: Mapping[str, Any] | None
    totals: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccountDetail:
    """An account: its rows of ``accounts.csv``, its documents, its lines in the periods shown, and what is left."""

    account_id: str
    rows: list[Row]
    documents: list[IssuedDocument]
    amounts: list[Row]
    estimates: list[Row]
    holds: list[Hold]
    credits: list[CreditBalance]


@dataclass(frozen=True, slots=True)
class LineDetail:
    """A line item, the publication that it is of, and the rows of usage behind it, each with its window."""

    line: Row
    manifest: Manifest
    manifest_hash: str
    page: RowPage


@dataclass(frozen=True, slots=True)
class UsageDetail:
    """A row of usage, the revision that counted it, and the events behind it."""

    usage: Row
    revision: WindowRevision
    page: RowPage


@dataclass(frozen=True, slots=True)
class EventDetail:
    """A raw event, the object that it was read from, and what became of it in the newest revision of its window.

    ``exclusion`` says why it is not billed. ``counted`` has a row for each SKU that it is billed as, with the grain
    and the manifest of the usage that it is part of; ``lines`` are the newest ones which that usage is in.
    """

    event: Row
    source_object: LedgerObject
    bucket: str
    revision: WindowRevision | None
    exclusion: Row | None
    counted: list[Row]
    lines: list[Row]


# ---- windows ----


def newest_revision(ws: Workspace) -> WindowRevision | None:
    """Return the newest revision of the newest window, if there is one."""
    end = ws.control_plane.newest_window_end()
    found = [] if end is None else ws.control_plane.window_revisions(end - ws.project.settings.window.length, end)
    return max(found, key=lambda one: (one.window_start, one.revision), default=None)


def window_page(ws: Workspace, before: str | None = None) -> WindowPage:
    """Return the windows that end at or before the start of ``before``, or the newest ones."""
    length = ws.project.settings.window.length
    watermark_at = ws.control_plane.watermark_at()
    end = _window(ws, before).start if before is not None else ws.control_plane.newest_window_end()
    if end is None:
        return WindowPage([], None, watermark_at)
    start = end - WINDOWS_PER_PAGE * length
    found = ws.control_plane.window_revisions(start, end)
    newest = {revision.window_id: revision for revision in found}
    rows = [_shown(ws, revision) for revision in sorted(newest.values(), key=lambda one: one.window_start)[::-1]]
    has_more = start > ws.project.settings.window.first_window_start
    return WindowPage(rows, window_containing(start, length).window_id if has_more else None, watermark_at)


def window_detail(ws: Workspace, window_id: str, revision: int | None = None) -> WindowDetail:
    """Return a revision of a window, or the newest one."""
    revisions = revisions_of(ws, window_id)
    chosen = _chosen(revisions, window_id, revision)
    excluded = ws.control_plane.publication(EXCLUDED_EVENTS.name, chosen.scope, chosen.revision)
    receipts = [
        *(one for one in ws.control_plane.publications(chosen.scope) if one.revision == chosen.revision),
        *ws.control_plane.publications(chosen.document_scope),
    ]
    reconciled = next((one for one in receipts if one.dataset == RECONCILIATION.name), None)
    drafts = {} if reconciled is None else read_manifest(ws, reconciled.manifest_hash).pins.get("drafts", {})
    manifests = [read_manifest(ws, draft) for _, draft in sorted(drafts.items()) if draft is not None]
    return WindowDetail(
        shown=_shown(ws, chosen),
        revisions=revisions[::-1],
        excluded_counts={} if excluded is None else _excluded_counts(ws, excluded),
        outcomes=published_outcomes(ws, chosen),
        checks=check_report(ws, chosen.window_id, chosen.revision),
        receipts=receipts,
        drafts=[
            Receipt(one.dataset, one.scope, one.revision, one.manifest_hash, one.row_count, one.content_hash)
            for one in manifests
        ],
        exceptions=ws.control_plane.exceptions(window_id, chosen.revision),
    )


def revisions_of(ws: Workspace, window_id: str) -> list[WindowRevision]:
    """Return every revision of a window in order; a window that was never computed is refused."""
    window = _window(ws, window_id)
    found = ws.control_plane.window_revisions(window.start, window.end)
    revisions = [revision for revision in found if revision.window_id == window_id]
    if not revisions:
        raise _unknown(f"window {window_id} was never computed")
    return revisions


def excluded_page(ws: Workspace, window_id: str, revision: int, reason: str, after: Place) -> RowPage:
    """Return the events of a revision that are not billed for a reason."""
    chosen = _chosen(revisions_of(ws, window_id), window_id, revision)
    with Warehouse(ws.scratch) as warehouse:
        files = dataset_files(ws, EXCLUDED_EVENTS, chosen.scope, chosen.revision)
        warehouse.view_files(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS, files)
        rows = warehouse.select("excluded_page", {"reason": reason, **_after(after)})
    return _place_page(rows, "event_count_in_all")


def quarantine_page(ws: Workspace, window_id: str, revision: int, after: Place) -> RowPage:
    """Return the lines of the night of a revision that are no events."""
    night = night_of(ws, _chosen(revisions_of(ws, window_id), window_id, revision))
    ids = [known.object_id for known in ws.control_plane.objects_received(night.start, night.end)]
    manifests = ws.control_plane.collections_of(ids).get(QUARANTINE.name, [])
    files = [file for manifest_hash in manifests for file in manifest_files(ws, manifest_hash)]
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(QUARANTINE.name, QUARANTINE, files)
        warehouse.keep_rows(QUARANTINE.name, "object_id", ids)
        rows = warehouse.select("quarantine_page", _after(after))
    return _place_page(rows, "line_count_in_all")


def _window(ws: Workspace, window_id: str) -> Any:
    try:
        return parse_window(window_id, ws.project.settings.window.length)
    except ValueError as error:
        raise _unknown(str(error)) from None


def _chosen(revisions: Sequence[WindowRevision], window_id: str, revision: int | None) -> WindowRevision:
    if revision is None:
        return revisions[-1]
    for one in revisions:
        if one.revision == revision:
            return one
    raise _unknown(f"window {window_id} has no revision {revision}")


def _shown(ws: Workspace, revision: WindowRevision) -> ShownRevision:
    outcomes = published_outcomes(ws, revision)
    reconciled = ws.control_plane.publication(RECONCILIATION.name, revision.scope, revision.revision)
    control_count, failed = (None, ()) if reconciled is None else _verdict(ws, reconciled)
    checks = check_report(ws, revision.window_id, revision.revision)
    return ShownRevision(
        revision,
        None if outcomes is None else outcomes.billed_event_count,
        control_count,
        failed,
        None if checks is None else len(checks.failed(Severity.CRITICAL)),
        len(ws.control_plane.exceptions(revision.window_id, revision.revision)),
    )


_VERDICTS: dict[str, tuple[int, tuple[Control, ...]]] = {}  # by manifest, which never changes
_VERDICTS_KEPT = 10_000


def _verdict(ws: Workspace, reconciled: Receipt) -> tuple[int, tuple[Control, ...]]:
    if reconciled.manifest_hash not in _VERDICTS:
        controls = published_controls(ws, reconciled)
        if len(_VERDICTS) >= _VERDICTS_KEPT:
            _VERDICTS.clear()
        _VERDICTS[reconciled.manifest_hash] = len(controls), tuple(failed_controls(controls))
    return _VERDICTS[reconciled.manifest_hash]


def _excluded_counts(ws: Workspace, excluded: Receipt) -> dict[str, int]:
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS, dataset_files(ws, excluded))
        return {row["reason"]: row["event_count"] for row in warehouse.select("exclusion_counts", {})}


# ---- accounts ----


def account_page(ws: Workspace, after: str = "", search: str = "") -> RowPage:
    """Return accounts in order of id, those whose id or name holds the text of ``search``, whatever its case."""
    accounts = _accounts(ws.project.files["accounts.csv"])
    found = accounts
    if search:
        matches = [pc.match_substring(accounts[column], search, ignore_case=True) for column in ("account_id", "name")]
        found = accounts.filter(pc.or_(*matches))
    rest = found.filter(pc.greater(found["account_id"], pa.scalar(after))) if after else found
    rows = rest.slice(0, ROWS_PER_PAGE).to_pylist()
    next_key = {"after": rows[-1]["account_id"]} if rest.num_rows > ROWS_PER_PAGE else None
    periods = billed_periods(ws)
    if rows and periods:
        amounts = _amounts(ws, periods[-1], [row["account_id"] for row in rows])
        for row in rows:
            row["amounts"] = amounts.get(row["account_id"], [])
    return RowPage(rows, found.num_rows, next_key, {"period": periods[-1] if periods else None})


def account_detail(ws: Workspace, account_id: str) -> AccountDetail:
    """Return an account with everything that was billed to it; one that neither file nor document has is refused."""
    rows = [row for row in _account_rows(ws, account_id) if row["account_id"] == account_id]
    documents = ws.control_plane.documents(account_id=account_id)
    if not rows and not documents:
        raise _unknown(f"there is no account {account_id}")
    amounts = [
        {"period_id": period_id, **one}
        for period_id in billed_periods(ws)[::-1]
        for one in _amounts(ws, period_id, [account_id]).get(account_id, [])
    ]
    return AccountDetail(
        account_id,
        rows,
        documents[::-1],
        amounts,
        account_estimates(ws, account_id, None),
        [hold for hold in ws.control_plane.holds() if hold.account_id == account_id],
        ws.control_plane.credit_balances(account_id),
    )


def billed_periods(ws: Workspace) -> list[str]:
    """Return, in order, the periods that have line items."""
    return [scope.removeprefix("period=") for scope in ws.control_plane.published_scopes(LINE_ITEMS.name)]


def account_lines(ws: Workspace, account_id: str, period_id: str) -> tuple[Receipt, list[Row]]:
    """Return the newest line items of an account in a period, in their order, and the publication they are of."""
    receipt = ws.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
    if receipt is None:
        raise _unknown(f"period {period_id} has no line items")
    return receipt, _lines_of(ws, receipt.manifest_hash, account_id)


def account_estimates(ws: Workspace, account_id: str, period_id: str | None) -> list[Row]:
    """Return the newest estimates of an account: of a period, or of the latest one that has any; maybe none."""
    scopes = ws.control_plane.published_scopes(ESTIMATES.name) if period_id is None else [f"period={period_id}"]
    receipt = ws.control_plane.publication(ESTIMATES.name, scopes[-1]) if scopes else None
    return [] if receipt is None else _estimates_of(ws, receipt, [account_id])


def estimate_page(ws: Workspace, after: str = "") -> RowPage:
    """Return the estimates of the latest period that has any, by account."""
    scopes = ws.control_plane.published_scopes(ESTIMATES.name)
    receipt = ws.control_plane.publication(ESTIMATES.name, scopes[-1]) if scopes else None
    if receipt is None:
        return RowPage([], 0, None, {"period": None})
    account_ids = _accounts(ws.project.files["accounts.csv"])["account_id"]
    rest = account_ids.filter(pc.greater(account_ids, pa.scalar(after))) if after else account_ids
    shown = [str(account_id) for account_id in rest.slice(0, ROWS_PER_PAGE).to_pylist()]
    next_key = {"after": shown[-1]} if len(rest) > ROWS_PER_PAGE else None
    rows = _estimates_of(ws, receipt, shown) if shown else []
    return RowPage(rows, receipt.row_count, next_key, {"period": receipt.scope.removeprefix("period=")})


@lru_cache(maxsize=2)
def _accounts(accounts_csv: bytes) -> pa.Table:
    """Return each account once, in order of id, with its last row of ``accounts.csv``."""
    table = accounts_table(accounts_csv)
    cells = pa.Table.from_pylist(pinned_account_rows(accounts_csv)) if table is None else table.cells
    cells = cells.select(list(ACCOUNT_COLUMNS)).append_column("row_number", pa.array(range(cells.num_rows)))
    ordered = cells.sort_by([("account_id", "ascending"), ("row_number", "ascending")])
    ids = ordered["account_id"].combine_chunks()
    is_last = pa.concat_arrays([pc.not_equal(ids[:-1], ids[1:]), pa.array([True])]) if len(ids) else pa.array([])
    return ordered.filter(is_last).select(list(ACCOUNT_COLUMNS)).combine_chunks()


def _account_rows(ws: Workspace, account_id: str) -> list[Row]:
    content = ws.project.files["accounts.csv"]
    table = accounts_table(content)
    if table is None:
        return list(pinned_account_rows(content))
    found: list[Row] = table.cells.filter(pc.equal(table.cells["account_id"], pa.scalar(account_id))).to_pylist()
    return found


def _amounts(ws: Workspace, period_id: str, account_ids: Sequence[str]) -> dict[str, list[Row]]:
    receipt = ws.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
    amounts: dict[str, list[Row]] = {}
    if receipt is None:
        return amounts
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, dataset_files(ws, receipt))
        warehouse.keep_rows(LINE_ITEMS.name, "account_id", account_ids)
        for row in warehouse.select("account_amounts", {}):
            amounts.setdefault(row["account_id"], []).append(row)
    return amounts


def _estimates_of(ws: Workspace, receipt: Receipt, account_ids: Sequence[str]) -> list[Row]:
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(ESTIMATES.name, ESTIMATES, dataset_files(ws, receipt))
        warehouse.keep_rows(ESTIMATES.name, "account_id", account_ids)
        rows = [dict(zip(ESTIMATES.column_names, row, strict=True)) for row in warehouse.rows(ESTIMATES.name)]
    return sorted(rows, key=lambda row: (row["account_id"], row["currency"]))


def _lines_of(ws: Workspace, manifest_hash: str, account_id: str) -> list[Row]:
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, manifest_files(ws, manifest_hash))
        warehouse.keep_rows(LINE_ITEMS.name, "account_id", [account_id])
        rows = [dict(zip(LINE_ITEMS.column_names, row, strict=True)) for row in warehouse.rows(LINE_ITEMS.name)]
    return sorted(rows, key=lambda row: tuple(row[column] for column in LINE_ITEMS.key))


# ---- documents ----


def document_detail(ws: Workspace, number: str) -> tuple[IssuedDocument, dict[str, Any]]:
    """Return a document and what it says, its bytes verified."""
    document = find_document(ws, number)
    return document, json.loads(document_bytes(ws, document))


def document_html(ws: Workspace, number: str) -> str:
    """Return the page of a document as the customer gets it, made from its verified bytes."""
    document, content = document_detail(ws, number)
    void = None
    if document.voided_at is not None:
        zone = ZoneInfo(content["period"]["time_zone"])
        void = Withdrawn(document.voided_at.astimezone(zone).date(), document.void_reason or "")
    return render_texts("invoice.html", invoice_page(read_invoice(document_bytes(ws, document)), void))


# ---- from a line to its events, and back ----


def line_detail(
    ws: Workspace, manifest_hash: str, line_item_id: str, after: tuple[datetime, str] | None = None
) -> LineDetail:
    """Return a line of published line items with the usage behind it, from after a grain and dimensions on."""
    manifest = _manifest(ws, manifest_hash, LINE_ITEMS.name)
    account_id = line_item_id.partition("/")[0]
    lines = _lines_of(ws, manifest_hash, account_id)
    line = next((line for line in lines if line["line_item_id"] == line_item_id), None)
    if line is None:
        raise _unknown(f"revision {manifest.revision} of {manifest.scope} has no line {line_item_id}")
    length = ws.project.settings.window.length
    start, end = line["service_period_start"], line["service_period_end"]
    usage = {
        window_id: usage_hash
        for window_id, usage_hash in manifest.pins["usage"].items()
        if (window := parse_window(window_id, length)).start < end and window.end > start
    }
    with Warehouse(ws.scratch) as warehouse:
        files = [file for usage_hash in usage.values() for file in manifest_files(ws, usage_hash)]
        warehouse.view_files(USAGE.name, USAGE, files)
        rows = warehouse.select(
            "behind_line",
            {
                "account_id": account_id,
                "sku": line["sku"],
                "service_start": start,
                "service_end": end,
                "after_grain": after[0] if after else EPOCH,
                "after_dimensions": after[1] if after else "",
                "row_count": ROWS_PER_PAGE,
            },
        )
    for row in rows:
        row["window_id"] = window_containing(row["grain_start"], length).window_id
        row["usage_manifest"] = usage[row["window_id"]]
    totals = {name: rows[0][f"{name}_in_all"] if rows else 0 for name in ("row_count", "event_count", "value_sum")}
    last = rows[-1] if len(rows) == ROWS_PER_PAGE else None
    next_key = (
        {"after_grain": last["grain_start"].isoformat(), "after_dimensions": last["dimensions"]} if last else None
    )
    return LineDetail(line, manifest, manifest_hash, RowPage(rows, totals["row_count"], next_key, totals))


def usage_detail(
    ws: Workspace, manifest_hash: str, account_id: str, sku: str, dimensions: str, grain_start: datetime, after: Place
) -> UsageDetail:
    """Return a row of published usage with the events behind it."""
    manifest = _manifest(ws, manifest_hash, USAGE.name)
    window_id = manifest.scope.removeprefix("window=")
    revision = _chosen(revisions_of(ws, window_id), window_id, manifest.revision)
    grain = timedelta(seconds=revision.pins["grain_seconds"])
    with revision_warehouse(ws, revision, {name: sql_text(name) for name in ("behind_line", "behind_usage")}) as opened:
        opened.view_files(USAGE.name, USAGE, manifest_files(ws, manifest_hash))
        rows = opened.select(
            "behind_line",
            {
                "account_id": account_id,
                "sku": sku,
                "service_start": grain_start,
                "service_end": grain_start + grain,
                "after_grain": EPOCH,
                "after_dimensions": "",
                "row_count": 1_000_000,
            },
        )
        usage = next((row for row in rows if row["dimensions"] == dimensions), None)
        if usage is None:
            raise _unknown(f"{manifest.scope} has no usage of {sku} for {account_id} at {grain_start.isoformat()}")
        _view_billed_events(opened, ws, revision, _subjects_of(ws, revision, account_id), grain_start, grain)
        events = opened.select(
            "behind_usage",
            {
                "account_id": account_id,
                "sku": sku,
                "dimensions": dimensions,
                "grain_start": grain_start,
                "grain_end": grain_start + grain,
                **_after(after),
            },
        )
    page = _place_page(events, "event_count_in_all")
    total = {"quantity": events[0]["quantity_in_all"] if events else 0}
    shown = {"account_id": account_id, "sku": sku, **usage}
    return UsageDetail(shown, revision, RowPage(page.rows, page.row_count, page.after, total))


def event_detail(ws: Workspace, place: Place) -> EventDetail:
    """Return the event of a line of an object, and what became of it; a line that is no event is refused."""
    known = ws.control_plane.ledger([place.object_id])
    manifests = ws.control_plane.collections_of([place.object_id]).get(RAW_EVENTS.name, []) if known else []
    at_place = {"object_id": place.object_id, "line_number": place.line_number}
    with Warehouse(ws.scratch) as warehouse:
        files = [file for manifest_hash in manifests for file in manifest_files(ws, manifest_hash)]
        warehouse.view_files(RAW_EVENTS.name, RAW_EVENTS, files)
        events = warehouse.select("event_at_place", at_place)
    if not events:
        raise _unknown(f"line {place.line_number} of {place.object_id} is no event that was collected")
    event, bucket = events[0], ws.project.settings.raw.bucket
    window = window_containing(event["event_at"], ws.project.settings.window.length)
    found = ws.control_plane.window_revisions(window.start, window.end)
    computed = [one for one in found if ws.control_plane.publication(USAGE.name, one.scope, one.revision) is not None]
    if not computed:
        return EventDetail(event, known[0], bucket, None, None, [], [])
    revision = computed[-1]
    usage = ws.control_plane.publication(USAGE.name, revision.scope, revision.revision)
    grain = timedelta(seconds=revision.pins["grain_seconds"])
    grain_start = EPOCH + (event["event_at"] - EPOCH) // grain * grain
    with revision_warehouse(ws, revision, {"exclusion_at_place": sql_text("exclusion_at_place")}) as opened:
        _view_billed_events(opened, ws, revision, [event["subject"]], grain_start, grain)
        exclusions = opened.select("exclusion_at_place", at_place)
        opened.keep_rows("metered_events", "id", [event["id"]])
        counted = [
            {**row, "grain_start": grain_start, "usage_manifest": None if usage is None else usage.manifest_hash}
            for row in opened.select("event_quantities", {})
            if (row["object_id"], row["line_number"]) == (place.object_id, place.line_number)
        ]
    exclusion = exclusions[0] if exclusions else None
    return EventDetail(event, known[0], bucket, revision, exclusion, counted, _lines_with(ws, counted))


def _lines_with(ws: Workspace, counted: Sequence[Row]) -> list[Row]:
    """Return the newest lines that rest on rows of usage: of the account and the SKU, with the grain in their span."""
    grains = {(row["account_id"], row["sku"]): row["grain_start"] for row in counted}
    near = {(grain + timedelta(days=days)).strftime("%Y-%m") for grain in grains.values() for days in (-1, 1)}
    lines = []
    for period_id in sorted(near.intersection(billed_periods(ws))):
        for account_id in sorted({account_id for account_id, _ in grains}):
            receipt, found = account_lines(ws, account_id, period_id)
            for line in found:
                grain = grains.get((account_id, line["sku"]))
                if grain is not None and line["service_period_start"] <= grain < line["service_period_end"]:
                    lines.append({**line, "manifest": receipt.manifest_hash})
    return lines


def _view_billed_events(
    warehouse: Warehouse,
    ws: Workspace,
    revision: WindowRevision,
    subjects: Sequence[str] | None,
    grain_start: datetime,
    grain: timedelta,
) -> None:
    """Name the billed events of a grain and what they add ``metered_events`` and ``event_quantities``.

    Only events of some subjects are looked at, and their owners looked up; of all where nobody's subjects may count.
    """
    view_raw_event_files(warehouse, ws, revision.pins["raw_event_files"])
    if subjects is not None:
        warehouse.keep_rows(RAW_EVENTS.name, "subject", subjects)
    excluded = dataset_files(ws, EXCLUDED_EVENTS, revision.scope, revision.revision)
    warehouse.view_files(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS, excluded)
    references = _references(ws, revision.pins["accounts.csv"])
    if subjects is not None:
        references = references.filter(pc.is_in(references["reference"], pa.array(sorted(set(subjects)), pa.string())))
    warehouse.table_arrow("account_references", ACCOUNT_REFERENCE_COLUMNS, references)
    warehouse.table_rows("account_fallbacks", ACCOUNT_FALLBACK_COLUMNS, revision.pins.get("account_fallbacks", []))
    bounds = {"window_start": grain_start, "window_end": grain_start + grain}
    warehouse.view("usage_events", bounds, "metered_events")
    table_meters(warehouse, pinned_meters(ws, revision))
    warehouse.view("event_quantities", {})


def _subjects_of(ws: Workspace, revision: WindowRevision, account_id: str) -> list[str] | None:
    """Return the subjects that an account owned at some time; None if it is billed for those that nobody owns."""
    if any(fallback == account_id for _, fallback in revision.pins.get("account_fallbacks", [])):
        return None
    references = _references(ws, revision.pins["accounts.csv"])
    owned = references.filter(pc.equal(references["account_id"], pa.scalar(account_id)))["reference"]
    return sorted({str(subject) for subject in owned.to_pylist()})


def _references(ws: Workspace, pin: str) -> pa.Table:
    content = ws.lake.get_bytes(f"pins/{pin}")
    if (table := accounts_table(content)) is not None:
        return table.references
    columns = list(zip(*account_references(pinned_directory(ws, pin)), strict=True)) or [(), (), (), ()]
    types = (pa.string(), pa.string(), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC"))
    arrays = [pa.array(column, column_type) for column, column_type in zip(columns, types, strict=True)]
    return pa.table(arrays, [name for name, _ in ACCOUNT_REFERENCE_COLUMNS])


def _manifest(ws: Workspace, manifest_hash: str, dataset: str) -> Manifest:
    manifest = read_manifest(ws, manifest_hash)
    if manifest.dataset != dataset:
        raise _unknown(f"{manifest_hash} is a publication of {manifest.dataset}, not of {dataset}")
    return manifest


def _after(place: Place) -> dict[str, Any]:
    return {"after_object": place.object_id, "after_line": place.line_number, "row_count": ROWS_PER_PAGE}


def _place_page(rows: list[Row], count: str) -> RowPage:
    last = rows[-1] if len(rows) == ROWS_PER_PAGE else None
    next_key = {"after_object": last["object_id"], "after_line": last["line_number"]} if last else None
    return RowPage(rows, rows[0][count] if rows else 0, next_key)


def _unknown(summary: str) -> InputError:
    return InputError("browse.unknown", summary, ["nothing of that name was published; go back and choose from a list"])
