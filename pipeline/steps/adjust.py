"""Adjust: usage that is known after a period became final is settled by documents of their own (P5).

The whole period is rated again from the newest accepted revision of each window, at the prices and for the accounts
that it was closed with. What an account comes to by now, minus what its documents billed, line by line, becomes an
adjustment or, where less is owed, a credit note; nothing that was issued changes. An account that had nothing to bill
before gets its first invoice. The same usage again adjusts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

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
    issue_date,
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
from pipeline.steps.drafts import document_accounts, document_evidence
from pipeline.steps.inputs import view_usage_events
from pipeline.steps.pinned import pin_sql, pinned_price_books, pinned_seller, pinned_sql, pinned_taxes
from pipeline.steps.publish import manifest_files, publish_document, publish_next, read_document, read_manifest
from pipeline.steps.rate import RatedPeriod, line_items_in, publish_draft, rated_period
from pipeline.steps.reconcile import write_controls
from pipeline.steps.render import render_documents
from pipeline.steps.workspace import Workspace

ADJUST_QUERIES = ("changed_lines", "changed_events", "account_amounts")
ADJUSTED = "adjusted"  # the line items of a final period as they were rated last: scope period=2026-01/adjusted
SETTLEMENTS = "settlements"  # what a final period was settled with last
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
    """The documents that settle what changed, in order of account, and the accounts that are held, with the reason.

    ``waiting`` are those that close owes an invoice, because they were released or theirs was voided.
    """

    period_id: str
    accounts: tuple[AdjustedAccount, ...]
    held: Mapping[str, str]
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Account:
    """An account whose lines changed: what it comes to, the differences, and the rating that it was billed by last."""

    account_id: str
    rated: Sequence[LineItem]
    adjustments: Sequence[Adjustment]
    invoice: IssuedDocument | None
    line_items_manifest: str
    document_count: int


def adjust(workspace: Workspace, period_id: str, at: datetime, *, dry_run: bool = False) -> AdjustResult:
    """Issue what settles a final period by now; a dry run says what that would be, and keeps nothing.

    An account that is held, or that waits for its invoice since it was released or its invoice voided, is left out. A
    control that fails raises, and no number is taken.
    """
    control_plane = workspace.control_plane
    closed = _closed(workspace, period_id)
    control_plane.verify_audit_log()
    known = control_plane.documents(period_id)
    with rated_period(workspace, period_id, candidate=None) as rated, scratch_folder(workspace.scratch, "adjust") as to:
        waiting = control_plane.accounts_to_invoice(period_id)
        not_settled = {*control_plane.held_accounts(period_id), *rated.agreement.accounts, *waiting}
        found = list(_changed_accounts(workspace, period_id, closed, rated, known))
        changed = [one for one in found if one.account_id not in not_settled]
        causes = _causes(workspace, changed, to)
        if dry_run:
            prepared = _documents(workspace, period_id, changed, causes, rated.pins, InvoiceEvidence("", ""), at)
            return _result(workspace, period_id, found, prepared, {})
        line_items = publish_draft(workspace, rated, at, f"period={period_id}/{ADJUSTED}")
        check_period(workspace, line_items, at)
        evidence = document_evidence(line_items.manifest_hash, rated.pins)
        prepared = _documents(workspace, period_id, changed, causes, rated.pins, evidence, at)
        _reconcile(workspace, period_id, line_items, [*known, *prepared], not_settled, to, at)
    seller = pinned_seller(workspace, rated.pins["seller"])
    if prepared:
        control_plane.issue_documents(
            period_id,
            seller.number_series,
            prepared,
            store_documents(workspace),
            at,
            seller.credit_note_series,
            {one.account_id: one.document_count for one in changed},
        )
    before = {document.number for document in known}
    documents = control_plane.documents(period_id)
    issued = {one.account_id: one for one in documents if one.number not in before}
    left_out = sorted(one.account_id for one in found if one.account_id not in issued)
    settlement = {"left_out": left_out, "usage": dict(rated.pins["usage"]), "void": _void_numbers(known)}
    publish_document(workspace, SETTLEMENTS, f"period={period_id}", settlement, {}, at)
    render_documents(workspace, documents, workspace.project.settings.documents.formats)
    return _result(workspace, period_id, found, prepared, issued)


def unsettled_periods(workspace: Workspace, before: str) -> list[str]:
    """Return, in order, the final periods before one that may come to something else than their documents bill."""
    final = sorted(period_id for period_id in workspace.control_plane.final_periods() if period_id < before)
    return [period_id for period_id in final if is_unsettled(workspace, period_id)]


def is_unsettled(workspace: Workspace, period_id: str) -> bool:
    """Tell whether a final period has something to settle since it was settled last, or closed.

    That is usage, an account that was left out and is held no more, or a document that was voided; what waits for its
    invoice is not settled, but invoiced.
    """
    control_plane = workspace.control_plane
    settlement = _settlement(workspace, period_id)
    waiting = {*control_plane.held_accounts(period_id), *control_plane.accounts_to_invoice(period_id)}
    return (
        not waiting.issuperset(settlement["left_out"])
        or _void_numbers(control_plane.documents(period_id)) != settlement["void"]
        or bool(_changed_windows(workspace, settlement["usage"]))
    )


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


def _settlement(workspace: Workspace, period_id: str) -> Mapping[str, Any]:
    """Return what a final period was settled with last: the usage by window, who was left out, and what was void."""
    settled = workspace.control_plane.publication(SETTLEMENTS, f"period={period_id}")
    if settled is None:
        usage = read_manifest(workspace, _closed(workspace, period_id).manifest_hash).pins["usage"]
        return {"left_out": [], "usage": usage, "void": []}
    content: Mapping[str, Any] = read_document(workspace, settled.manifest_hash)
    return content


def _void_numbers(documents: Iterable[IssuedDocument]) -> list[str]:
    """Return the numbers of what settled something and does no more; a void invoice is issued again by close."""
    return [one.number for one in documents if one.voided_at is not None and one.kind is not DocumentKind.INVOICE]


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


def _changed_accounts(
    workspace: Workspace, period_id: str, closed: Receipt, rated: RatedPeriod, known: Sequence[IssuedDocument]
) -> Iterator[_Account]:
    """Yield, in order, each account whose documents do not bill what it comes to.

    Most accounts have one invoice, of the close, so that the line items of the close are what it bills. Of all others
    the documents are read.
    """
    documents: dict[str, list[IssuedDocument]] = {}
    for document in known:
        documents.setdefault(document.account_id, []).append(document)
    with Warehouse(workspace.scratch) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, rated.files)
        warehouse.view_files("other_line_items", LINE_ITEMS, manifest_files(workspace, closed.manifest_hash))
        candidates = {row["account_id"] for row in warehouse.select("changed_lines", {})}
        candidates |= {
            account_id
            for account_id, own in documents.items()
            if [one.line_items_manifest for one in own if one.voided_at is None] != [closed.manifest_hash]
        }
        candidates |= workspace.control_plane.accounts_to_invoice(period_id)
        warehouse.keep_rows(LINE_ITEMS.name, "account_id", candidates)
        lines: dict[str, list[LineItem]] = {}
        for line in line_items_in(warehouse):
            lines.setdefault(line.account_id, []).append(line)
    for account_id in sorted(candidates):
        own = documents.get(account_id, [])
        billed = billed_lines(workspace, period_id, account_id)
        found = adjustments(billed, lines.get(account_id, []), len(own) + 1)
        if found:
            owed = [one for one in own if one.voided_at is None]
            newest = max(owed, key=lambda one: one.issued_at, default=None)
            yield _Account(
                account_id,
                lines.get(account_id, []),
                found,
                next((one for one in owed if one.kind is DocumentKind.INVOICE), None),
                closed.manifest_hash if newest is None else newest.line_items_manifest,
                len(own),
            )


def _causes(workspace: Workspace, changed: Sequence[_Account], folder: Path) -> dict[str, list[AdjustmentCause]]:
    """Return, for each account, the windows that count otherwise than in its newest document, and the events behind."""
    causes: dict[str, list[AdjustmentCause]] = {}
    accounts_of: dict[str, list[str]] = {}
    for one in changed:
        accounts_of.setdefault(one.line_items_manifest, []).append(one.account_id)
    for line_items, accounts in accounts_of.items():
        for settled, accepted in _changed_windows(workspace, read_manifest(workspace, line_items).pins["usage"]):
            for account_id, cause in _causes_of_window(workspace, settled, accepted, accounts, folder).items():
                causes.setdefault(account_id, []).append(cause)
    return causes


def _causes_of_window(
    workspace: Workspace, settled: WindowRevision, accepted: WindowRevision, accounts: Sequence[str], folder: Path
) -> dict[str, AdjustmentCause]:
    files = {}
    for name, revision in (("from_usage_events", settled), ("to_usage_events", accepted)):
        with Warehouse(workspace.scratch, sql=pinned_sql(workspace, revision.pins["sql"])) as warehouse:
            view_usage_events(warehouse, workspace, revision)
            to = folder / f"{name}.parquet"
            files[name] = warehouse.write_table(USAGE_EVENTS.name, to, USAGE_EVENTS, ("account_id", accounts))
    events: dict[str, list[dict[str, str | int]]] = {}
    with Warehouse(workspace.scratch) as warehouse:
        for name, file in files.items():
            warehouse.view_files(name, USAGE_EVENTS, [file])
        warehouse.table_rows("changed_accounts", CHANGED_ACCOUNTS, [(one,) for one in accounts])
        for row in warehouse.select("changed_events", {}):
            event = {**row, "event_at": row["event_at"].isoformat()}
            events.setdefault(event.pop("account_id"), []).append(event)
    window_id, before, now = accepted.window_id, settled.revision, accepted.revision
    return {
        account_id: AdjustmentCause(window_id, before, now, len(own), own[:EVENTS_SHOWN_MAX])
        for account_id, own in events.items()
    }


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
    accounts = document_accounts(workspace, pins)
    books = {priced.version: priced for priced in pinned_price_books(workspace, pins["price_books"])}
    taxes, seller = pinned_taxes(workspace, pins["taxes.toml"]), pinned_seller(workspace, pins["seller"])
    issued_on = issue_date(at, seller)
    documents = []
    for one in changed:
        account = accounts[one.account_id]
        period = billing_period(period_id, account.time_zone)
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
    workspace: Workspace,
    period_id: str,
    line_items: Receipt,
    documents: Iterable[IssuedDocument | PreparedDocument],
    not_settled: Collection[str],
    folder: Path,
    at: datetime,
) -> None:
    """Publish that documents, with those about to be issued, bill what each account comes to; a difference raises.

    It is about every account but those that are not settled now, also about one that was not found to have changed.
    """
    rated: dict[tuple[str, str], Decimal] = {}
    billed: dict[tuple[str, str], Decimal] = {}
    with Warehouse(workspace.scratch) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, manifest_files(workspace, line_items.manifest_hash))
        for row in warehouse.select("account_amounts", {}):
            rated[row["account_id"], row["currency"]] = row["amount"]
    for document in documents:
        if isinstance(document, PreparedDocument) or document.voided_at is None:
            key = document.account_id, document.currency
            with exact():
                billed[key] = billed.get(key, Decimal(0)) + document.subtotal
    controls = adjustment_controls(
        InvoicedAccount(account_id, currency, rated.get(key, Decimal(0)), billed.get(key, Decimal(0)))
        for key in sorted({*rated, *billed})
        for account_id, currency in [key]
        if account_id not in not_settled
    )
    pins = {"line_items": line_items.manifest_hash, "sql": pin_sql(workspace, ADJUST_QUERIES)}
    scope = f"period={period_id}/{ADJUSTED}"
    publish_next(workspace, RECONCILIATION, scope, [write_controls(workspace, controls, folder)], pins, at)
    require_reconciled(controls, f"period {period_id}, adjusted")


def _result(
    workspace: Workspace,
    period_id: str,
    found: Sequence[_Account],
    prepared: Sequence[PreparedDocument],
    issued: Mapping[str, IssuedDocument],
) -> AdjustResult:
    lines = {one.account_id: len(one.adjustments) for one in found}
    accounts = tuple(
        AdjustedAccount(
            document.account_id,
            document.kind,
            document.currency,
            document.subtotal,
            document.total,
            lines[document.account_id],
            issued[document.account_id].number if document.account_id in issued else None,
        )
        for document in prepared
    )
    waiting = sorted(lines.keys() & workspace.control_plane.accounts_to_invoice(period_id))
    return AdjustResult(period_id, accounts, workspace.control_plane.held_accounts(period_id), tuple(waiting))
