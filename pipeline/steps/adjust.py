"""Adjust: usage that is known after a period became final is settled by documents of their own (P5).

The whole period is rated again from the newest accepted revision of each window, at the prices and for the accounts
that it was closed with. What an account comes to by now, minus what its documents billed, line by line, becomes an
adjustment or, where less is owed, a credit note; nothing that was issued changes. An account that had nothing to bill
before gets its first invoice. The same usage again adjusts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.adjustment import Adjustment, adjustments
from pipeline.core.dataset import LINE_ITEMS, RECONCILIATION, USAGE, USAGE_EVENTS
from pipeline.core.errors import InputError
from pipeline.core.invoice import (
    AdjustmentCause,
    DocumentKind,
    InvoiceEvidence,
    IssuedDocument,
    PreparedDocument,
    prepare_document,
)
from pipeline.core.line_item import LineItem
from pipeline.core.manifest import Receipt
from pipeline.core.money import exact
from pipeline.core.reconciliation import InvoicedAccount, adjustment_controls, require_reconciled
from pipeline.core.revision import WindowRevision
from pipeline.core.window import billing_period
from pipeline.steps.aggregate import find_revision
from pipeline.steps.check import check_period
from pipeline.steps.diff import CHANGED_ACCOUNTS
from pipeline.steps.documents import billed_lines, store_documents
from pipeline.steps.drafts import document_evidence
from pipeline.steps.inputs import view_usage_events
from pipeline.steps.pinned import pin_sql, pinned_price_books, pinned_sql
from pipeline.steps.publish import manifest_files, publish_next, read_manifest
from pipeline.steps.rate import RatedPeriod, line_items_in, publish_draft, rated_period
from pipeline.steps.reconcile import write_controls
from pipeline.steps.render import render_documents
from pipeline.steps.workspace import Workspace

ADJUST_QUERIES = ("changed_lines", "changed_events")
ADJUSTED = "adjusted"  # the line items of a final period as they were rated last: scope period=2026-01/adjusted
EVENTS_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True)
class AdjustedAccount:
    """What an account is owed or owes more, net and with taxes; ``number`` is None in a dry run."""

    account_id: str
    kind: DocumentKind
    currency: str
    subtotal: Decimal
    total: Decimal
    line_count: int
    number: str | None


@dataclass(frozen=True, slots=True)
class AdjustResult:
    """The documents that settle what changed, in order of account, and the accounts that are held, with the reason."""

    period_id: str
    accounts: tuple[AdjustedAccount, ...]
    held: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Account:
    """An account whose lines changed: what was billed, what it comes to, and the differences."""

    account_id: str
    billed: Sequence[LineItem]
    rated: Sequence[LineItem]
    adjustments: Sequence[Adjustment]
    invoice: IssuedDocument | None
    document_count: int


def adjust(workspace: Workspace, period_id: str, at: datetime, *, dry_run: bool = False) -> AdjustResult:
    """Issue what settles a final period by now; a dry run says what that would be, and keeps nothing.

    An account that is held, or that waits for its invoice since it was released or its invoice voided, is left out. A
    control that fails raises, and no number is taken.
    """
    control_plane = workspace.control_plane
    closed = _closed(workspace, period_id)
    control_plane.verify_audit_log()
    with rated_period(workspace, period_id, candidate=None) as rated, scratch_folder(workspace.scratch, "adjust") as to:
        changed = list(_changed_accounts(workspace, period_id, closed, rated))
        causes = _causes(workspace, period_id, {one.account_id for one in changed}, to)
        if dry_run or not changed:
            evidence = InvoiceEvidence("", "")
            prepared = _documents(workspace, period_id, changed, causes, rated.pins, evidence, at)
            return _result(workspace, period_id, changed, prepared, {})
        line_items = publish_draft(workspace, rated, at, f"period={period_id}/{ADJUSTED}")
        check_period(workspace, line_items, at)
        _reconcile(workspace, period_id, changed, line_items, to, at)
        evidence = document_evidence(workspace, line_items.manifest_hash, rated.pins)
        prepared = _documents(workspace, period_id, changed, causes, rated.pins, evidence, at)
    seller = workspace.project.settings.seller
    before = {document.number for document in control_plane.documents(period_id)}
    control_plane.issue_documents(
        period_id,
        seller.number_series,
        prepared,
        store_documents(workspace),
        at,
        seller.credit_note_series,
        {one.account_id: one.document_count for one in changed},
    )
    documents = control_plane.documents(period_id)
    render_documents(workspace, documents, workspace.project.settings.documents.formats)
    issued = {one.account_id: one for one in documents if one.number not in before}
    return _result(workspace, period_id, changed, prepared, issued)


def unsettled_periods(workspace: Workspace, before: str) -> list[str]:
    """Return, in order, the final periods before one that have usage by now which their documents do not rest on."""
    final = sorted(period_id for period_id in workspace.control_plane.final_periods() if period_id < before)
    return [period_id for period_id in final if _changed_windows(workspace, _settled(workspace, period_id))]


def _closed(workspace: Workspace, period_id: str) -> Receipt:
    control_plane = workspace.control_plane
    closed = control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
    if closed is None or control_plane.period_state(period_id) != "final":
        raise InputError(
            "adjust.period_is_open",
            f"period {period_id} is not final, so its invoices are not made yet",
            ["usage that comes late is in its draft; close the period first: billing close"],
        )
    return closed


def _settled(workspace: Workspace, period_id: str) -> Mapping[str, str]:
    """Return the usage manifest of each window that the documents of a final period rest on."""
    adjusted = workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}/{ADJUSTED}")
    newest = adjusted or _closed(workspace, period_id)
    settled: Mapping[str, str] = read_manifest(workspace, newest.manifest_hash).pins["usage"]
    return settled


def _changed_windows(workspace: Workspace, settled: Mapping[str, str]) -> list[tuple[WindowRevision, WindowRevision]]:
    """Return the windows whose accepted revision has other usage than the settled one, as (settled, accepted)."""
    control_plane = workspace.control_plane
    accepted = control_plane.accepted_revisions()
    changed = []
    for window_id, manifest in sorted(settled.items()):
        newest = accepted[window_id]
        usage = control_plane.publication(USAGE.name, newest.scope, newest.revision)
        if usage is not None and usage.manifest_hash != manifest:
            number = read_manifest(workspace, manifest).revision
            changed.append((find_revision(workspace, window_id, number), newest))
    return changed


def _changed_accounts(workspace: Workspace, period_id: str, closed: Receipt, rated: RatedPeriod) -> Iterator[_Account]:
    """Yield, in order, each account whose documents do not bill what it comes to, but for held and waiting ones."""
    control_plane = workspace.control_plane
    documents: dict[str, list[IssuedDocument]] = {}
    for document in control_plane.documents(period_id):
        documents.setdefault(document.account_id, []).append(document)
    with Warehouse(workspace.scratch) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, rated.files)
        warehouse.view_files("other_line_items", LINE_ITEMS, manifest_files(workspace, closed.manifest_hash))
        candidates = {row["account_id"] for row in warehouse.select("changed_lines", {})}
        candidates |= {
            account_id
            for account_id, own in documents.items()
            if any(document.kind is not DocumentKind.INVOICE for document in own)
        }
        candidates -= {*control_plane.held_accounts(period_id), *control_plane.accounts_to_invoice(period_id)}
        warehouse.keep_rows(LINE_ITEMS.name, "account_id", candidates)
        lines: dict[str, list[LineItem]] = {}
        for line in line_items_in(warehouse):
            lines.setdefault(line.account_id, []).append(line)
    for account_id in sorted(candidates):
        own = documents.get(account_id, [])
        billed = billed_lines(workspace, period_id, account_id)
        found = adjustments(billed, lines.get(account_id, []), len(own) + 1)
        if found:
            owed = (one for one in own if one.kind is DocumentKind.INVOICE and one.voided_at is None)
            yield _Account(account_id, billed, lines.get(account_id, []), found, next(owed, None), len(own))


def _causes(
    workspace: Workspace, period_id: str, accounts: Collection[str], folder: Path
) -> dict[str, list[AdjustmentCause]]:
    """Return, for each account, the windows that are counted otherwise by now, and its events that are behind it."""
    causes: dict[str, list[AdjustmentCause]] = {}
    for settled, accepted in _changed_windows(workspace, _settled(workspace, period_id)) if accounts else ():
        files = {}
        for name, revision in (("from_usage_events", settled), ("to_usage_events", accepted)):
            with Warehouse(workspace.scratch, sql=pinned_sql(workspace, revision.pins["sql"])) as warehouse:
                view_usage_events(warehouse, workspace, revision)
                to = folder / f"{name}-{revision.window_id.replace(':', '')}.parquet"
                files[name] = warehouse.write_table(
                    USAGE_EVENTS.name, to, USAGE_EVENTS, ("account_id", sorted(accounts))
                )
        with Warehouse(workspace.scratch) as warehouse:
            for name, file in files.items():
                warehouse.view_files(name, USAGE_EVENTS, [file])
            warehouse.table_rows("changed_accounts", CHANGED_ACCOUNTS, [(one,) for one in sorted(accounts)])
            events: dict[str, list[dict[str, str | int]]] = {}
            for row in warehouse.select("changed_events", {}):
                event = {**row, "event_at": row["event_at"].isoformat()}
                events.setdefault(event.pop("account_id"), []).append(event)
        for account_id, own in events.items():
            cause = AdjustmentCause(
                accepted.window_id, settled.revision, accepted.revision, len(own), own[:EVENTS_SHOWN_MAX]
            )
            causes.setdefault(account_id, []).append(cause)
    return causes


def _documents(
    workspace: Workspace,
    period_id: str,
    changed: Sequence[_Account],
    causes: Mapping[str, Sequence[AdjustmentCause]],
    pins: Mapping[str, Any],
    evidence: InvoiceEvidence,
    at: datetime,
) -> list[PreparedDocument]:
    """Return the document that settles each account: its first invoice, or what changes the one it has."""
    accounts = workspace.project.directory.accounts()
    books = {priced.version: priced for priced in pinned_price_books(workspace, pins["price_books"])}
    taxes, seller = workspace.project.taxes, workspace.project.settings.seller
    documents = []
    for one in changed:
        account = accounts[one.account_id]
        period = billing_period(period_id, account.time_zone)
        issued_on = at.astimezone(ZoneInfo(account.time_zone)).date()
        lines = [adjustment.line for adjustment in one.adjustments]
        subtotal = sum((line.amount for line in lines), Decimal(0))
        kind = DocumentKind.CREDIT_NOTE if subtotal < 0 else DocumentKind.ADJUSTMENT
        documents.append(
            prepare_document(
                one.rated if one.invoice is None else lines,
                account,
                seller,
                period,
                books,
                issued_on,
                evidence,
                taxes,
                kind=DocumentKind.INVOICE if one.invoice is None else kind,
                corrects=None if one.invoice is None else one.invoice.number,
                corrected_line_ids={}
                if one.invoice is None
                else {a.line.line_item_id: a.corrects_line_item_id for a in one.adjustments},
                causes=causes.get(one.account_id, ()),
            )
        )
    return documents


def _reconcile(
    workspace: Workspace, period_id: str, changed: Sequence[_Account], line_items: Receipt, folder: Path, at: datetime
) -> None:
    """Publish that each account's documents will bill what it comes to; a difference raises."""
    settled = []
    for one in changed:
        with exact():
            rated = sum((line.amount for line in one.rated), Decimal(0))
            billed = sum((line.amount for line in one.billed), Decimal(0))
            owed = billed + sum((adjustment.line.amount for adjustment in one.adjustments), Decimal(0))
        settled.append(InvoicedAccount(one.account_id, one.adjustments[0].line.currency, rated, owed))
    controls = adjustment_controls(settled)
    pins = {"line_items": line_items.manifest_hash, "sql": pin_sql(workspace, ADJUST_QUERIES)}
    scope = f"period={period_id}/{ADJUSTED}"
    publish_next(workspace, RECONCILIATION, scope, [write_controls(workspace, controls, folder)], pins, at)
    require_reconciled(controls, f"period {period_id}, adjusted")


def _result(
    workspace: Workspace,
    period_id: str,
    changed: Sequence[_Account],
    prepared: Sequence[PreparedDocument],
    issued: Mapping[str, IssuedDocument],
) -> AdjustResult:
    accounts = tuple(
        AdjustedAccount(
            document.account_id,
            document.kind,
            document.currency,
            document.subtotal,
            document.total,
            len(one.adjustments),
            issued[document.account_id].number if document.account_id in issued else None,
        )
        for one, document in zip(changed, prepared, strict=True)
    )
    return AdjustResult(period_id, accounts, workspace.control_plane.held_accounts(period_id))
