"""Closing a period: on evidence only, once, without a gap in the numbers, with documents that never change."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.lake import DataFileRef, Lake
from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.core.dataset import LINE_ITEMS, RECONCILIATION
from pipeline.core.errors import InputError, NotReadyError, PricingError
from pipeline.core.manifest import sha256_hex
from pipeline.core.revision import RevisionState
from pipeline.core.window import ONE_DAY
from pipeline.steps.check import CHECK_RESULTS
from pipeline.steps.close import close, windows_of_period
from pipeline.steps.documents import document_bytes, store_documents
from pipeline.steps.publish import dataset_files, read_manifest
from pipeline.steps.rate import rated_period
from pipeline.steps.workspace import Workspace, open_workspace
from tests.core.test_credit import prepared
from tests.fixtures_project import ACCOUNTS, write_project
from tests.steps.test_rate import AT, LAST_NIGHTS, bill, count_window, draft, receive, tokens

NIGHTS = ("2026-01-30", "2026-01-31", "2026-02-01")  # New York ends its January on 1 February, 05:00 UTC


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
def ready_folder(s3_server: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with five customers who used something in January, and every night of it accepted."""
    raw = ObjectStore("raw-of-close", s3_server.url)
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
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def documents(workspace: Workspace, period_id: str = "2026-01") -> list[dict[str, Any]]:
    return [
        json.loads(document_bytes(workspace, document)) for document in workspace.control_plane.documents(period_id)
    ]


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
    assert sorted(files_of(result.folder)) == [f"{name}.{suffix}" for name in names for suffix in ("html", "json")]


def test_numbers_go_on_where_the_last_period_ended(ready: Workspace) -> None:
    ready.control_plane.finalise_period("2025-12", "TEST", [prepared("acct-1")], store_documents(ready), AT)

    assert close(ready, "2026-01", AT).invoices[0].number == "TEST-000002"


def test_the_document_in_the_lake_is_the_file_that_people_get(ready: Workspace) -> None:
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
        assert rated_period(changed, "2026-02", None).period_id == "2026-02"
    else:
        with pytest.raises(PricingError, match="account acct-5: 2026-01 was closed in UTC"):
            rated_period(changed, "2026-02", None)


def test_an_account_that_left_after_its_last_invoice_does_not_stop_the_next_month(ready: Workspace) -> None:
    spaced = SIX_ACCOUNTS.replace(",UTC,", ", UTC ,")
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": spaced}
    close(open_workspace(write_project(ready.project.folder, ready.raw, files)), "2026-01", AT)
    gone = "\n".join(line for line in spaced.splitlines() if not line.startswith("acct-1,"))
    changed = open_workspace(write_project(ready.project.folder, ready.raw, {**files, "accounts.csv": gone}))

    february = rated_period(changed, "2026-02", None)

    assert "acct-1" not in {line.account_id for line in february.lines}


def test_usage_of_an_account_that_left_the_directory_is_never_dropped_silently(ready: Workspace) -> None:
    gone = "\n".join(line for line in SIX_ACCOUNTS.splitlines() if not line.startswith("acct-3,"))
    files = {"billing.toml": LAST_NIGHTS, "accounts.csv": gone}
    changed = open_workspace(write_project(ready.project.folder, ready.raw, files))

    with pytest.raises(PricingError, match="account acct-3"):
        rated_period(changed, "2026-01", None)
    with pytest.raises(NotReadyError):
        close(changed, "2026-01", AT)


def test_the_issue_date_is_that_of_the_last_cutoff_whenever_the_period_is_closed(ready: Workspace) -> None:
    close(ready, "2026-01", AT + timedelta(days=40))

    assert {document["issue_date"] for document in documents(ready)} == {"2026-02-02"}


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
    for path in first.folder.iterdir():
        path.unlink()

    close(ready, "2026-01", AT)

    assert files_of(first.folder) == files


class LakeThatStopsAt:
    """A real lake that fails when the n-th file of a kind is to be stored, as a full disk would."""

    def __init__(self, lake: Lake, suffix: str, number: int) -> None:
        self._lake, self._suffix, self._left = lake, suffix, number

    def put_bytes(self, content: bytes, directory: str, suffix: str) -> DataFileRef:
        if (directory, suffix) == ("documents", self._suffix):
            self._left -= 1
            if self._left == 0:
                raise OSError("no space left on device")
        return self._lake.put_bytes(content, directory, suffix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lake, name)


def test_a_close_that_dies_between_two_documents_takes_no_number(ready: Workspace) -> None:
    dying = replace(ready, lake=LakeThatStopsAt(ready.lake, ".json", 2))

    with pytest.raises(OSError, match="no space left"):
        close(dying, "2026-01", AT)

    assert ready.control_plane.documents() == []
    assert ready.control_plane.period_state("2026-01") == "open"
    assert close(ready, "2026-01", AT).invoices[0].number == "TEST-000001"


def test_a_close_that_dies_before_its_pages_is_finished_by_the_next_one(ready: Workspace) -> None:
    dying = replace(ready, lake=LakeThatStopsAt(ready.lake, ".html", 2))
    with pytest.raises(OSError, match="no space left"):
        close(dying, "2026-01", AT)
    issued = ready.control_plane.documents("2026-01")
    assert len(issued) == 5

    result = close(ready, "2026-01", AT)

    assert result.invoices == issued
    assert len(files_of(result.folder)) == 10


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
