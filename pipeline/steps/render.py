"""Render: the issued documents of a period become the files that customers get.

The JSON in the lake is the document. Pages and PDFs are made from it as often as they are wanted; the same document
makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from pipeline import settings
from pipeline.adapters.invoice_files import Format, RenderedFiles, StoredDocument, render_invoices
from pipeline.adapters.invoice_page import Withdrawn
from pipeline.steps.workspace import Workspace


class BundlePlace(Protocol):
    """Where the lake keeps a document."""

    @property
    def sha256(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def byte_count(self) -> int: ...


class Renderable(Protocol):
    """What rendering needs of an issued document."""

    @property
    def number(self) -> str: ...
    @property
    def account_id(self) -> str: ...
    @property
    def period_id(self) -> str: ...
    @property
    def document_sha256(self) -> str: ...
    @property
    def bundle(self) -> BundlePlace: ...
    @property
    def voided_at(self) -> datetime | None: ...
    @property
    def void_reason(self) -> str | None: ...


def render_documents(
    workspace: Workspace, documents: Iterable[Renderable], formats: Sequence[Format] = ("html",)
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
