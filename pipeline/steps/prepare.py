"""What a period would bill if it closed now: rated afresh, checked and reconciled, with nothing issued yet.

Finance signs this, and close issues it: both come here, so what is issued is what was signed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from pipeline.adapters.scratch import scratch_folder
from pipeline.core.approval import PeriodFigures
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.manifest import Receipt, canonical_json, sha256_hex
from pipeline.core.money import exact
from pipeline.core.project import SellerSettings
from pipeline.core.reconciliation import controls_sentence
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY, BillingWindow, is_collected, windows_between
from pipeline.steps.check import check_invoices, check_period
from pipeline.steps.drafts import Drafts, document_accounts, draft_documents
from pipeline.steps.late import late_windows
from pipeline.steps.period_usage import account_periods
from pipeline.steps.pinned import pinned_seller
from pipeline.steps.publish import read_manifest
from pipeline.steps.rate import publish_draft, rated_period
from pipeline.steps.reconcile import published_controls, reconcile_period
from pipeline.steps.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PreparedPeriod:
    """The documents that a close would number, what they come to, and the window revisions that were rated."""

    drafts: Drafts
    figures: PeriodFigures
    revisions: Mapping[str, int]
    seller: SellerSettings


@contextmanager
def prepared_period(
    workspace: Workspace, period_id: str, at: datetime, accounts: Collection[str] | None = None
) -> Iterator[PreparedPeriod]:
    """Publish the line items of a period that is ready to close, and their controls; files last as long.

    With ``accounts`` it is a final period, of which these are owed an invoice. ``NotReadyError`` names everything that
    is missing; an expectation or a control that fails raises.
    """
    _require_earlier_final(workspace, period_id)
    _require_ready(workspace, period_id)
    with rated_period(workspace, period_id, candidate=None, accounts=accounts) as rated:
        scope = None if accounts is None else account_scope(period_id, accounts)
        line_items = publish_draft(workspace, rated, at, scope)
        check_period(workspace, line_items, at)
        with scratch_folder(workspace.scratch, "documents") as folder:
            drafts = draft_documents(workspace, period_id, line_items, folder, at)
            check_invoices(workspace, line_items, drafts.documents(), at)
            controls = reconcile_period(workspace, line_items.scope, drafts.totals, at)
            figures = _figures(workspace, period_id, line_items, drafts, controls)
            yield PreparedPeriod(
                drafts,
                figures,
                {revision.window_id: revision.revision for revision in rated.revisions},
                pinned_seller(workspace, rated.pins["seller"]),
            )


def _figures(
    workspace: Workspace, period_id: str, line_items: Receipt, drafts: Drafts, controls: Receipt
) -> PeriodFigures:
    pins = read_manifest(workspace, line_items.manifest_hash).pins
    directory = document_accounts(workspace, pins)
    drafted = {draft.account_id for draft in drafts.totals}
    signed = {
        "accounts": {
            draft.account_id: [one.name, one.tax_region, one.tax_id, one.billing_address]
            for draft in drafts.totals
            for one in [directory[draft.account_id]]
        },
        "credits": {
            one.grant.grant_id: f"{one.balance:f}"
            for one in workspace.control_plane.credit_balances()
            if one.grant.account_id in drafted and one.balance > 0 and not one.is_revoked
        },
        "line_items": line_items.content_hash,
        "period_id": period_id,
        "seller": pins["seller"],
        "taxes": pins["taxes.toml"],
    }
    held = workspace.control_plane.held_accounts(period_id)
    net, held_net = nets_of(drafts, held)
    return PeriodFigures(
        period_id,
        sha256_hex(canonical_json(signed)),
        controls_sentence(published_controls(workspace, controls)),
        accounts=len(drafts.totals),
        line_items=line_items.row_count,
        net=net,
        held_net=held_net,
        held=held,
        open_breaks=len(workspace.control_plane.breaks()),
    )


def nets_of(drafts: Drafts, held: Collection[str]) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    """Return what would be issued, before taxes by currency, and what the held accounts keep back."""
    net: dict[str, Decimal] = {}
    held_net: dict[str, Decimal] = {}
    with exact():
        for draft in drafts.totals:
            sums = held_net if draft.account_id in held else net
            sums[draft.currency] = sums.get(draft.currency, Decimal(0)) + draft.subtotal
    return net, held_net


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
