"""Usage that is known after a period is final: settled both ways, at its own prices, and never twice (P5)."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.core.errors import InputError, NotReadyError, PublicationError
from pipeline.core.invoice import DocumentKind, IssuedDocument
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY
from pipeline.steps.adjust import adjust, unsettled_periods
from pipeline.steps.close import close
from pipeline.steps.collect import collect
from pipeline.steps.documents import billed_lines, document_bytes, verify_documents, void_document
from pipeline.steps.late import late_windows
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, PRICE_BOOK, write_project
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
    files = {"billing.toml": LAST_NIGHTS, "price_books/2025-01-01.toml": TIERS}
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


def test_less_usage_is_a_credit_note(closed: Workspace) -> None:
    late(closed, tokens(-400_000, "2026-01-30T12:00:00Z"))

    [account] = adjust(closed, "2026-01", LATER).accounts

    assert (account.kind, account.subtotal) == (DocumentKind.CREDIT_NOTE, Decimal("-1.20"))
    assert documents(closed)[1].kind is DocumentKind.CREDIT_NOTE
    assert verify_documents(closed).problems == ()


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
    lines = [line for line in billed_lines(closed, "2026-01", "acct-1") if line.sku == "tokens-input"]
    assert sum(line.amount for line in lines) == Decimal("2.70")
    assert sum(line.quantity for line in lines) == 900_000


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
    assert [one.account_id for one in adjust(closed, "2026-01", LATER).accounts] == ["acct-1"]


def test_a_voided_adjustment_is_settled_again_by_another(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    [first] = adjust(closed, "2026-01", LATER).accounts
    assert first.number is not None
    void_document(closed, first.number, "wrong address", LATER, "ana")

    [second] = adjust(closed, "2026-01", LATER).accounts

    assert (second.subtotal, second.number) != (first.subtotal, first.number)
    assert second.subtotal == first.subtotal


def test_closing_the_next_period_settles_the_ones_before(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    assert unsettled_periods(closed, "2026-02") == ["2026-01"]

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
    with pytest.raises(InputError, match="period 2026-02 is not final"):
        adjust(closed, "2026-02", LATER)


def test_two_that_settle_at_once_issue_one_document(closed: Workspace) -> None:
    late(closed, tokens(600_000, "2026-01-30T12:00:00Z"))
    issue = closed.control_plane.issue_documents
    calls = []

    def overtaken(*arguments: Any) -> int:
        if not calls:
            calls.append(arguments)
            adjust(closed, "2026-01", LATER + timedelta(seconds=1))
        return issue(*arguments)

    closed.control_plane.issue_documents = overtaken  # type: ignore[method-assign]

    with pytest.raises(PublicationError, match="were issued meanwhile"):
        adjust(closed, "2026-01", LATER)

    assert len(documents(closed)) == 2
