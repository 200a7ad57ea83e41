"""Close: the open period of all accounts becomes final, and each account with usage gets its numbered invoice.

A period closes on evidence (P9): every window of it accepted, no late event unsettled, collection shown to be
complete past the last cutoff. It is rated afresh, checked and reconciled, and then made final in one transaction that
takes the numbers (no gap), stores the JSON documents and records both. The JSON document is the invoice; the pages are
rendered from the stored bytes, so closing again finishes or repeats them, and never makes another invoice.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from pipeline.adapters.documents import render
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.invoice import InvoiceDraft, InvoiceEvidence, IssuedInvoice, draft_invoices, invoice_document
from pipeline.core.manifest import Receipt, canonical_json
from pipeline.core.money import Money
from pipeline.core.rate_usage import LineItem
from pipeline.core.revision import RevisionState
from pipeline.core.window import BillingWindow, billing_period, is_collected, windows_between
from pipeline.steps.check import check_period
from pipeline.steps.late import late_windows
from pipeline.steps.period_usage import account_periods
from pipeline.steps.rate import RatedPeriod, publish_draft, rated_period
from pipeline.steps.reconcile import reconcile_period
from pipeline.steps.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CloseResult:
    """The invoices of a final period, what they add up to by currency, and the folder people read them in."""

    period_id: str
    invoices: list[IssuedInvoice]
    totals: dict[str, Decimal]
    folder: Path


def close(workspace: Workspace, period_id: str, at: datetime) -> CloseResult:
    """Make a period final and write its invoices; on a final period, write the same files again.

    ``NotReadyError`` names everything that is missing; a control that fails raises, and no number is taken.
    """
    if workspace.control_plane.period_state(period_id) == "final":
        invoices = workspace.control_plane.invoices(period_id)
    else:
        workspace.control_plane.verify_audit_log()
        _require_ready(workspace, period_id)
        rated = rated_period(workspace, period_id, candidate=None)
        draft_lines = publish_draft(workspace, rated, at)
        check_period(workspace, draft_lines, at)
        drafts = draft_invoices(rated.lines)
        reconcile_period(workspace, period_id, drafts, at)
        invoices = _finalise(workspace, rated, draft_lines, drafts, at)
    folder = workspace.out / "invoices" / period_id
    for invoice in invoices:
        _write_readable(workspace, invoice, folder)
    return CloseResult(period_id, invoices, _totals(invoices), folder)


def windows_of_period(workspace: Workspace, period_id: str) -> list[BillingWindow]:
    """Return each window that shares an instant with the period in a zone of the accounts, from the first one on."""
    periods = account_periods(workspace, period_id).values()
    settings = workspace.project.settings.window
    start = max(settings.first_window_start, min(period.start for period in periods))
    return list(windows_between(start, max(period.end for period in periods), settings.length))


def _require_ready(workspace: Workspace, period_id: str) -> None:
    windows = windows_of_period(workspace, period_id)
    if not windows:
        first = workspace.project.settings.window.first_window
        raise InputError(
            "close.before_first_window",
            f"period {period_id} ends before the first window that is billed",
            [f"billing.toml: window.first_window is {first.isoformat()}; close a period that ends after it"],
        )
    gaps = []
    revisions = workspace.control_plane.window_revisions()  # in order of window and revision
    newest = {revision.window_id: revision for revision in revisions}
    accepted = {revision.window_id for revision in revisions if revision.state is RevisionState.ACCEPTED}
    late = {window.window_id for window in late_windows(workspace)}
    for window_id in (window.window_id for window in windows):
        if window_id not in newest:
            gaps.append(f"window {window_id} was never run; billing run --window {window_id}")
        elif window_id not in accepted:
            state = f"revision {newest[window_id].revision} is {newest[window_id].state.value}"
            gaps.append(f"window {window_id} has no accepted revision, {state}; see its report, then run it again")
        elif window_id in late:
            gaps.append(
                f"window {window_id} is not all that is known by now: late events, or changed inputs; "
                f"billing run --window {window_id} --include-late (or --due for all)"
            )
    last_cutoff = windows[-1].cutoff_at(workspace.project.settings.window.grace_period)
    watermark = workspace.control_plane.watermark_at()
    if not is_collected(last_cutoff, watermark):
        collected = "nothing was collected yet" if watermark is None else f"collected up to {watermark.isoformat()}"
        gaps.append(f"{collected}, expected the last cutoff {last_cutoff.isoformat()} or later; billing collect")
    if gaps:
        raise NotReadyError(
            "close.period_not_ready",
            f"period {period_id} cannot be closed yet ({len(gaps)} in the way)",
            [*gaps, "no invoice was issued and no number was taken"],
        )


def _finalise(
    workspace: Workspace, rated: RatedPeriod, draft_lines: Receipt, drafts: list[InvoiceDraft], at: datetime
) -> list[IssuedInvoice]:
    accounts = workspace.project.directory.accounts()
    books = {priced.version: priced for priced in workspace.project.price_books}
    cutoffs = [revision.cutoff_at for revision in rated.revisions]
    evidence = InvoiceEvidence(draft_lines.manifest_hash, {w: r.manifest_hash for w, r in rated.usage.items()})
    lines_of: defaultdict[str, list[LineItem]] = defaultdict(list)
    for line in rated.lines:
        lines_of[line.account_id].append(line)

    def write_document(draft: InvoiceDraft, number: str) -> str:
        account, lines = accounts[draft.account_id], lines_of[draft.account_id]
        document = invoice_document(
            number,
            draft,
            lines,
            account,
            workspace.project.settings.seller,
            billing_period(rated.period_id, account.time_zone),
            books[lines[0].price_book_version],
            cutoffs,
            evidence,
        )
        return workspace.lake.put_bytes(canonical_json(document), "documents", ".json").sha256

    series = workspace.project.settings.seller.number_series
    revisions = {revision.window_id: revision.revision for revision in rated.revisions}
    return workspace.control_plane.finalise_period(rated.period_id, series, drafts, write_document, at, revisions)


def _write_readable(workspace: Workspace, invoice: IssuedInvoice, folder: Path) -> None:
    """Write the stored document, and the page rendered from it, to where people look."""
    content = workspace.lake.get_bytes(f"documents/{invoice.document_sha256}.json")
    page = render("invoice.html", json.loads(content)).encode()
    workspace.lake.put_bytes(page, "documents", ".html")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{invoice.number}_{invoice.account_id}.json").write_bytes(content)
    (folder / f"{invoice.number}_{invoice.account_id}.html").write_bytes(page)


def _totals(invoices: list[IssuedInvoice]) -> dict[str, Decimal]:
    totals: dict[str, Money] = {}
    for invoice in invoices:
        amount = Money(invoice.total, invoice.currency)
        totals[invoice.currency] = totals[invoice.currency] + amount if invoice.currency in totals else amount
    return {currency: total.amount for currency, total in sorted(totals.items())}
