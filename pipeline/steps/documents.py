"""Documents as they are stored: many in one file of the lake, each checked against its own hash at every read.

A file holds one document a line (JSON Lines), so it can be read without the pipeline; the control plane says where in
it a document is. A hundred thousand files of one document each take a hundred times as long to write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from pipeline.adapters.document_ledger import StoreDocuments
from pipeline.adapters.lake import Lake
from pipeline.core.credit import EntryKind
from pipeline.core.decimals import plain_text
from pipeline.core.errors import BillingError, InputError, PublicationError
from pipeline.core.invoice import Bundle, DocumentKind, IssuedDocument, lines_of_document
from pipeline.core.line_item import LineItem
from pipeline.core.manifest import sha256_hex
from pipeline.core.money import exact
from pipeline.steps.workspace import Workspace

DOCUMENTS = "documents"


@dataclass(frozen=True, slots=True)
class VerifiedDocuments:
    """What was read and found to be as it was issued; ``problems`` are sentences, none when all is well."""

    document_count: int
    problems: tuple[str, ...]


def store_documents(workspace: Workspace) -> StoreDocuments:
    """Return what keeps the bytes of documents in one file of the workspace's lake, one a line."""
    return stored_in(workspace.lake)


def stored_in(lake: Lake) -> StoreDocuments:
    """Return what keeps the bytes of documents in one file of a lake, one a line."""

    def store(contents: Sequence[bytes]) -> list[Bundle]:
        sha256 = lake.put_bytes(b"".join(content + b"\n" for content in contents), DOCUMENTS, ".jsonl").sha256
        bundles, start = [], 0
        for content in contents:
            bundles.append(Bundle(sha256, start, len(content)))
            start += len(content) + 1
        return bundles

    return store


def document_bytes(workspace: Workspace, document: IssuedDocument) -> bytes:
    """Return the bytes of a document; ones that are not what was issued raise ``PublicationError``."""
    bundle = document.bundle
    path = f"{DOCUMENTS}/{bundle.sha256}.jsonl"
    content = workspace.lake.read_part(path, bundle.start, bundle.byte_count)
    actual = sha256_hex(content)
    if actual != document.document_sha256:
        raise PublicationError(
            "document.content_changed",
            f"document {document.number} does not have the bytes that were issued",
            [
                f"read from {path}, {bundle.byte_count:,} bytes at {bundle.start:,}",
                f"expected SHA-256 {document.document_sha256}, got {actual}",
                "a final document never changes: restore the file from a backup",
            ],
        )
    return content


def find_document(workspace: Workspace, number: str) -> IssuedDocument:
    """Return the document of a number; one that was never taken is refused."""
    document = workspace.control_plane.document(number)
    if document is None:
        raise InputError(
            "document.unknown", f"there is no document {number}", ["`billing invoice list` names those there are"]
        )
    return document


def billed_lines(workspace: Workspace, period_id: str, account_id: str) -> list[LineItem]:
    """Return the lines that were billed to an account for a period, over all its documents that are not void.

    What a later rating of the period has to be compared with, line by line: a line that adjusts another has the id of
    the one that it corrects, so lines of one id may be several.
    """
    return [
        line
        for document in workspace.control_plane.documents(period_id, account_id)
        if document.voided_at is None
        for line in lines_of_document(document_bytes(workspace, document))
    ]


def verify_documents(workspace: Workspace, period_id: str | None = None) -> VerifiedDocuments:
    """Read every document of a period, or all, and hold it against the control plane: hash, figures, numbers, credits.

    Of all documents also that no number of a series is missing, and that the ledger of credits ties to what they drew.
    """
    documents = workspace.control_plane.documents(period_id)
    problems: list[str] = []
    drawn: dict[tuple[str, str], Decimal] = {}
    for document in documents:
        try:
            content = json.loads(document_bytes(workspace, document))
        except BillingError as error:
            problems.append(str(error))
            continue
        problems += _untied(document, content)
        for credit in content["credits"]:
            drawn[document.number, credit["grant_id"]] = Decimal(credit["amount"])
    problems += _untied_credits(workspace, {document.number for document in documents}, drawn)
    if period_id is None:
        problems += _missing_numbers(workspace, documents)
    return VerifiedDocuments(len(documents), tuple(problems))


def _untied(document: IssuedDocument, content: dict[str, Any]) -> Iterator[str]:
    expected = {
        "number": document.number,
        "document": document.kind.value,
        "currency": document.currency,
        "total": plain_text(document.total),
        "amount_due": plain_text(document.amount_due),
    }
    for name, value in expected.items():
        if content[name] != value:
            yield f"document {document.number}: {name} is {content[name]}, the control plane has {value}"


def _untied_credits(workspace: Workspace, numbers: set[str], drawn: dict[tuple[str, str], Decimal]) -> Iterator[str]:
    entered: dict[tuple[str, str], Decimal] = {}
    for entry in workspace.control_plane.credit_entries():
        if entry.kind is EntryKind.DRAWN and entry.document in numbers:
            key = (entry.document, entry.grant_id)
            with exact():
                entered[key] = entered.get(key, Decimal(0)) + entry.amount
    for number, grant_id in sorted({*entered, *drawn}):
        on_document, in_ledger = (one.get((number, grant_id), Decimal(0)) for one in (drawn, entered))
        if on_document != in_ledger:
            yield f"document {number}: draws {on_document:f} of {grant_id}, the ledger has {in_ledger:f}"


def _missing_numbers(workspace: Workspace, documents: Sequence[IssuedDocument]) -> Iterator[str]:
    taken = {document.number for document in documents}
    for series, last_number in workspace.control_plane.last_numbers().items():
        numbers = (f"{series}-{number:06d}" for number in range(1, last_number + 1))
        yield from (f"series {series}: number {number} has no document" for number in numbers if number not in taken)


def number_series(workspace: Workspace) -> dict[str, list[int]]:
    """Return the last number of each series, and how many documents have a number of it."""
    counts = workspace.control_plane.document_counts()
    return {series: [last, counts.get(series, 0)] for series, last in workspace.control_plane.last_numbers().items()}


def void_document(workspace: Workspace, number: str, reason: str, at: datetime, by: str) -> IssuedDocument:
    """Make a document void; the account's next `billing close` of the period issues another invoice."""
    find_document(workspace, number)
    return workspace.control_plane.void_document(number, reason, at, by)


def is_invoice(document: IssuedDocument) -> bool:
    """Tell whether a document is an invoice that is owed."""
    return document.kind is DocumentKind.INVOICE and document.voided_at is None
