"""Rendering the documents of periods out of the lake."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from pipeline.adapters.invoice_files import RenderedFiles
from pipeline.core.invoice import DocumentKind, IssuedDocument
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.steps.documents import store_documents
from pipeline.steps.render import invoice_folder, render_documents
from pipeline.steps.workspace import Workspace
from tests.adapters.invoice_documents import document


def issued(workspace: Workspace, *numbers: str, period_id: str = "2026-01") -> list[IssuedDocument]:
    contents = [canonical_json(document(number=number)) for number in numbers]
    due = Decimal("10.00")
    return [
        IssuedDocument(
            *(number, DocumentKind.INVOICE, "acct-1", period_id, "USD", due, due, due, "", sha256_hex(content), bundle),
            issued_at=datetime(2026, 2, 2, tzinfo=UTC),
        )
        for number, content, bundle in zip(numbers, contents, store_documents(workspace)(contents), strict=True)
    ]


def test_documents_are_rendered_into_the_folder_of_their_period(workspace: Workspace) -> None:
    january, february = issued(workspace, "LLM-000001"), issued(workspace, "LLM-000002", period_id="2026-02")

    result = render_documents(workspace, [*january, *february], ("html", "json"))

    assert result == RenderedFiles(written=4, current=0)
    for period_id, number in (("2026-01", "LLM-000001"), ("2026-02", "LLM-000002")):
        folder = invoice_folder(workspace, period_id) / "LLM-000xxx"
        assert number in (folder / f"{number}_acct-1.html").read_text(encoding="utf-8")
    assert render_documents(workspace, [*january, *february], ("html", "json")).written == 0


def test_a_void_document_is_marked_with_the_day_in_the_zone_of_its_account(workspace: Workspace) -> None:
    [first] = issued(workspace, "LLM-000001")
    zone = workspace.project.directory.accounts()["acct-1"].time_zone
    voided = replace(first, voided_at=datetime(2026, 2, 3, 23, 30, tzinfo=UTC), void_reason="wrong address")

    render_documents(workspace, [voided])

    page = (invoice_folder(workspace, "2026-01") / "LLM-000xxx/LLM-000001_acct-1.html").read_text(encoding="utf-8")
    day = 4 if zone == "Europe/Berlin" else 3
    assert f"Void since {day} February 2026: wrong address." in page
