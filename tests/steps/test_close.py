"""Closing a period: on evidence only, once, without a gap in the numbers, with documents that never change."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.invoice_files import Format
from pipeline.adapters.lake import DataFileRef, Lake
from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.check import CHECK_RESULTS
from pipeline.core.credit import CreditKind
from pipeline.core.dataset import LINE_ITEMS, RECONCILIATION
from pipeline.core.errors import InputError, NotReadyError, PricingError, PublicationError
from pipeline.core.line_item import LineItem
from pipeline.core.manifest import Receipt, sha256_hex
from pipeline.core.project import DocumentsSettings
from pipeline.core.reconciliation import Control, Equation
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY
from pipeline.steps import drafts as drafts_module
from pipeline.steps.close import close
from pipeline.steps.collect import collect
from pipeline.steps.credits import grant_credit
from pipeline.steps.documents import (
    VerifiedDocuments,
    billed_lines,
    document_bytes,
    verify_documents,
    void_document,
)
from pipeline.steps.drafts import write_drafts
from pipeline.steps.holds import hold_account, release_account
from pipeline.steps.prepare import account_scope, windows_of_period
from pipeline.steps.publish import dataset_files, read_manifest
from pipeline.steps.rate import line_items_in, rate_period, rated_period
from pipeline.steps.reconcile import published_controls
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, write_project
from tests.steps.test_rate import AT, LAST_NIGHTS, bill, count_window, draft, receive, tokens

NIGHTS = ("2026-01-30", "2026-01-31", "2026-02-01")  # New York ends its January on 1 February, 05:00 UTC


def published_lines(workspace: Workspace, receipt: Receipt) -> list[LineItem]:
    with Warehouse(workspace.scratch) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, dataset_files(workspace, receipt))
        return list(line_items_in(warehouse))


SIX_ACCOUNTS = (
    ACCOUNTS
    + """acct-4,Idle Customer,USD,UTC,standard,2026-01-01T00:00:00Z,,customer-4
acct-5,Tiny Customer,USD,UTC,standard,2026-01-01T00:00:00Z,,customer-5
acct-6,Credited Customer,USD,UTC,standard,2026-01-01T00:00:00Z,,customer-6
"""
)


@pytest.fixture
def january(tmp_path: Path, raw_bucket: ObjectStore) -> Workspace:
    """A project whose January ends within its first three windows; the few requests of a test are free of charge."""
    return open_workspace(write_project(tmp_path / "project", raw_bucket, {"billing.toml": LAST_NIGHTS}))


@pytest.fixture(scope="module")
def ready_folder(
    s3_server: S3Endpoint, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """A project with five customers who used something in January, and every night of it accepted."""
    module: str = request.module.__name__
    raw = ObjectStore(f"raw-of-{module.rpartition('.')[2].replace('_', '-')}", s3_server.url)
    raw.create_bucket()
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": SIX_ACCOUNTS}
    folder = write_project(tmp_path_factory.mktemp("close") / "project", raw, files)
    workspace = open_workspace(folder)
    receive(
        workspace,
        tokens(1_500_000, "2026-01-30T10:00:00Z"),
        tokens(500_001, "2026-01-31T10:00:00Z"),
        tokens(700_000, "2026-02-01T04:00:00Z", "customer-2"),  # still January in New York
        tokens(250_000, "2026-01-30T12:00:00Z", "customer-3"),
        tokens(1, "2026-01-30T12:00:00Z", "customer-5"),
        tokens(-2_000_000, "2026-01-30T12:00:00Z", "customer-6"),
    )
    for night in NIGHTS:
        bill(workspace, night)
    return folder


@pytest.fixture
def ready(ready_folder: Path, tmp_path: Path) -> Workspace:
    """A copy of the billed project: its lake, its control plane, and the same bucket."""
    return open_workspace(Path(shutil.copytree(ready_folder, tmp_path / "project")))


def files_of(folder: Path) -> dict[str, bytes]:
    """The pages and documents of a folder by name, without the indexes that lie beside them."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("TEST-*_*"))}


def documents(workspace: Workspace, period_id: str = "2026-01") -> list[dict[str, Any]]:
    return [
        json.loads(document_bytes(workspace, document)) for document in workspace.control_plane.documents(period_id)
    ]


def in_formats(workspace: Workspace, *formats: Format) -> Workspace:
    settings = workspace.project.settings
    changed = settings.model_copy(update={"documents": DocumentsSettings(formats=formats)})
    return replace(workspace, project=replace(workspace.project, settings=changed))


def tokens_line(document: dict[str, Any]) -> dict[str, Any]:
    return next(line for line in document["lines"] if line["sku"] == "tokens-input")


def test_each_account_with_usage_gets_one_numbered_invoice_in_order_of_account(ready: Workspace) -> None:
    result = close(ready, "2026-01", AT)

    assert [(i.number, i.account_id, i.total, i.currency) for i in result.invoices] == [
        ("TEST-000001", "acct-1", Decimal("6.00"), "USD"),
        ("TEST-000002", "acct-2", Decimal("2.10"), "USD"),
        ("TEST-000003", "acct-3", Decimal("0.70"), "EUR"),
        ("TEST-000004", "acct-5", Decimal("0.00"), "USD"),  # a zero is invoiced, no usage (acct-4) is not
        ("TEST-000005", "acct-6", Decimal("-6.00"), "USD"),
    ]
    assert result.totals == {"EUR": Decimal("0.70"), "USD": Decimal("2.10")}
    assert ready.control_plane.period_state("2026-01") == "final"
    names = [f"{invoice.number}_{invoice.account_id}" for invoice in result.invoices]
    assert sorted(files_of(result.folder)) == [f"{name}.html" for name in names]


def test_the_document_in_the_lake_is_the_file_that_people_get(ready: Workspace) -> None:
    ready = in_formats(ready, "html", "json")
    result = close(ready, "2026-01", AT)

    files = files_of(result.folder)
    for invoice in result.invoices:
        content = files[f"{invoice.number}_{invoice.account_id}.json"]
        assert sha256_hex(content) == invoice.document_sha256
        assert f"Invoice {invoice.number}" in files[f"{invoice.number}_{invoice.account_id}.html"].decode()


def test_the_invoice_rests_on_the_line_items_that_are_published(ready: Workspace) -> None:
    close(ready, "2026-01", AT)

    receipt = ready.control_plane.publication(LINE_ITEMS.name, "period=2026-01")
    assert receipt is not None
    assert {document["evidence"]["line_items_manifest"] for document in documents(ready)} == {receipt.manifest_hash}
    printed = {line["line_item_id"]: Decimal(line["amount"]) for doc in documents(ready) for line in doc["lines"]}
    assert printed == {row["line_item_id"]: row["amount"] for row in draft(ready)}


def test_closing_publishes_no_second_draft_when_nothing_changed(ready: Workspace) -> None:
    before = ready.control_plane.publication(LINE_ITEMS.name, "period=2026-01")

    close(ready, "2026-01", AT)

    assert ready.control_plane.publication(LINE_ITEMS.name, "period=2026-01") == before


def test_the_controls_of_the_period_are_published(ready: Workspace) -> None:
    close(ready, "2026-01", AT)

    assert dataset_files(ready, RECONCILIATION, "period=2026-01")


def test_the_line_items_are_checked_before_they_are_invoiced(ready: Workspace) -> None:
    close(ready, "2026-01", AT)

    lines = ready.control_plane.publication(LINE_ITEMS.name, "period=2026-01")
    checked = ready.control_plane.publication(CHECK_RESULTS, "period=2026-01")
    assert lines is not None
    assert checked is not None
    pins = read_manifest(ready, checked.manifest_hash).pins
    assert pins["checked"] == [[LINE_ITEMS.name, "period=2026-01", lines.manifest_hash]]


def test_a_period_is_not_closed_when_what_its_nights_were_computed_from_has_changed(ready: Workspace) -> None:
    moved = SIX_ACCOUNTS.replace(",customer-5\n", ",customer-55\n")
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": moved}
    changed = open_workspace(write_project(ready.project.folder, ready.raw, files))

    with pytest.raises(NotReadyError) as refused:
        close(changed, "2026-01", AT)

    assert len([line for line in refused.value.details if "changed inputs" in line]) == len(NIGHTS)
    assert changed.control_plane.documents() == []


@pytest.mark.parametrize(("time_zone", "is_joined"), [("UTC", True), ("Etc/UTC", True), ("Asia/Tokyo", False)])
def test_an_account_whose_zone_changed_after_a_close_is_never_billed_twice_or_never(
    ready: Workspace, time_zone: str, is_joined: bool
) -> None:
    close(ready, "2026-01", AT)
    moved = SIX_ACCOUNTS.replace("acct-5,Tiny Customer,USD,UTC", f"acct-5,Tiny Customer,USD,{time_zone}")
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": moved}
    changed = open_workspace(write_project(ready.project.folder, ready.raw, files))

    if is_joined:
        with rated_period(changed, "2026-02", None) as rated:
            assert rated.period_id == "2026-02"
    else:
        with pytest.raises(PricingError, match="account acct-5: 2026-01 was closed in UTC"):
            rate_period(changed, "2026-02", AT, None)


def test_an_account_that_left_after_its_last_invoice_does_not_stop_the_next_month(ready: Workspace) -> None:
    spaced = SIX_ACCOUNTS.replace(",UTC,", ", UTC ,")
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": spaced}
    close(open_workspace(write_project(ready.project.folder, ready.raw, files)), "2026-01", AT)
    gone = "\n".join(line for line in spaced.splitlines() if not line.startswith("acct-1,"))
    changed = open_workspace(write_project(ready.project.folder, ready.raw, {**files, "accounts.csv": gone}))

    february = rate_period(changed, "2026-02", AT, None)

    assert "acct-1" not in {line.account_id for line in published_lines(changed, february)}


def test_usage_of_an_account_that_left_the_directory_is_never_dropped_silently(ready: Workspace) -> None:
    gone = "\n".join(line for line in SIX_ACCOUNTS.splitlines() if not line.startswith("acct-3,"))
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": gone}
    changed = open_workspace(write_project(ready.project.folder, ready.raw, files))

    with pytest.raises(PricingError, match="account acct-3"):
        rate_period(changed, "2026-01", AT, None)
    with pytest.raises(NotReadyError):
        close(changed, "2026-01", AT)


def test_an_invoice_that_is_issued_again_is_dated_by_its_own_issue(ready: Workspace) -> None:
    close(ready, "2026-01", AT)
    void_document(ready, "TEST-000001", "wrong name", AT, "ana")
    close(ready, "2026-01", AT + timedelta(days=40))

    dates = {document["number"]: document["issue_date"] for document in documents(ready)}
    assert sorted(dates.items()) == [
        *((f"TEST-00000{number}", "2026-02-03") for number in (1, 2, 3, 4, 5)),
        ("TEST-000006", "2026-03-15"),
    ]


def test_a_credit_that_a_void_gave_back_pays_the_invoice_that_is_issued_again_after_its_expiry(
    ready: Workspace,
) -> None:
    for amount, last_day in (("5", date(2026, 1, 31)), ("0.50", date(2026, 1, 30))):
        grant_credit(
            *(ready, "acct-1", "USD", CreditKind.PREPAID, Decimal(amount), "paid", AT, "ana"), expires_on=last_day
        )
    first = close(ready, "2026-01", AT).invoices[0]
    assert first.amount_due == Decimal("1.00"), "a credit that expires before the last day of the period is not drawn"
    void_document(ready, first.number, "wrong name", AT, "ana")

    issued_again = close(ready, "2026-01", AT + timedelta(days=40)).invoices[-1]

    assert (issued_again.account_id, issued_again.amount_due) == ("acct-1", Decimal("1.00"))


def test_closing_again_gives_the_same_invoices_and_the_same_bytes(ready: Workspace) -> None:
    first = close(ready, "2026-01", AT)
    files = files_of(first.folder)
    audit_log = ready.control_plane.audit_log()

    again = close(open_workspace(ready.project.folder), "2026-01", AT + ONE_DAY)

    assert again == first
    assert files_of(again.folder) == files
    assert ready.control_plane.audit_log() == audit_log


def test_lost_copies_are_written_again_byte_by_byte(ready: Workspace) -> None:
    first = close(ready, "2026-01", AT)
    files = files_of(first.folder)
    shutil.rmtree(first.folder)

    close(ready, "2026-01", AT)

    assert files_of(first.folder) == files


class LakeThatIsFull:
    """A real lake that fails when documents are to be stored, as a full disk would."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def put_bytes(self, content: bytes, directory: str, suffix: str) -> DataFileRef:
        if (directory, suffix) == ("documents", ".jsonl"):
            raise OSError("no space left on device")
        return self._lake.put_bytes(content, directory, suffix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lake, name)


def test_a_close_that_dies_while_documents_are_stored_takes_no_number(ready: Workspace) -> None:
    with pytest.raises(OSError, match="no space left"):
        close(replace(ready, lake=LakeThatIsFull(ready.lake)), "2026-01", AT)

    assert ready.control_plane.documents() == []
    assert ready.control_plane.period_state("2026-01") == "open"
    assert close(ready, "2026-01", AT).invoices[0].number == "TEST-000001"


def test_a_close_that_dies_before_its_pages_is_finished_by_the_next_one(ready: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError, match="a file"):
        close(replace(ready, out=tmp_path / "a file"), "2026-01", AT)
    issued = ready.control_plane.documents("2026-01")
    assert len(issued) == 5

    result = close(ready, "2026-01", AT)

    assert result.invoices == issued
    assert len(files_of(result.folder)) == 5


def test_a_document_whose_bytes_were_changed_is_named_with_both_hashes(ready: Workspace) -> None:
    document = close(ready, "2026-01", AT).invoices[1]
    path = ready.project.folder / "lake" / f"documents/{document.bundle.sha256}.jsonl"
    content = path.read_bytes()
    at = content.index(b"Second Customer")
    path.write_bytes(content[:at] + b"5" + content[at + 1 :])

    with pytest.raises(PublicationError) as refused:
        document_bytes(ready, document)
    verified = verify_documents(ready)

    assert refused.value.code == "document.content_changed"
    assert document.number in refused.value.summary
    actual = sha256_hex(path.read_bytes()[document.bundle.start :][: document.bundle.byte_count])
    assert f"expected SHA-256 {document.document_sha256}, got {actual}" in refused.value.details
    assert verified.document_count == 5
    assert [problem.splitlines()[0] for problem in verified.problems] == [str(refused.value).splitlines()[0]]


def test_documents_are_verified_against_the_control_plane(ready: Workspace) -> None:
    ready.control_plane.grant_credit("acct-1", "USD", CreditKind.PREPAID, Decimal("2.50"), "paid", AT, "ana")
    close(ready, "2026-01", AT)
    assert verify_documents(ready) == verify_documents(ready, "2026-01") == VerifiedDocuments(5, ())

    with sqlite3.connect(ready.project.folder / "control_plane.db") as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        database.execute("UPDATE documents SET amount_due = '0' WHERE number = 'TEST-000002'")
        database.execute("UPDATE credit_entries SET amount = '2.49'")
        database.execute("DELETE FROM documents WHERE number = 'TEST-000004'")

    assert verify_documents(ready).problems == (
        "document TEST-000002: amount_due is 2.1, the control plane has 0",
        "document TEST-000001: draws 2.5 of credit-000001, the ledger has 2.49",
        "series TEST: number TEST-000004 has no document",
    )


def test_a_held_account_is_invoiced_when_it_is_released_and_everybody_else_stays_to_the_byte(ready: Workspace) -> None:
    hold_account(ready, "2026-01", "acct-2", "disputed", AT, "ana")
    first = close(ready, "2026-01", AT)
    assert [(one.number, one.account_id) for one in first.invoices] == [
        ("TEST-000001", "acct-1"),
        ("TEST-000002", "acct-3"),
        ("TEST-000003", "acct-5"),
        ("TEST-000004", "acct-6"),
    ]
    assert first.held == {"acct-2": "disputed"}
    assert close(ready, "2026-01", AT) == first, "nothing is issued while the account is held"
    files = files_of(first.folder)

    release_account(ready, "2026-01", "acct-2", "settled", AT, "ana")
    second = close(ready, "2026-01", AT + ONE_DAY)

    assert second.invoices[:4] == first.invoices
    [issued] = second.invoices[4:]
    assert (issued.number, issued.account_id, issued.total) == ("TEST-000005", "acct-2", Decimal("2.10"))
    assert {name: content for name, content in files_of(second.folder).items() if name in files} == files
    assert close(ready, "2026-01", AT) == second
    assert verify_documents(ready).problems == ()
    controls = controls_of_one_account(ready, "acct-2")
    of_account = {one.control: (one.expected, one.actual) for one in controls if one.unit in ("tokens", "USD")}
    assert of_account[Equation.LINE_ITEM_QUANTITY] == (700_000, 700_000), "no usage of the other accounts"
    assert of_account[Equation.INVOICED_AMOUNT] == (Decimal("2.1"), Decimal("2.1"))


def controls_of_one_account(workspace: Workspace, account_id: str) -> list[Control]:
    scope = account_scope("2026-01", [account_id])
    receipt = workspace.control_plane.publication(RECONCILIATION.name, scope)
    assert receipt is not None
    return published_controls(workspace, receipt)


def test_an_invoice_that_is_voided_is_issued_again_with_another_number_as_the_project_is_now(ready: Workspace) -> None:
    first = close(ready, "2026-01", AT)
    void_document(ready, "TEST-000002", "wrong name", AT, "ana")
    renamed = SIX_ACCOUNTS.replace("Second Customer", "Second Customer Inc")
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": renamed}
    changed = open_workspace(write_project(ready.project.folder, ready.raw, files))

    second = close(changed, "2026-01", AT)

    assert [one.number for one in second.invoices] == [f"TEST-00000{n}" for n in (1, 3, 4, 5, 6)]
    assert second.invoices[:4] == [first.invoices[0], *first.invoices[2:]]
    by_number = {document["number"]: document for document in documents(changed)}
    assert by_number["TEST-000006"]["customer"]["name"] == "Second Customer Inc"
    assert by_number["TEST-000006"]["lines"] == by_number["TEST-000002"]["lines"]
    assert second.totals == first.totals
    assert verify_documents(changed).problems == ()


def test_what_was_billed_to_an_account_is_read_from_its_documents_that_are_not_void(ready: Workspace) -> None:
    close(ready, "2026-01", AT)
    lines = billed_lines(ready, "2026-01", "acct-1")
    void_document(ready, "TEST-000001", "wrong name", AT, "ana")
    assert billed_lines(ready, "2026-01", "acct-1") == []

    close(ready, "2026-01", AT)

    assert billed_lines(ready, "2026-01", "acct-1") == lines
    receipt = ready.control_plane.publication(LINE_ITEMS.name, "period=2026-01")
    assert receipt is not None
    rated = [line for line in published_lines(ready, receipt) if line.account_id == "acct-1"]
    assert sorted(lines, key=lambda line: line.line_item_id) == sorted(rated, key=lambda line: line.line_item_id)


TAXES = """
[[rates]]
region = "IE"
name = "VAT"
percent = 23

[[rates]]
region = "export"
name = "VAT"
percent = 0
reason = "reverse_charge"
note = "VAT is owed by the customer (reverse charge)."
"""


def with_taxes(ready: Workspace, *regions: str) -> Workspace:
    header, *rows = SIX_ACCOUNTS.splitlines()
    with_region = [f"{row},{region},GB12345" for row, region in zip(rows, regions, strict=True)]
    accounts = "\n".join([f"{header},tax_region,tax_id", *with_region])
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": accounts, "taxes.toml": TAXES}
    changed = open_workspace(write_project(ready.project.folder, ready.raw, files))
    for night in NIGHTS:
        bill(changed, night)
    return changed


def test_taxes_and_credits_of_an_account_are_on_its_invoice(ready: Workspace) -> None:
    changed = with_taxes(ready, "IE", "export", "IE", "", "IE", "IE")
    for account_id, currency, amount in (("acct-1", "USD", "5"), ("acct-2", "USD", "50"), ("acct-6", "USD", "9")):
        grant_credit(changed, account_id, currency, CreditKind.PREPAID, Decimal(amount), "paid", AT, "ana")

    result = close(changed, "2026-01", AT)

    assert [(one.account_id, f"{one.total:f}", f"{one.amount_due:f}") for one in result.invoices] == [
        ("acct-1", "7.38", "2.38"),
        ("acct-2", "2.10", "0.00"),
        ("acct-3", "0.86", "0.86"),
        ("acct-5", "0.00", "0.00"),
        ("acct-6", "-7.38", "-7.38"),
    ]
    exported = documents(changed)[1]
    assert exported["taxes"][0]["note"] == "VAT is owed by the customer (reverse charge)."
    assert exported["evidence"]["tax_table_sha256"] == sha256_hex(TAXES.encode())
    left = {one.grant.account_id: f"{one.balance:f}" for one in changed.control_plane.credit_balances()}
    assert left == {"acct-1": "0", "acct-2": "47.90", "acct-6": "9"}
    assert verify_documents(changed).problems == ()


def test_a_period_keeps_its_taxes_and_its_seller_when_the_project_has_others_by_now(ready: Workspace) -> None:
    at_close = with_taxes(ready, "IE", "IE", "IE", "IE", "IE", "IE")
    close(at_close, "2026-01", AT)
    void_document(at_close, "TEST-000002", "wrong name", AT, "ana")
    accounts = at_close.project.files["accounts.csv"].decode()
    accounts = accounts.replace(",IE,", ",export,").replace("Second", "2nd")
    accounts = accounts.replace("customer-6", "none").replace("customer-1", "customer-1;customer-6")
    renamed = LAST_NIGHTS.replace('legal_entity = "', 'legal_entity = "New ')
    files = {"billing.toml": renamed, "accounts.csv": accounts, "taxes.toml": TAXES.replace("23", "16")}
    changed = open_workspace(write_project(ready.project.folder, ready.raw, files))
    assert changed.project.settings.seller != at_close.project.settings.seller
    for night in NIGHTS:
        bill(changed, night)

    close(changed, "2026-01", AT + ONE_DAY)

    by_number = {one["number"]: one for one in documents(changed)}
    invoice, again, credit_note, adjustment = (by_number[f"TEST-00000{number}"] for number in (2, 6, 7, 8))
    assert again["customer"] == {**invoice["customer"], "name": "2nd Customer"}
    assert again["taxes"] == invoice["taxes"]
    assert [(one["document"], one["total"], one["taxes"][0]["tax"]) for one in (credit_note, adjustment)] == [
        ("credit_note", "-7.38", "-1.38"),
        ("adjustment", "7.38", "1.38"),
    ]
    assert again["seller"] == adjustment["seller"] == invoice["seller"]
    hashes = {one["evidence"]["tax_table_sha256"] for one in (invoice, again, adjustment)}
    assert hashes == {sha256_hex(TAXES.encode())}


def test_an_account_without_a_tax_rate_stops_the_close_by_name_unless_it_is_held(ready: Workspace) -> None:
    changed = with_taxes(ready, "IE", "", "US-NY", "", "IE", "IE")

    with pytest.raises(PricingError) as refused:
        close(changed, "2026-01", AT)

    assert refused.value.code == "tax.not_known"
    assert [line.partition(":")[0] for line in refused.value.details[:2]] == [
        "account acct-2, region '' (accounts.csv has no tax_region for it)",
        "account acct-3, region 'US-NY'",
    ]
    assert changed.control_plane.period_state("2026-01") == "open"
    for account_id in ("acct-2", "acct-3"):
        hold_account(changed, "2026-01", account_id, "no tax region", AT, "ana")
    assert [one.account_id for one in close(changed, "2026-01", AT).invoices] == ["acct-1", "acct-5", "acct-6"]


def test_drafts_show_what_would_be_invoiced_and_issue_nothing(ready: Workspace, tmp_path: Path) -> None:
    grant_credit(ready, "acct-1", "USD", CreditKind.PREPAID, Decimal("1.50"), "paid", AT, "ana")
    hold_account(ready, "2026-01", "acct-3", "disputed", AT, "ana")
    audit_log = ready.control_plane.audit_log()

    shown = write_drafts(ready, "2026-01", tmp_path / "drafts.jsonl", AT)

    assert [(one.account_id, f"{one.total:f}", f"{one.amount_due:f}", one.held) for one in shown[:3]] == [
        ("acct-1", "6.00", "4.50", ""),
        ("acct-2", "2.10", "2.10", ""),
        ("acct-3", "0.70", "0.70", "disputed"),
    ]
    written = [json.loads(line) for line in (tmp_path / "drafts.jsonl").read_text().splitlines()]
    assert [(one["number"], one["customer"]["account_id"]) for one in written] == [
        (None, "acct-1"),
        (None, "acct-2"),
        (None, "acct-5"),
        (None, "acct-6"),
    ]
    assert ready.control_plane.audit_log() == audit_log
    close(ready, "2026-01", AT)
    assert {**written[0], "number": "TEST-000001"} == documents(ready)[0]


def test_documents_made_by_several_processes_are_those_of_one(
    ready: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_drafts(ready, "2026-01", tmp_path / "one.jsonl", AT)
    monkeypatch.setattr(drafts_module, "LINES_PER_SHARE", 3)
    monkeypatch.setattr(drafts_module, "LINES_OF_ONE_PROCESS", 0)
    monkeypatch.setenv("BILLING_WORKERS", "2")

    write_drafts(ready, "2026-01", tmp_path / "several.jsonl", AT)

    assert (tmp_path / "several.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes() != b""


def refusal_of_february(workspace: Workspace) -> NotReadyError:
    with pytest.raises(NotReadyError) as refused:
        close(workspace, "2026-02", AT)
    return refused.value


def test_a_period_is_not_closed_while_an_earlier_one_with_usage_is_open(ready: Workspace) -> None:
    refusal = refusal_of_february(ready)
    assert refusal.code == "close.earlier_period_open"
    assert refusal.details[0] == "period 2026-01 is open and has 10 line items"

    close(ready, "2026-01", AT)

    assert refusal_of_february(ready).code == "close.period_not_ready", "now it is its own nights that are missing"


def test_an_earlier_period_need_not_be_closed_once_it_is_known_that_nothing_was_used_in_it(january: Workspace) -> None:
    collect(january, AT, lambda _: None)
    bill(january, NIGHTS[0])
    refusal = refusal_of_february(january)
    assert refusal.code == "close.earlier_period_open"
    assert refusal.details[0] == "period 2026-01 is open, and what was used in window 2026-01-31 is not known yet"

    for night in NIGHTS[1:]:
        bill(january, night)

    assert refusal_of_february(january).code == "close.period_not_ready"


def test_what_rounding_took_from_an_invoice_of_zero_is_on_its_line(ready: Workspace) -> None:
    close(ready, "2026-01", AT)

    [document] = [document for document in documents(ready) if document["customer"]["account_id"] == "acct-5"]
    assert (tokens_line(document)["amount"], tokens_line(document)["residual"]) == ("0", "0.000003")


def test_a_period_is_not_closed_before_every_night_of_it_is_accepted(january: Workspace) -> None:
    receive(january, tokens(1_000_000, "2026-01-30T10:00:00Z"))
    bill(january, "2026-01-30")
    rejected = count_window(january, "2026-01-31")
    january.control_plane.decide_revision("2026-01-31", rejected.revision, RevisionState.REJECTED, AT, "test")

    with pytest.raises(NotReadyError) as refusal:
        close(january, "2026-01", AT)

    assert refusal.value.code == "close.period_not_ready"
    assert refusal.value.details == (
        "window 2026-01-31 has no accepted revision, revision 1 is rejected; see its report, then run it again",
        "window 2026-02-01 was never run; billing run --window 2026-02-01",
        "no invoice was issued and no number was taken",
    )
    assert january.control_plane.documents() == []


def test_a_period_is_not_closed_while_late_usage_waits(ready: Workspace) -> None:
    receive(ready, tokens(9, "2026-01-31T11:00:00Z"), received_at="2026-02-02T00:00:00Z")

    with pytest.raises(NotReadyError, match="window 2026-01-31 is not all that is known by now: late events"):
        close(ready, "2026-01", AT)
    bill(ready, "2026-01-31", include_late=True)

    assert documents(ready) == []
    close(ready, "2026-01", AT)
    assert tokens_line(documents(ready)[0])["quantity"] == "2000010"


def test_a_period_is_not_closed_when_collection_is_behind_its_last_cutoff(january: Workspace) -> None:
    with pytest.raises(NotReadyError) as refusal:
        close(january, "2026-01", AT)

    assert refusal.value.details[3] == (
        "nothing was collected yet, expected the last cutoff 2026-02-02T06:00:00+00:00 or later; billing collect"
    )


def test_a_longer_grace_period_moves_the_last_cutoff_that_collection_must_pass(ready: Workspace) -> None:
    settings = ready.project.settings
    patient = settings.model_copy(
        update={"window": settings.window.model_copy(update={"grace_period": timedelta(days=3)})}
    )

    with pytest.raises(NotReadyError, match="expected the last cutoff 2026-02-05T00:00:00"):
        close(replace(ready, project=replace(ready.project, settings=patient)), "2026-01", AT)


def test_a_period_before_the_first_window_is_refused(january: Workspace) -> None:
    with pytest.raises(InputError, match=r"close\.before_first_window"):
        close(january, "2025-12", AT)


def test_the_windows_of_a_period_reach_as_far_as_its_time_zones(january: Workspace) -> None:
    assert [window.window_id for window in windows_of_period(january, "2026-01")] == list(NIGHTS)
    february = [window.window_id for window in windows_of_period(january, "2026-02")]
    assert (february[0], february[-1]) == ("2026-01-31", "2026-03-01"), "Berlin begins first, New York ends last"
