"""A failed control opens a break; it stays open until the control passes, or until somebody settles it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal

import pytest

from pipeline.core.breaks import Break, BreakClass
from pipeline.core.errors import ReconciliationError
from pipeline.core.invoice import InvoiceDraft
from pipeline.core.revision import WindowRevision
from pipeline.steps.reconcile import reconcile, reconcile_period
from pipeline.steps.workspace import Workspace
from tests.steps.night import AT, forged_revision, revision_of

NEXT_DAY = AT + timedelta(days=1)
LOST = {"usage": "SELECT * FROM usage WHERE account_id <> 'acct-1'"}


def refused(ws: Workspace, revision: WindowRevision, queries: dict[str, str]) -> WindowRevision:
    """Return the next revision of the window, with rows that no step made, after it was reconciled."""
    forged = forged_revision(ws, revision, queries)
    with suppress(ReconciliationError):
        reconcile(ws, forged.window_id, forged.revision, AT)
    return forged


def quantity_break(ws: Workspace, *, include_resolved: bool = False) -> Break:
    [found] = [
        one
        for one in ws.control_plane.breaks(include_resolved=include_resolved)
        if (one.control, one.scope) == ("usage_quantity", "requests")
    ]
    return found


def actions(ws: Workspace) -> Iterator[str]:
    return (entry.action for entry in ws.control_plane.audit_log() if entry.action.startswith("break_"))


def test_a_failed_control_opens_a_break_with_its_figures(night: Workspace) -> None:
    refused(night, revision_of(night), LOST)

    found = quantity_break(night)

    assert (found.key, found.window_id, found.period_id) == (
        "usage_quantity/window=2026-01-15/requests/requests",
        "2026-01-15",
        None,
    )
    assert (found.expected, found.actual, found.delta, found.break_class) == (3, 2, -1, BreakClass.MISSING)
    assert (found.opened_at, found.opened_in, found.owner) == (AT, "window 2026-01-15 revision 2", None)
    assert "break_opened" in set(actions(night))


def test_a_night_that_ties_opens_none(night: Workspace) -> None:
    revision = revision_of(night)

    reconcile(night, revision.window_id, revision.revision, AT)

    assert night.control_plane.breaks() == []
    assert list(actions(night)) == []


def test_a_break_is_carried_over_with_the_figures_of_the_newest_revision(night: Workspace) -> None:
    second = refused(night, revision_of(night), LOST)
    first_seen = quantity_break(night)
    forged = forged_revision(night, second, {"usage": "SELECT * FROM usage WHERE account_id = 'acct-3'"})

    with pytest.raises(ReconciliationError):
        reconcile(night, forged.window_id, forged.revision, NEXT_DAY)

    now = quantity_break(night)
    assert (now.break_id, now.opened_at, now.last_seen_at) == (first_seen.break_id, AT, NEXT_DAY)
    assert (now.actual, now.opened_in) == (Decimal(1), "window 2026-01-15 revision 2")
    assert "break_changed" in set(actions(night))


def test_a_break_whose_control_passes_is_resolved_by_itself_and_says_where(night: Workspace) -> None:
    whole = revision_of(night)
    lost = refused(night, whole, LOST)
    usage = night.control_plane.publication("usage", whole.scope, whole.revision)
    assert usage is not None

    mended = forged_revision_of(night, whole, lost)
    reconcile(night, mended.window_id, mended.revision, NEXT_DAY)

    found = quantity_break(night, include_resolved=True)
    assert night.control_plane.breaks() == []
    assert (found.resolved_at, found.resolved_by, found.resolution) == (
        NEXT_DAY,
        "reconcile",
        "the control passes in window 2026-01-15 revision 3",
    )


def forged_revision_of(night: Workspace, whole: WindowRevision, newest: WindowRevision) -> WindowRevision:
    """Return the next revision after the newest, with all the rows of the whole one."""
    from dataclasses import replace

    from pipeline.core.dataset import EXCLUDED_EVENTS, USAGE, USAGE_LEVELS, USAGE_VALUES
    from pipeline.core.revision import RevisionState
    from pipeline.steps.deduplicate import revision_pins
    from pipeline.steps.publish import dataset_files, publish_revision
    from pipeline.steps.rate import rate

    opened = night.control_plane.open_revision(
        replace(whole, revision=newest.revision + 1, inputs_hash="e" * 64, state=RevisionState.CANDIDATE), NEXT_DAY
    )
    for dataset in (EXCLUDED_EVENTS, USAGE_VALUES, USAGE_LEVELS, USAGE):
        files = dataset_files(night, dataset, whole.scope, whole.revision)
        publish_revision(night, dataset, opened.scope, opened.revision, files, revision_pins(opened), NEXT_DAY)
    rate(night, opened.window_id, opened.revision, NEXT_DAY)
    return opened


def test_reconciling_a_revision_again_says_nothing_about_what_is_open_now(night: Workspace) -> None:
    lost = refused(night, revision_of(night), LOST)
    found = quantity_break(night)
    night.control_plane.resolve_break(found.break_id, "known outage", AT, "eve")

    with pytest.raises(ReconciliationError):
        reconcile(night, lost.window_id, lost.revision, NEXT_DAY)

    settled = quantity_break(night, include_resolved=True)
    assert (settled.resolved_by, settled.resolution) == ("eve", "known outage")


def test_a_break_that_somebody_settled_is_opened_again_as_another_one_when_the_control_still_fails(
    night: Workspace,
) -> None:
    second = refused(night, revision_of(night), LOST)
    settled = quantity_break(night)
    night.control_plane.resolve_break(settled.break_id, "known outage", AT, "eve")

    refused(night, second, {})

    assert quantity_break(night).break_id > settled.break_id


def test_an_account_whose_invoice_does_not_match_is_held_and_the_others_go_on(night: Workspace) -> None:
    drafts = [
        InvoiceDraft("acct-1", "USD", Decimal("0.00")),
        InvoiceDraft("acct-2", "USD", Decimal("0.00")),
        InvoiceDraft("acct-3", "EUR", Decimal("5.61")),
    ]

    reconcile_period(night, "period=2026-01", drafts, AT)

    [hold] = night.control_plane.holds("2026-01")
    assert (hold.account_id, hold.held_by) == ("acct-3", "control account_invoice")
    assert "expected 5.6 EUR, got 5.61 (0.01 too many, tolerance 0)" in hold.reason
    [found] = night.control_plane.breaks(domain="period=2026-01")
    assert (found.control, found.account_id, found.break_class) == ("account_invoice", "acct-3", BreakClass.AMOUNT)


def test_a_total_that_does_not_match_stops_everything(night: Workspace) -> None:
    from tests.steps.night import forged_draft

    forged_draft(night, "2026-01", "SELECT * FROM line_items WHERE account_id <> 'acct-3'")

    with pytest.raises(ReconciliationError, match="line_items does not match usage"):
        reconcile_period(night, "period=2026-01", [], AT)

    assert {one.control for one in night.control_plane.breaks(domain="period=2026-01")} == {
        "line_item_quantity",
        "line_item_accounts",
    }
