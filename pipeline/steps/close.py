"""Close: the open period of all accounts becomes final, and each account with lines gets its numbered invoice.

A period closes on evidence (P9): every window of it accepted, no late event unsettled, collection shown to be
complete past the last cutoff, every earlier period closed. It is rated afresh, checked and reconciled, and then made
final in one transaction that takes the numbers (no gap), draws credits, stores the JSON documents and records all of
it. The JSON document is the invoice; the pages are rendered from the stored bytes, so closing again finishes or
repeats them, and never makes another invoice.

Where ``close.sign_off`` is "required", somebody has approved exactly these figures before (``sign_off``).

Usage of earlier, final periods that is known since is settled first, by adjustments and credit notes (P5).

An account that is held gets no invoice. Once it is released, or when an invoice was voided, closing the final period
again rates these accounts afresh, reconciles them and issues theirs; everybody else's documents stay to the byte. It
also settles what else is known of the final period since.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from pipeline.adapters.invoice_files import RenderedFiles
from pipeline.core.invoice import IssuedDocument
from pipeline.core.money import Money
from pipeline.steps.adjust import AdjustResult, adjust, is_unsettled, unsettled_periods
from pipeline.steps.documents import store_documents
from pipeline.steps.prepare import prepared_period
from pipeline.steps.render import invoice_folder, render_documents
from pipeline.steps.sign_off import require_signed_off
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
    adjusted: tuple[AdjustResult, ...] = ()  # periods that were settled with it: earlier ones, or a final one itself


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
        with prepared_period(workspace, period_id, at, owed if is_final else None) as prepared:
            if not is_final:
                require_signed_off(workspace, prepared.figures)
            adjusted = tuple(adjust(workspace, earlier, at) for earlier in unsettled_periods(workspace, period_id))
            control_plane.finalise_period(
                period_id,
                prepared.seller.number_series,
                prepared.drafts.documents(),
                store_documents(workspace),
                at,
                prepared.revisions,
            )
    if is_final and is_unsettled(workspace, period_id):
        adjusted = (adjust(workspace, period_id, at),)
    documents = control_plane.documents(period_id)
    rendered = render_documents(workspace, documents, workspace.project.settings.documents.formats)
    owed_now = [document for document in documents if document.voided_at is None]
    held, folder = control_plane.held_accounts(period_id), invoice_folder(workspace, period_id)
    return CloseResult(period_id, owed_now, _due(owed_now), held, folder, rendered, adjusted)


def _due(documents: list[IssuedDocument]) -> dict[str, Decimal]:
    due: dict[str, Money] = {}
    for document in documents:
        amount = Money(document.amount_due, document.currency)
        due[document.currency] = due[document.currency] + amount if document.currency in due else amount
    return {currency: total.amount for currency, total in sorted(due.items())}
