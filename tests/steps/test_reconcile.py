"""Every equation of P3 holds for a real night, and fails when rows are lost, invented or moved between two steps."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from pipeline.core.errors import NotReadyError, ReconciliationError
from pipeline.core.invoice import InvoiceDraft
from pipeline.core.reconciliation import Control, Equation, Verdict
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.collect import collect
from pipeline.steps.control_totals import Night, night_of
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.reconcile import published_controls, reconcile, reconcile_period
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import put_events, usage_event
from tests.steps.night import (
    AT,
    CUTOFF,
    START,
    WINDOW,
    compute,
    computed_night,
    forged_draft,
    forged_revision,
    put_night,
    revision_of,
)


def controls_of(ws: Workspace, revision: WindowRevision) -> list[Control]:
    receipt = ws.control_plane.publication("reconciliation", revision.scope, revision.revision)
    assert receipt is not None
    return published_controls(ws, receipt)


def failures_of(ws: Workspace, revision: WindowRevision) -> set[Equation]:
    """Reconcile, which has to refuse, and return which equations fail in what was published before it refused."""
    with pytest.raises(ReconciliationError):
        reconcile(ws, revision.window_id, revision.revision, AT)
    return {control.control for control in controls_of(ws, revision) if control.verdict is Verdict.FAIL}


def actual(controls: list[Control], equation: Equation, scope: str = "total") -> Decimal:
    return next(control.actual for control in controls if (control.control, control.scope) == (equation, scope))


def test_a_night_with_everything_in_it_reconciles_to_the_digit(night: Workspace) -> None:
    revision = revision_of(night)

    receipt = reconcile(night, revision.window_id, revision.revision, AT)

    controls = published_controls(night, receipt)
    assert {control.verdict for control in controls} == {Verdict.PASS}
    assert {control.control for control in controls} >= set(Equation) - {
        *(Equation.ACCOUNT_INVOICE, Equation.INVOICED_AMOUNT, Equation.ADJUSTED_AMOUNT, Equation.INVOICE_NUMBERS),
        *(Equation.PRODUCER_EVENTS, Equation.PRODUCER_SUM, Equation.PRODUCER_OFFSETS),
        *(Equation.EXTERNAL_USAGE, Equation.EXTERNAL_LINES, Equation.EXTERNAL_AMOUNT),
    }
    assert actual(controls, Equation.NIGHT_EVENTS) == 8
    assert actual(controls, Equation.WINDOW_EVENTS) == 8
    assert actual(controls, Equation.EVENT_OUTCOMES) == 8
    assert actual(controls, Equation.SKU_QUANTITY, "tokens-input") == Decimal("2003048.5")
    assert actual(controls, Equation.USAGE_QUANTITY, "tokens-input") == Decimal("2001001.5")
    assert actual(controls, Equation.LINE_ITEM_QUANTITY, "2026-01/requests") == 3


def test_every_object_of_the_night_and_of_the_window_has_its_control(night: Workspace) -> None:
    revision = revision_of(night)

    receipt = reconcile(night, revision.window_id, revision.revision, AT)

    controls = published_controls(night, receipt)
    objects = {c.scope.split("@")[0]: c.actual for c in controls if c.control is Equation.OBJECT_LINES}
    assert objects == {
        "usage/a.ndjson": 5,
        "usage/b.ndjson": 3,
        "usage/c.ndjson": 1,
        "usage/d.ndjson": 1,
        "usage/late.ndjson": 1,
    }


def test_reconciling_again_publishes_the_same_bytes_whatever_has_arrived_since(workspace: Workspace) -> None:
    revision = computed_night(workspace)
    first = reconcile(workspace, revision.window_id, revision.revision, AT)
    put_events(workspace.raw, "usage/more.ndjson", [usage_event(id="more")], START + timedelta(hours=20))
    collect(workspace, AT + timedelta(days=1), lambda _: None)
    compute(workspace, AT + timedelta(days=1))

    again = reconcile(workspace, revision.window_id, revision.revision, AT + timedelta(days=2))

    assert again == first


def test_a_revision_that_takes_in_late_events_reconciles_too(night: Workspace) -> None:
    second = compute(night, include_late=True)
    receipt = reconcile(night, second.window_id, second.revision, AT)

    assert second.revision == 2
    assert actual(published_controls(night, receipt), Equation.USAGE_EVENT_COUNT, "requests") == 4


def test_a_window_without_any_event_reconciles(workspace: Workspace) -> None:
    collect(workspace, AT, lambda _: None)
    revision = compute(workspace)

    receipt = reconcile(workspace, revision.window_id, revision.revision, AT)

    assert {control.verdict for control in published_controls(workspace, receipt)} == {Verdict.PASS}


@pytest.mark.parametrize(
    ("queries", "equations"),
    [
        pytest.param(
            {"usage": "SELECT * FROM usage WHERE account_id <> 'acct-1'"},
            {Equation.USAGE_QUANTITY, Equation.USAGE_EVENT_COUNT},
            id="usage of an account is lost",
        ),
        pytest.param(
            {"usage": "SELECT * REPLACE (value_sum - 0.000000001 AS value_sum) FROM usage WHERE value_sum > 1"
                      " UNION ALL SELECT * FROM usage WHERE value_sum <= 1"},
            {Equation.USAGE_QUANTITY, Equation.USAGE_ROWS},
            id="usage is a billionth too low",
        ),
        pytest.param(
            {"usage": "SELECT * REPLACE (quantity * 2 AS quantity) FROM usage"},
            {Equation.USAGE_ROWS},
            id="a quantity is not its value sum",
        ),
        pytest.param(
            {"excluded_events": "SELECT * FROM excluded_events UNION ALL SELECT * FROM excluded_events"},
            {
                *(Equation.EVENT_OUTCOMES, Equation.EVENTS_ONCE, Equation.SKU_QUANTITY),
                *(Equation.SOURCE_EVENTS, Equation.SOURCE_QUANTITY),
            },
            id="every exclusion is counted twice",
        ),
        pytest.param(
            {"excluded_events": "SELECT * FROM excluded_events WHERE reason <> 'late'"},
            {Equation.USAGE_QUANTITY, Equation.USAGE_EVENT_COUNT},
            id="an excluded event is lost",
        ),
        pytest.param(
            {
                "excluded_events": "SELECT * REPLACE ('usage/never.ndjson@1' AS object_id) FROM excluded_events"
                " WHERE reason = 'orphaned_account' UNION ALL"
                " SELECT * FROM excluded_events WHERE reason <> 'orphaned_account'"
            },
            {Equation.EVENT_OUTCOMES, Equation.SOURCE_EVENTS, Equation.USAGE_QUANTITY, Equation.USAGE_EVENT_COUNT},
            id="an event that was never received stands in for one that was",
        ),
    ],
)  # fmt: skip
def test_rows_that_are_lost_or_invented_fail_their_equations(
    night: Workspace, queries: dict[str, str], equations: set[Equation]
) -> None:
    revision = forged_revision(night, revision_of(night), queries)

    assert failures_of(night, revision) == equations


@pytest.mark.parametrize(
    ("query", "equations"),
    [
        pytest.param(
            "SELECT * FROM line_items WHERE account_id <> 'acct-1'",
            {Equation.LINE_ITEM_QUANTITY, Equation.LINE_ITEM_ACCOUNTS},
            id="the line items of an account are lost",
        ),
        pytest.param(
            "SELECT * REPLACE (CASE account_id WHEN 'acct-1' THEN 'acct-2' WHEN 'acct-2' THEN 'acct-1'"
            " ELSE account_id END AS account_id) FROM line_items",
            {Equation.LINE_ITEM_ACCOUNTS},
            id="two accounts are mixed up",
        ),
        pytest.param(
            "SELECT * REPLACE (0 AS residual) FROM line_items", {Equation.ROUNDED_AMOUNT}, id="the residual is dropped"
        ),
        pytest.param(
            "SELECT * REPLACE (amount + 1 AS amount, residual - 1 AS residual) FROM line_items",
            {Equation.RESIDUAL_BOUND},
            id="rounding gives more than it can",
        ),
    ],
)
def test_line_items_that_do_not_follow_from_usage_fail_their_equations(
    night: Workspace, query: str, equations: set[Equation]
) -> None:
    revision = revision_of(night)
    forged_draft(night, "2026-01", query)

    assert failures_of(night, revision) == equations


def test_a_line_that_the_ledger_counted_and_the_lake_does_not_hold_fails(night: Workspace) -> None:
    revision = revision_of(night)
    with sqlite3.connect(night.project.folder / "control_plane.db") as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (trigger,) in triggers:
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(
            "UPDATE object_ledger SET line_count = line_count + 1, raw_event_count = raw_event_count + 1"
            " WHERE key = 'usage/a.ndjson'"
        )
    connection.close()

    assert failures_of(night, revision) == {Equation.OBJECT_LINES, Equation.NIGHT_EVENTS}


def test_raw_events_that_the_revision_does_not_read_fail_the_bridge(workspace: Workspace) -> None:
    put_events(workspace.raw, "usage/first.ndjson", [usage_event(id="first")], START + timedelta(hours=12))
    collect(workspace, START + timedelta(hours=13), lambda _: None)
    put_events(workspace.raw, "usage/second.ndjson", [usage_event(id="second")], START + timedelta(hours=14))
    collect(workspace, AT, lambda _: None)
    whole = compute(workspace)
    pins = {**whole.pins, "raw_event_files": whole.pins["raw_event_files"][:1]}

    revision = forged_revision(workspace, replace(whole, pins=pins), {})

    assert len(whole.pins["raw_event_files"]) == 2
    assert Equation.WINDOW_EVENTS in failures_of(workspace, revision)


def test_the_error_names_the_window_and_both_sides(night: Workspace) -> None:
    lost = {"usage": "SELECT * FROM usage WHERE account_id <> 'acct-1'"}
    revision = forged_revision(night, revision_of(night), lost)

    with pytest.raises(ReconciliationError) as refusal:
        reconcile(night, revision.window_id, revision.revision, AT)

    assert "window 2026-01-15 revision 2, usage_quantity, requests" in refusal.value.details
    assert "expected 3 requests, got 2 (1 too few, tolerance 0)" in refusal.value.details


def test_a_revision_that_is_not_computed_is_not_ready(workspace: Workspace) -> None:
    put_night(workspace.raw)
    collect(workspace, AT, lambda _: None)
    revision = deduplicate(workspace, WINDOW, AT)

    with pytest.raises(NotReadyError, match="usage missing"):
        reconcile(workspace, revision.window_id, revision.revision, AT)


def test_a_night_ends_before_the_cutoff_and_begins_with_the_one_before(night: Workspace) -> None:
    span = night_of(night, revision_of(night))

    assert span == Night(CUTOFF - timedelta(days=1), CUTOFF)
    assert span.holds(CUTOFF - timedelta(microseconds=1))
    assert not span.holds(CUTOFF)
    assert span.holds(CUTOFF - timedelta(days=1))
    assert not span.holds(CUTOFF - timedelta(days=1, microseconds=1))


def test_the_night_of_the_first_window_has_no_beginning(workspace: Workspace) -> None:
    first = BillingWindow(START - timedelta(days=14), START - timedelta(days=13))
    collect(workspace, AT, lambda _: None)

    revision = deduplicate(workspace, first, AT)

    assert revision.window_id == "2026-01-01"
    assert night_of(workspace, revision).start is None


def test_a_later_revision_keeps_its_night_also_under_another_grace_period(night: Workspace) -> None:
    first = revision_of(night)
    night_of_first = night_of(night, first)
    billing = night.project.folder / "billing.toml"
    billing.write_text(billing.read_text().replace('grace_period = "6h"', 'grace_period = "8h"'))
    changed = open_workspace(night.project.folder)
    collect(changed, AT + timedelta(hours=3), lambda _: None)

    second = compute(changed, AT + timedelta(hours=3))

    assert second.cutoff_at == first.cutoff_at + timedelta(hours=2)
    assert night_of(changed, second) == night_of_first


def test_invoices_that_equal_the_line_items_reconcile_the_period(night: Workspace) -> None:
    receipt = reconcile_period(night, "period=2026-01", invoices(), AT)

    controls = published_controls(night, receipt)
    assert {control.verdict for control in controls} == {Verdict.PASS}
    assert {c.unit: c.actual for c in controls if c.control is Equation.INVOICED_AMOUNT} == {
        "EUR": Decimal("5.60"),
        "USD": Decimal(0),
    }


@pytest.mark.parametrize(
    ("drafts", "held"),
    [
        pytest.param([InvoiceDraft("acct-3", "EUR", Decimal("5.61"))], ["acct-3"], id="a cent too much"),
        pytest.param([], ["acct-3"], id="an invoice is missing"),
        pytest.param([InvoiceDraft("acct-3", "USD", Decimal("5.60"))], ["acct-3"], id="another currency"),
        pytest.param([InvoiceDraft("acct-1", "EUR", Decimal("5.60"))], ["acct-1", "acct-3"], id="another account"),
    ],
)
def test_an_account_whose_invoice_differs_from_its_line_items_is_held(
    night: Workspace, drafts: list[InvoiceDraft], held: list[str]
) -> None:
    reconcile_period(night, "period=2026-01", drafts, AT)

    assert list(night.control_plane.held_accounts("2026-01")) == held


def test_a_period_that_was_never_rated_is_not_ready(workspace: Workspace) -> None:
    with pytest.raises(NotReadyError, match="period 2026-01 has no line items"):
        reconcile_period(workspace, "period=2026-01", [], AT)


def invoices() -> list[InvoiceDraft]:
    return [
        InvoiceDraft("acct-1", "USD", Decimal("0.00")),
        InvoiceDraft("acct-2", "USD", Decimal("0.00")),
        InvoiceDraft("acct-3", "EUR", Decimal("5.60")),
    ]
