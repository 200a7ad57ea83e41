"""Usage that is known after a period is final: settled both ways, at its own prices, and never twice (P5)."""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.core.adjustment import adjustments
from pipeline.core.check import CHECK_RESULTS
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import InputError, NotReadyError, PublicationError, ReconciliationError
from pipeline.core.invoice import DocumentKind, IssuedDocument
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY
from pipeline.steps.adjust import adjust, is_unsettled, unsettled_periods
from pipeline.steps.close import close
from pipeline.steps.collect import collect
from pipeline.steps.documents import (
    billed_lines,
    document_bytes,
    store_documents,
    verify_documents,
    void_document,
)
from pipeline.steps.late import late_windows
from pipeline.steps.publish import read_manifest
from pipeline.steps.render import invoice_folder
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, PRICE_BOOK, put_events, write_project
from tests.steps.test_rate import AT, LAST_NIGHTS, bill, count_window, receive, tokens

NIGHTS = ("2026-01-30", "2026-01-31", "2026-02-01")
LATER = AT + ONE_DAY
MARCH = AT + timedelta(days=31)
LATE = "2026-02-02T12:00:00Z"  # received after January was closed

TIERS = PRICE_BOOK.replace(
    'model = "per_unit"\ncurrency = "USD"\nunit_price = 3\nper_units = 1_000_000',
    'model = "graduated"\ncurrency = "USD"\nper_units = 1_000_000\n'
    "tiers = [{ up_to = 1_000_000, unit_price = 3 }, { unit_price = 2, flat_fee = 1 }]",
)


@pytest.fixture(scope="module")
def closed_folder(s3_server: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose January is final: acct-1 used 900,000 tokens, acct-2 700,000; acct-3 nothing."""
    raw = ObjectStore("raw-of-adjust", s3_server.url)
    raw.create_bucket()
    settings = LAST_NIGHTS.replace("[seller]", '[seller]\ncredit_note_series = "CREDIT"')
    files = {"billing.toml": settings, "price_books/2025-01-01.toml": TIERS}
    folder = write_project(tmp_path_factory.mktemp("adjust") / "project", raw, files)
    workspace = open_workspace(folder)
    receive(
        workspace,
        tokens(900_000, "2026-01-30T10:00:00Z"),
        tokens(700_000, "2026-01-30T11:00:00Z", "customer-2"),
    )
    for night in NIGHTS:
        bill(workspace, night)
    close(workspace, "2026-01", AT)
    return folder


@pytest.fixture
def closed(closed_folder: Path, tmp_path: Path, raw_bucket: ObjectStore) -> Workspace:
    """A copy of the closed project with a bucket of its own for what comes late."""
    folder = Path(shutil.copytree(closed_folder, tmp_path / "project"))
    settings = folder / "billing.toml"
    settings.write_text(settings.read_text("utf-8").replace("raw-of-adjust", raw_bucket.bucket), encoding="utf-8")
    return open_workspace(folder)


def late(workspace: Workspace, *events: dict[str, Any]) -> None:
    """Receive events of 30 January after the close, and take them into a new revision of their window."""
    receive(workspace, *events, received_at=LATE)
    bill(workspace, "2026-01-30", include_late=True)


def documents(workspace: Workspace, account_id: str = "acct-1") -> list[IssuedDocument]:
    return workspace.control_plane.documents("2026-01", account_id)


def content(workspace: Workspace, document: IssuedDocument) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(document_bytes(workspace, document))
    return loaded


def token_lines(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (line["corrects_line_item_id"], line["quantity"], line["amount"])
        for line in document["lines"]
        if line["sku"] == "tokens-input"
    ]


def test_late_usage_is_settled_with_the_tiers_of_the_whole_month(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))

    result = adjust(closed, "2026-01", LATER)

    invoice, adjustment = documents(closed)
    assert [(one.account_id, one.kind, one.subtotal) for one in result.accounts] == [
        ("acct-1", DocumentKind.ADJUSTMENT, Decimal("2.30"))  # 100,000 more at 3, 500,000 at 2, and a fee of 1
    ]
    assert (adjustment.kind, adjustment.corrects, adjustment.total) == ("adjustment", invoice.number, Decimal("2.30"))
    stored = content(closed, adjustment)
    assert token_lines(stored) == [
        ("acct-1/tokens-input/2026-01/graduated/1", "100000", "0.3"),
        ("acct-1/tokens-input/2026-01/graduated/2", "500000", "2"),
    ]
    assert {line["price_book_version"] for line in stored["lines"]} == {
        line["price_book_version"] for line in content(closed, invoice)["lines"]
    }
    assert stored["period"]["period_id"] == "2026-01"
    assert len(documents(closed, "acct-2")) == 1, "who used nothing late gets nothing"
    [page] = invoice_folder(closed, "2026-01").glob(f"*/{adjustment.number}_acct-1.html")
    assert "Adjustment" in page.read_text(encoding="utf-8")


def test_the_document_names_the_events_that_caused_it(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))

    adjust(closed, "2026-01", LATER)

    [cause] = content(closed, documents(closed)[1])["causes"]
    [event] = cause.pop("events")
    assert cause == {"window_id": "2026-01-30", "revision_from": 1, "revision_to": 2, "event_count": 1}
    assert (event["id"], event["what"], event["line_number"]) == (
        "customer-1-2026-01-30T12:00:00Z-600000",
        "added",
        1,
    )
    assert event["object_id"].startswith("usage/customer-1-2026-01-30T12:00:00Z-600000.ndjson@")


def test_a_document_names_a_hundred_events_of_a_window_and_counts_all(closed: Workspace) -> None:
    events = [tokens(1_000, f"2026-01-30T12:{second // 60:02}:{second % 60:02}Z") for second in range(101)]
    put_events(closed.raw, "usage/late.ndjson", events, datetime.fromisoformat(LATE))
    collect(closed, AT, lambda _: None)
    bill(closed, "2026-01-30", include_late=True)

    adjust(closed, "2026-01", LATER)

    [cause] = content(closed, documents(closed)[1])["causes"]
    assert (cause["event_count"], len(cause["events"])) == (101, 100)


def test_documents_are_dated_by_the_day_of_their_issue_where_the_seller_is(closed: Workspace) -> None:
    late(closed, tokens(1_000, "2026-01-30T12:00:00Z"), tokens(1_000, "2026-01-30T12:00:00Z", "customer-2"))

    adjust(closed, "2026-01", datetime.fromisoformat("2026-02-04T03:00:00Z"))

    dates = [content(closed, documents(closed, account_id)[1])["issue_date"] for account_id in ("acct-1", "acct-2")]
    assert dates == ["2026-02-04", "2026-02-04"], "acct-2 is in New York"


def test_no_document_is_dated_before_one_of_a_smaller_number(closed: Workspace) -> None:
    late(closed, tokens(1_000, "2026-01-30T12:00:00Z"))
    adjust(closed, "2026-01", LATER)
    late(closed, tokens(1_000, "2026-01-30T13:00:00Z"))

    with pytest.raises(NotReadyError) as refused:
        adjust(closed, "2026-01", LATER - timedelta(seconds=1))

    assert refused.value.code == "document.issued_earlier"
    assert [one.number for one in adjust(closed, "2026-01", LATER).accounts] == ["TEST-000004"]


def test_less_usage_is_a_credit_note(closed: Workspace) -> None:
    late(closed, tokens(-400_000, "2026-01-30T12:00:00Z"))

    [account] = adjust(closed, "2026-01", LATER).accounts

    assert (account.kind, account.subtotal) == (DocumentKind.CREDIT_NOTE, Decimal("-1.20"))
    credit_note, invoice = documents(closed)  # in order of number
    assert (credit_note.kind, credit_note.number) == (DocumentKind.CREDIT_NOTE, "CREDIT-000001")
    assert credit_note.corrects == invoice.number
    assert verify_documents(closed).problems == ()
    late(closed, tokens(400_000, "2026-01-30T13:00:00Z"))
    adjust(closed, "2026-01", LATER)
    assert documents(closed)[2].corrects == invoice.number, "the invoice is corrected, not the credit note"


def test_more_usage_that_costs_nothing_is_an_adjustment_of_zero(closed: Workspace) -> None:
    late(closed, tokens(0, "2026-01-30T12:00:00Z"))

    [account] = adjust(closed, "2026-01", LATER).accounts

    assert (account.kind, account.total, account.line_count) == (DocumentKind.ADJUSTMENT, Decimal(0), 1)
    [line] = content(closed, documents(closed)[1])["lines"]
    assert (line["sku"], line["quantity"], line["amount"]) == ("requests", "1", "0")


def test_what_is_settled_is_not_settled_again(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    adjust(closed, "2026-01", LATER)
    audit_log = closed.control_plane.audit_log()

    again = adjust(closed, "2026-01", LATER + ONE_DAY)

    assert again.accounts == ()
    assert closed.control_plane.audit_log() == audit_log
    assert unsettled_periods(closed, "2026-02") == []


def test_later_usage_is_the_difference_to_everything_that_was_billed(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    adjust(closed, "2026-01", LATER)
    late(closed, tokens(-600_000, "2026-01-30T13:00:00Z"))

    [back] = adjust(closed, "2026-01", LATER).accounts

    assert (back.kind, back.subtotal) == (DocumentKind.CREDIT_NOTE, Decimal("-2.30"))
    assert back.number == "CREDIT-000001", "its own number, not that of the adjustment before"
    lines = [line for line in billed_lines(closed, "2026-01", "acct-1") if line.sku == "tokens-input"]
    assert sum(line.amount for line in lines) == Decimal("2.70")
    assert sum(line.quantity for line in lines) == 900_000
    line_ids = [line["line_item_id"] for document in documents(closed) for line in content(closed, document)["lines"]]
    assert len(line_ids) == len(set(line_ids)), "no two lines of a period have one id"


def test_usage_that_goes_back_to_what_was_closed_takes_the_adjustment_back(closed: Workspace) -> None:
    directory = closed.project.folder / "accounts.csv"
    directory.write_text(ACCOUNTS.replace(",,customer-1\n", ",,customer-1;customer-9\n"), encoding="utf-8")
    changed = open_workspace(closed.project.folder)
    late(changed, tokens(600_000, "2026-01-30T12:00:00Z", "customer-9"))
    adjust(changed, "2026-01", LATER)
    directory.write_text(ACCOUNTS, encoding="utf-8")
    back = open_workspace(closed.project.folder)
    bill(back, "2026-01-30")

    [account] = adjust(back, "2026-01", LATER).accounts

    assert (account.kind, account.subtotal) == (DocumentKind.CREDIT_NOTE, Decimal("-2.30"))


def test_a_dry_run_says_the_same_and_keeps_nothing(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    audit_log = closed.control_plane.audit_log()

    [account] = adjust(closed, "2026-01", LATER, dry_run=True).accounts

    assert (account.kind, account.subtotal, account.number) == (DocumentKind.ADJUSTMENT, Decimal("2.30"), None)
    assert closed.control_plane.audit_log() == audit_log
    assert len(documents(closed)) == 1


def test_a_period_keeps_its_prices_when_the_project_has_others_by_now(closed: Workspace) -> None:
    dearer = TIERS.replace("unit_price = 3", "unit_price = 300")
    (closed.project.folder / "price_books" / "2025-01-01.toml").write_text(dearer, encoding="utf-8")
    accounts = ACCOUNTS.replace("First Customer,USD,UTC", "First Customer,USD,Asia/Tokyo")
    (closed.project.folder / "accounts.csv").write_text(accounts, encoding="utf-8")
    changed = open_workspace(closed.project.folder)
    late(changed, tokens(600_000, "2026-01-30T12:00:00Z"))

    [account] = adjust(changed, "2026-01", LATER).accounts

    assert account.subtotal == Decimal("2.30")


def test_an_account_that_had_nothing_to_bill_gets_its_first_invoice(closed: Workspace) -> None:
    late(closed, tokens(1_000_000, "2026-01-30T12:00:00Z", "customer-3"))

    adjust(closed, "2026-01", LATER)

    [invoice] = documents(closed, "acct-3")
    assert (invoice.kind, invoice.total, invoice.corrects) == (DocumentKind.INVOICE, Decimal("2.80"), None)
    assert [line["line_item_id"] for line in content(closed, invoice)["lines"]] == [
        "acct-3/requests/2026-01/graduated/1",
        "acct-3/tokens-input/2026-01/per_unit/1",
    ]


def test_usage_that_is_taken_back_after_an_invoice_that_came_late_is_credited(closed: Workspace) -> None:
    directory = closed.project.folder / "accounts.csv"
    directory.write_text(ACCOUNTS.replace("customer-3\n", "customer-3;customer-9\n"), encoding="utf-8")
    changed = open_workspace(closed.project.folder)
    late(changed, tokens(1_000_000, "2026-01-30T12:00:00Z", "customer-9"))
    adjust(changed, "2026-01", LATER)
    directory.write_text(ACCOUNTS, encoding="utf-8")
    back = open_workspace(closed.project.folder)
    bill(back, "2026-01-30")

    [account] = adjust(back, "2026-01", LATER + ONE_DAY).accounts

    assert (account.account_id, account.kind, account.subtotal) == (
        "acct-3",
        DocumentKind.CREDIT_NOTE,
        -Decimal("2.80"),
    )


def test_less_usage_after_an_invoice_was_issued_again_is_credited(closed: Workspace) -> None:
    void_document(closed, documents(closed)[0].number, "wrong address", LATER, "ana")
    late(closed, tokens(100_000, "2026-01-30T12:00:00Z"))
    close(closed, "2026-01", LATER)
    late(closed, tokens(-100_000, "2026-01-30T13:00:00Z"))

    [account] = adjust(closed, "2026-01", LATER + ONE_DAY).accounts

    assert (account.account_id, account.kind, account.subtotal) == (
        "acct-1",
        DocumentKind.CREDIT_NOTE,
        -Decimal("0.30"),
    )
    [cause] = content(closed, documents(closed)[0])["causes"]
    assert (cause["revision_from"], cause["revision_to"], cause["event_count"]) == (2, 3, 1)


def test_an_account_that_is_not_found_to_have_changed_fails_the_control(
    closed: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    monkeypatch.setattr("pipeline.steps.adjust.adjustments", lambda *inputs: [])

    with pytest.raises(ReconciliationError, match="adjusted_amount"):
        adjust(closed, "2026-01", LATER)


def test_a_month_without_usage_is_settled_like_any_other(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    workspace = open_workspace(write_project(tmp_path / "project", raw_bucket, {"billing.toml": LAST_NIGHTS}))
    receive(workspace, tokens(1_000_000, "2026-02-01T12:00:00Z"))  # nothing in January
    for night in NIGHTS:
        bill(workspace, night)
    assert close(workspace, "2026-01", AT).invoices == []
    late(workspace, tokens(1_000_000, "2026-01-30T12:00:00Z"))

    assert unsettled_periods(workspace, "2026-02") == ["2026-01"]
    [account] = adjust(workspace, "2026-01", LATER).accounts
    assert (account.kind, account.total) == (DocumentKind.INVOICE, Decimal("3.00"))


def test_usage_that_moves_between_accounts_is_settled_on_both(closed: Workspace) -> None:
    moved = ACCOUNTS.replace(",,customer-1\n", ",,customer-0\n").replace(
        "customer-2;customer-2b", "customer-2;customer-1"
    )
    (closed.project.folder / "accounts.csv").write_text(moved, encoding="utf-8")
    changed = open_workspace(closed.project.folder)
    bill(changed, "2026-01-30")

    result = adjust(changed, "2026-01", LATER)

    assert [(one.account_id, one.kind, one.subtotal) for one in result.accounts] == [
        ("acct-1", DocumentKind.CREDIT_NOTE, Decimal("-2.70")),
        ("acct-2", DocumentKind.ADJUSTMENT, Decimal("3.10")),  # 300,000 at 3, 600,000 at 2, and a fee of 1
    ]


def test_a_held_account_waits_and_the_others_are_settled(closed: Workspace) -> None:
    closed.control_plane.hold_account("2026-01", "acct-1", "disputed", LATER, "ana")
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"), tokens(1_000, "2026-01-30T12:00:00Z", "customer-2"))

    result = adjust(closed, "2026-01", LATER)

    assert [one.account_id for one in result.accounts] == ["acct-2"]
    assert list(result.held) == ["acct-1"]
    closed.control_plane.release_account("2026-01", "acct-1", "settled", LATER, "ben")
    assert [one.account_id for one in close(closed, "2026-01", LATER).adjusted[0].accounts] == ["acct-1"]
    [cause] = content(closed, documents(closed)[1])["causes"]
    assert (cause["window_id"], cause["event_count"]) == ("2026-01-30", 1)


def test_a_period_is_unsettled_until_nobody_is_left_out_any_more(closed: Workspace) -> None:
    closed.control_plane.hold_account("2026-01", "acct-1", "disputed", LATER, "ana")
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    assert is_unsettled(closed, "2026-01")

    assert adjust(closed, "2026-01", LATER).accounts == ()

    assert not is_unsettled(closed, "2026-01"), "the account is held, so nothing can be settled"
    closed.control_plane.release_account("2026-01", "acct-1", "settled", LATER, "ben")
    assert unsettled_periods(closed, "2026-02") == ["2026-01"]
    adjust(closed, "2026-01", LATER)
    assert not is_unsettled(closed, "2026-01")


def test_a_window_that_changes_no_line_is_rated_again_once(closed: Workspace) -> None:
    late(closed, tokens(1, "2026-01-30T12:00:00Z", "nobody"))
    assert is_unsettled(closed, "2026-01")

    assert adjust(closed, "2026-01", LATER).accounts == ()

    assert not is_unsettled(closed, "2026-01")


def test_an_account_that_waits_for_its_next_invoice_is_billed_by_that_alone(closed: Workspace) -> None:
    void_document(closed, documents(closed)[0].number, "wrong address", LATER, "ana")
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))

    waits = adjust(closed, "2026-01", LATER)
    assert (waits.accounts, waits.waiting) == ((), ("acct-1",))

    close(closed, "2026-01", LATER)
    _, invoice = documents(closed)
    assert (invoice.kind, invoice.total) == (DocumentKind.INVOICE, Decimal("5.00"))
    late(closed, tokens(500_000, "2026-01-30T13:00:00Z"))
    [account] = adjust(closed, "2026-01", LATER).accounts
    assert account.subtotal == Decimal("1.00")
    assert documents(closed)[2].corrects == invoice.number, "the invoice that is owed, not the void one"


def test_the_line_items_are_checked_before_anything_is_issued(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))

    adjust(closed, "2026-01", LATER)

    scope = "period=2026-01/adjusted"
    lines, checked = (closed.control_plane.publication(name, scope) for name in (LINE_ITEMS.name, CHECK_RESULTS))
    assert lines is not None
    assert checked is not None
    pins = read_manifest(closed, checked.manifest_hash).pins
    assert pins["checked"] == [[LINE_ITEMS.name, scope, lines.manifest_hash]]


def test_documents_that_would_not_bill_what_the_period_comes_to_take_no_number(
    closed: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.steps.adjust.adjustments", lambda *inputs: adjustments(*inputs)[:-1])
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))

    with pytest.raises(ReconciliationError) as refused:
        adjust(closed, "2026-01", LATER)

    assert "adjusted_amount" in str(refused.value)
    assert len(documents(closed)) == 1


def test_nothing_is_issued_on_an_audit_log_that_somebody_changed(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    with sqlite3.connect(closed.project.folder / "control_plane.db") as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_log'")
        for (trigger,) in triggers.fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        database.execute("UPDATE audit_log SET details = '{}' WHERE entry_number = 5")

    with pytest.raises(PublicationError, match="audit"):
        adjust(closed, "2026-01", LATER)

    assert len(documents(closed)) == 1


def test_a_voided_adjustment_is_settled_again_by_another(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    [first] = adjust(closed, "2026-01", LATER).accounts
    assert first.number is not None
    void_document(closed, first.number, "wrong address", LATER, "ana")
    assert is_unsettled(closed, "2026-01")

    [second] = adjust(closed, "2026-01", LATER).accounts

    assert (second.subtotal, second.number) != (first.subtotal, first.number)
    assert second.subtotal == first.subtotal


def test_closing_the_next_period_settles_the_ones_before(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    assert unsettled_periods(closed, "2026-02") == ["2026-01"]
    assert unsettled_periods(closed, "2026-01") == [], "a period does not come before itself"

    with pytest.raises(NotReadyError, match="cannot be closed yet"):
        close(closed, "2026-02", LATER)
    assert len(documents(closed)) == 1, "a close that is refused settles nothing"

    collect(closed, MARCH, lambda _: None)
    for window_id in [*(f"2026-02-{day:02}" for day in range(2, 29)), "2026-03-01"]:
        revision = count_window(closed, window_id).revision
        closed.control_plane.decide_revision(window_id, revision, RevisionState.ACCEPTED, MARCH, "test")
    result = close(closed, "2026-02", MARCH)

    assert [one.period_id for one in result.adjusted] == ["2026-01"]
    assert [document.kind.value for document in documents(closed)] == ["invoice", "adjustment"]


def test_a_window_of_a_final_period_is_due_when_usage_comes_late(closed: Workspace) -> None:
    receive(closed, tokens(1, "2026-01-30T12:00:00Z"), received_at=LATE)

    assert [window.window_id for window in late_windows(closed)] == ["2026-01-30"]


def test_an_open_period_is_not_adjusted(closed: Workspace) -> None:
    receive(closed, tokens(1, "2026-02-01T12:00:00Z"), received_at=LATE)
    [draft] = bill(closed, "2026-02-01", include_late=True)
    assert draft.scope == "period=2026-02"

    with pytest.raises(InputError, match="period 2026-02 is not final"):
        adjust(closed, "2026-02", LATER)


def test_two_that_settle_at_once_issue_one_document(closed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))

    def overtaken(workspace: Workspace) -> Any:
        monkeypatch.undo()
        adjust(closed, "2026-01", LATER + timedelta(seconds=1))
        return store_documents(workspace)

    monkeypatch.setattr("pipeline.steps.adjust.store_documents", overtaken)

    with pytest.raises(PublicationError, match="were issued meanwhile"):
        adjust(closed, "2026-01", LATER)

    assert len(documents(closed)) == 2
