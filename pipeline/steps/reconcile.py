"""Reconcile, the second gate: every equation of P3 for a window revision, and for a period about to be final."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.breaks import BY_ITSELF, BreakClass
from pipeline.core.dataset import LINE_ITEMS, RECONCILIATION
from pipeline.core.errors import NotReadyError
from pipeline.core.invoice import InvoiceDraft
from pipeline.core.manifest import Receipt
from pipeline.core.reconciliation import (
    EQUATION_SENTENCES,
    OF_CLOSES,
    OF_NIGHTLY_PERIODS,
    Control,
    Effect,
    Equation,
    InvoicedAccount,
    agreement_controls,
    amount_controls,
    differences,
    failed_controls,
    invoice_controls,
    number_controls,
    period_quantity_controls,
    require_reconciled,
    window_controls,
)
from pipeline.core.revision import RevisionState
from pipeline.steps.aggregate import find_revision
from pipeline.steps.control_totals import (
    DRAFT_QUERIES,
    drafted_totals,
    pin_accounts,
    pins_of_reconciliation,
    revision_totals,
)
from pipeline.steps.documents import number_series
from pipeline.steps.external import pin_external
from pipeline.steps.pinned import pin_sql
from pipeline.steps.publish import manifest_files, publish_next, publish_revision, read_manifest
from pipeline.steps.workspace import Workspace


def reconcile(ws: Workspace, window_id: str, revision: int, at: datetime) -> Receipt:
    """Publish every control of a window revision; ``ReconciliationError`` after that if any fails, showing all that do.

    The same revision again is reconciled against what it was reconciled against before, so it publishes the same bytes.
    """
    found = find_revision(ws, window_id, revision)
    pins = pins_of_reconciliation(ws, found)
    missing = [name for name in ("excluded_events", "usage") if pins[name] is None]
    if missing:
        raise NotReadyError(
            "reconcile.not_published",
            f"window {window_id} revision {revision} is not computed: {', '.join(missing)} missing",
            ["run the steps of the window in their order: billing run --window " + window_id],
        )
    controls = window_controls(revision_totals(ws, found, pins).totals)
    name = f"window {window_id} revision {revision}"
    if ws.control_plane.publication(RECONCILIATION.name, found.scope, revision) is None:
        _carry_breaks(ws, controls, name, at, window_id, sorted(pins["drafts"]))
        for period_id in sorted(pins["drafts"]):
            of_period = [one for one in controls if one.scope.partition("/")[0] == period_id]
            _hold_named(ws, period_id, of_period, at)
            _release_named(ws, period_id, of_period, name, at)
    with scratch_folder(ws.scratch, "reconcile") as folder:
        file = write_controls(ws, controls, folder)
        receipt = publish_revision(ws, RECONCILIATION, found.scope, revision, [file], pins, at)
    if found.state is not RevisionState.ACCEPTED:  # else with these controls, by an override if need be
        require_reconciled(controls, name)
    return receipt


def _carry_breaks(
    ws: Workspace, controls: Sequence[Control], name: str, at: datetime, window_id: str, period_ids: Sequence[str]
) -> None:
    """Open, carry over and resolve the breaks of a window, and of the periods that its drafts are of.

    Once for each revision: what is reconciled again is of that day, and says nothing about what is open now.
    """
    found = differences(controls, window_id=window_id)
    of_windows = set(Equation) - OF_CLOSES
    for domain, equations in (
        (f"window={window_id}", of_windows),
        *((f"period={period_id}", OF_NIGHTLY_PERIODS) for period_id in period_ids),
    ):
        of_domain = [one for one in found if one.domain == domain]
        ws.control_plane.carry_breaks(domain, equations, of_domain, name, at)


def _hold_named(ws: Workspace, period_id: str, controls: Sequence[Control], at: datetime) -> None:
    """Hold each account that a failed control names; rating holds those that its raters do not agree on.

    What a person released is not held again for the same figures.
    """
    holds = ws.control_plane.holds(period_id)
    said = {(one.account_id, one.reason) for one in holds if one.released_by != BY_ITSELF}
    for control in failed_controls(controls):
        reason = f"{EQUATION_SENTENCES[control.control]}: {control.sentence}"
        is_named = control.effect is Effect.HOLD and control.account_id and control.control is not Equation.RATED_TWICE
        if is_named and (control.account_id, reason) not in said:
            ws.control_plane.hold_for_control(period_id, control.account_id, control.control.value, reason, at)


def _release_named(ws: Workspace, period_id: str, controls: Sequence[Control], name: str, at: datetime) -> None:
    """Release each account that a control held which passes now, whatever its figures were; a person's hold stays.

    A control that is not there says nothing. Raters compare a sample, so a person releases what they held.
    """
    failed = {(one.control.value, one.account_id) for one in failed_controls(controls)}
    passed = {(one.control.value, one.account_id) for one in controls if one.control is not Equation.RATED_TWICE}
    held = {
        (one.held_by.removeprefix("control "), one.account_id)
        for one in ws.control_plane.holds(period_id)
        if one.released_at is None
    }
    for control, account_id in sorted(held & passed - failed):
        reason = f"{control} of the account passes in {name}"
        ws.control_plane.release_for_control(period_id, account_id, control, reason, at)


def reconcile_period(ws: Workspace, scope: str, invoices: Sequence[InvoiceDraft], at: datetime) -> Receipt:
    """Publish the controls of what is about to be invoiced: usage = line items = invoices, to the cent.

    The line items are those that are published for the scope, whatever the invoices were made from: of a period, or of
    some accounts of a final one. Raises like ``reconcile``.
    """
    draft = ws.control_plane.publication(LINE_ITEMS.name, scope)
    if draft is None:
        raise NotReadyError(
            "reconcile.not_rated", f"{scope.replace('=', ' ')} has no line items", ["rate it before it is closed"]
        )
    period_id = read_manifest(ws, draft.manifest_hash).pins["period_id"]
    is_whole = scope == f"period={period_id}"
    numbers = number_series(ws)
    pins = {
        "accounts": pin_accounts(ws),
        "drafts": {period_id: draft.manifest_hash},
        "external": pin_external(ws) if is_whole else None,
        "number_series": numbers,
        "sql": pin_sql(ws, DRAFT_QUERIES),
    }
    totals = drafted_totals(ws, pins, is_whole=is_whole)
    line_item_amounts = {(account.account_id, account.currency): account.amount for account in totals.accounts}
    invoice_amounts = {(invoice.account_id, invoice.currency): invoice.subtotal for invoice in invoices}
    invoiced = [
        InvoicedAccount(
            account_id, currency, line_item_amounts.get(pair, Decimal(0)), invoice_amounts.get(pair, Decimal(0))
        )
        for pair in sorted({*line_item_amounts, *invoice_amounts})
        for account_id, currency in [pair]
    ]
    controls = [
        *period_quantity_controls(totals.quantities, totals.tied_accounts),
        *amount_controls(totals.amounts),
        *invoice_controls(period_id, invoiced, {total.currency: total.amount for total in totals.amounts}),
        *agreement_controls(totals.agreements),
        *number_controls(numbers),
        *totals.external,
    ]
    name = scope.replace("=", " ")
    if is_whole:
        ws.control_plane.carry_breaks(scope, OF_CLOSES, differences(controls, period_id=period_id), name, at)
    _hold_named(ws, period_id, controls, at)
    if is_whole:
        _release_named(ws, period_id, controls, name, at)
    with scratch_folder(ws.scratch, "reconcile") as folder:
        receipt = publish_next(ws, RECONCILIATION, scope, [write_controls(ws, controls, folder)], pins, at)
    require_reconciled(controls, name)
    return receipt


def published_controls(ws: Workspace, receipt: Receipt) -> list[Control]:
    """Return the controls of a reconciliation as they were published, in the order of their key."""
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(RECONCILIATION.name, RECONCILIATION, manifest_files(ws, receipt.manifest_hash))
        return [_control(row) for row in warehouse.select("stored_controls", {})]


def _control(row: Mapping[str, Any]) -> Control:
    return Control(
        Equation(row["control"]),
        row["scope"],
        row["unit"],
        row["expected"],
        row["actual"],
        row["tolerance"],
        row["tolerance_reason"],
        Effect(row["effect"]),
        row["account_id"],
        BreakClass(row["break_class"]) if row["break_class"] else None,
    )


def write_controls(ws: Workspace, controls: Sequence[Control], folder: Path) -> Path:
    """Write controls as a file of ``reconciliation``."""
    rows = [
        (
            control.control.value,
            control.scope,
            control.unit,
            control.expected,
            control.actual,
            control.delta,
            control.tolerance,
            control.tolerance_reason,
            control.verdict.value,
            control.effect.value,
            control.account_id,
            "" if control.break_class is None else control.break_class.value,
        )
        for control in controls
    ]
    with Warehouse(ws.scratch) as warehouse:
        warehouse.table_rows(RECONCILIATION.name, RECONCILIATION.columns, rows)
        return warehouse.write_table(RECONCILIATION.name, folder / "reconciliation.parquet", RECONCILIATION)
