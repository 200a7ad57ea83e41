"""Close: the open period of all accounts becomes final, and each account with lines gets its numbered invoice.

A period closes on evidence (P9): every window of it accepted, no late event unsettled, collection shown to be
complete past the last cutoff, every earlier period closed. It is rated afresh, checked and reconciled, and then made
final in one transaction that takes the numbers (no gap), draws credits, stores the JSON documents and records all of
it. The JSON document is the invoice; the pages are rendered from the stored bytes, so closing again finishes or
repeats them, and never makes another invoice.

Usage of earlier, final periods that is known since is settled first, by adjustments and credit notes (P5).

An account that is held gets no invoice. Once it is released, or when an invoice was voided, closing the final period
again rates these accounts afresh, reconciles them and issues theirs; everybody else's documents stay to the byte.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from pipeline.adapters.invoice_files import RenderedFiles
from pipeline.adapters.scratch import scratch_folder
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.invoice import IssuedDocument
from pipeline.core.manifest import Receipt, canonical_json, sha256_hex
from pipeline.core.money import Money
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, BillingWindow, is_collected, windows_between
from pipeline.steps.adjust import AdjustResult, adjust, unsettled_periods
from pipeline.steps.check import check_invoices, check_period
from pipeline.steps.documents import store_documents
from pipeline.steps.drafts import draft_documents
from pipeline.steps.late import late_windows
from pipeline.steps.period_usage import account_periods
from pipeline.steps.rate import RatedPeriod, publish_draft, rated_period
from pipeline.steps.reconcile import reconcile_period
from pipeline.steps.render import invoice_folder, render_documents
from pipeline.steps.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CloseResult:
    """The documents of a final period that are owed, what is due on them by currency, who is held, and their files."""

    period_id: str
    invoices: list[IssuedDocument]
    totals: dict[str, Decimal]
    held: dict[str, str]
    folder: Path
    rendered: RenderedFiles = field(compare=False)
    adjusted: tuple[AdjustResult, ...] = ()  # earlier periods that were settled with it


def close(workspace: Workspace, period_id: str, at: datetime) -> CloseResult:
    """Make a period final and write its invoices; on a final period, issue what is owed and write the same files again.

    ``NotReadyError`` names everything that is missing; a control that fails raises, and no number is taken.
    """
    control_plane = workspace.control_plane
    is_final = control_plane.period_state(period_id) == "final"
    adjusted: tuple[AdjustResult, ...] = ()
    owed = control_plane.accounts_to_invoice(period_id) if is_final else set()
    if not is_final or owed:
        control_plane.verify_audit_log()
        _require_earlier_final(workspace, period_id)
        _require_ready(workspace, period_id)
        adjusted = tuple(adjust(workspace, earlier, at) for earlier in unsettled_periods(workspace, period_id))
        with rated_period(workspace, period_id, candidate=None, accounts=owed if is_final else None) as rated:
            scope = account_scope(period_id, owed) if is_final else None
            line_items = publish_draft(workspace, rated, at, scope)
            check_period(workspace, line_items, at)
            _finalise(workspace, rated, line_items, at)
    documents = control_plane.documents(period_id)
    rendered = render_documents(workspace, documents, workspace.project.settings.documents.formats)
    owed_now = [document for document in documents if document.voided_at is None]
    held, folder = control_plane.held_accounts(period_id), invoice_folder(workspace, period_id)
    return CloseResult(period_id, owed_now, _due(owed_now), held, folder, rendered, adjusted)


def account_scope(period_id: str, accounts: Collection[str]) -> str:
    """Return what line items and controls are published under that are of some accounts of a final period."""
    return f"period={period_id}/accounts={sha256_hex(canonical_json(sorted(accounts)))[:12]}"


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


def _require_earlier_final(workspace: Workspace, period_id: str) -> None:
    """Refuse a period while an earlier one is open in which something was, or may have been, used.

    Numbers and credits follow the order of periods, and a fee in advance is for the period after.
    """
    accepted = set(workspace.control_plane.accepted_revisions())
    final = workspace.control_plane.final_periods()
    problems = []
    for earlier in _months_between(workspace.project.settings.window.first_window_start - ONE_DAY, period_id):
        windows = [] if earlier in final else windows_of_period(workspace, earlier)
        if not windows:
            continue
        draft = workspace.control_plane.publication(LINE_ITEMS.name, f"period={earlier}")
        waiting = [window.window_id for window in windows if window.window_id not in accepted]
        if draft is not None and draft.row_count:
            problems.append(f"period {earlier} is open and has {draft.row_count:,} line items")
        elif waiting:
            problems.append(f"period {earlier} is open, and what was used in window {waiting[0]} is not known yet")
    if problems:
        raise NotReadyError(
            "close.earlier_period_open",
            f"period {period_id} cannot be closed before the periods that come before it",
            [*problems, "close them first, in order; no invoice was issued and no number was taken"],
        )


def _months_between(start: datetime, period_id: str) -> list[str]:
    months, month = [], start.replace(day=1)
    while (name := month.strftime("%Y-%m")) < period_id:
        months.append(name)
        month = (month + timedelta(days=32)).replace(day=1)
    return months


def _finalise(workspace: Workspace, rated: RatedPeriod, line_items: Receipt, at: datetime) -> None:
    with scratch_folder(workspace.scratch, "documents") as folder:
        drafts = draft_documents(workspace, rated.period_id, line_items, folder)
        check_invoices(workspace, line_items, drafts.documents(), at)
        reconcile_period(workspace, line_items.scope, drafts.totals, at)
        workspace.control_plane.finalise_period(
            rated.period_id,
            workspace.project.settings.seller.number_series,
            drafts.documents(),
            store_documents(workspace),
            at,
            {revision.window_id: revision.revision for revision in rated.revisions},
        )


def _due(documents: list[IssuedDocument]) -> dict[str, Decimal]:
    due: dict[str, Money] = {}
    for document in documents:
        amount = Money(document.amount_due, document.currency)
        due[document.currency] = due[document.currency] + amount if document.currency in due else amount
    return {currency: total.amount for currency, total in sorted(due.items())}
