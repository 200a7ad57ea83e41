"""Render: the issued documents of a period become the files that customers get.

The JSON in the lake is the document. Pages and PDFs are made from it as often as they are wanted; the same document
makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from pipeline import settings
from pipeline.adapters.invoice_files import Format, RenderedFiles, StoredDocument, render_invoices
from pipeline.adapters.invoice_page import Withdrawn
from pipeline.core.errors import InputError
from pipeline.core.invoice import IssuedDocument
from pipeline.steps.workspace import Workspace


@dataclass(frozen=True, slots=True)
class RenderedPeriod:
    """Where the files of a period are, and what was written of them."""

    folder: Path
    rendered: RenderedFiles


def render_documents(
    workspace: Workspace, documents: Iterable[IssuedDocument], formats: Sequence[Format] = ("html",)
) -> RenderedFiles:
    """Render documents into ``out/invoices/<period>/<thousand numbers>/``; what is there and right is left as it is.

    One process for each processor (``BILLING_WORKERS``). Fonts for names that Typst's own fonts cannot write are looked
    for in the folder ``fonts`` of the project. Bytes that are not those that were issued raise ``PublicationError``.
    """
    zones = {account_id: account.time_zone for account_id, account in workspace.project.directory.accounts().items()}
    local_path = _local_paths(workspace)
    of_period: dict[str, list[StoredDocument]] = {}
    for document in documents:
        void = None
        if document.voided_at is not None:
            zone = ZoneInfo(zones.get(document.account_id, "UTC"))
            void = Withdrawn(document.voided_at.astimezone(zone).date(), document.void_reason or "")
        bundle = document.bundle
        of_period.setdefault(document.period_id, []).append(
            StoredDocument(
                document.number,
                document.account_id,
                document.document_sha256,
                local_path(bundle.sha256),
                bundle.start,
                bundle.byte_count,
                void,
            )
        )
    fonts = workspace.out.parent / "fonts"
    rendered = RenderedFiles(0, 0)
    for period_id, stored in sorted(of_period.items()):
        folder = invoice_folder(workspace, period_id)
        rendered += render_invoices(stored, folder, formats, settings.worker_count(), fonts if fonts.is_dir() else None)
    return rendered


def render_period(
    workspace: Workspace, period_id: str, number: str | None = None, also: Sequence[Format] = ()
) -> RenderedPeriod:
    """Render the documents of a period, or one of them, in the formats of the project and in others; void ones, too."""
    found = workspace.control_plane.documents(period_id)
    documents = [document for document in found if number in (None, document.number)]
    if not documents:
        missing = f"no document {number}" if number else "no document"
        raise InputError(
            "render.no_document",
            f"period {period_id} has {missing}",
            ["`billing invoice list` names those there are; `billing close` issues them"],
        )
    formats = dict.fromkeys((*workspace.project.settings.documents.formats, *also))
    return RenderedPeriod(invoice_folder(workspace, period_id), render_documents(workspace, documents, tuple(formats)))


def invoice_folder(workspace: Workspace, period_id: str) -> Path:
    """Return where people find the invoices of a period."""
    return workspace.out / "invoices" / period_id


def _local_paths(workspace: Workspace) -> Callable[[str], str]:
    found: dict[str, str] = {}

    def local_path(sha256: str) -> str:
        if sha256 not in found:
            found[sha256] = str(workspace.lake.local_file(f"documents/{sha256}.jsonl"))
        return found[sha256]

    return local_path
