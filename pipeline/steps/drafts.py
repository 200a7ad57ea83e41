"""Drafts: the documents of a period as data, made from published line items; close numbers them.

Line items are cut into shares of whole accounts, which several processes make documents of. Prepared documents go to
files of a scratch folder, because those of a hundred thousand accounts do not fit into memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import settings
from pipeline.adapters.scratch import scratch_folder
from pipeline.core.account import Account
from pipeline.core.credit import CreditBalance, draw_credits
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import NotReadyError, PricingError
from pipeline.core.invoice import (
    InvoiceDraft,
    InvoiceEvidence,
    PreparedDocument,
    finish_document,
    issue_date,
)
from pipeline.core.manifest import Receipt, canonical_json, sha256_hex
from pipeline.steps.daily_usage import usage_by_day
from pipeline.steps.draft_shares import DraftFacts, Share
from pipeline.steps.draft_workers import made_shares
from pipeline.steps.inputs import pinned_directory
from pipeline.steps.pinned import pinned_price_books, pinned_seller, pinned_taxes
from pipeline.steps.publish import manifest_files, read_manifest
from pipeline.steps.workspace import Workspace

LINES_PER_SHARE = 50_000
LINES_OF_ONE_PROCESS = 20_000  # below this a second process is not worth its start
PROBLEMS_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True)
class ShownDraft:
    """What an account would be invoiced by now; ``held`` says why it would not be."""

    account_id: str
    currency: str
    subtotal: Decimal
    total: Decimal
    amount_due: Decimal
    held: str


@dataclass(frozen=True, slots=True)
class Drafts:
    """The documents of a period before they have numbers; ``totals`` has every account, also the held ones."""

    totals: list[InvoiceDraft]
    problems: tuple[str, ...]
    _places: tuple[tuple[str, Path, int], ...]

    def documents(self) -> Iterator[PreparedDocument]:
        """Yield the documents in order of account; what cannot be taxed raises ``PricingError``."""
        if self.problems:
            more = len(self.problems) - PROBLEMS_SHOWN_MAX
            raise PricingError(
                "tax.not_known",
                f"what is to be invoiced cannot be taxed ({len(self.problems)} in all)",
                [
                    *self.problems[:PROBLEMS_SHOWN_MAX],
                    *([f"and {more:,} more"] if more > 0 else []),
                    "nothing was issued; mend taxes.toml or accounts.csv, or hold the accounts",
                ],
            )
        spools = {path: path.open("rb") for _, path, _ in self._places}
        try:
            for _, path, start in self._places:
                spools[path].seek(start)
                yield pickle.load(spools[path])  # noqa: S301 - our own process wrote it
        finally:
            for spool in spools.values():
                spool.close()


def draft_documents(workspace: Workspace, period_id: str, line_items: Receipt, folder: Path, at: datetime) -> Drafts:
    """Make a document of each account that published line items have and that is not held, in ``folder``.

    They are of the seller and by the taxes that the line items pin, and dated as if issued at that instant.
    """
    pins = read_manifest(workspace, line_items.manifest_hash).pins
    usage = folder / "usage_by_day"
    seller = pinned_seller(workspace, pins["seller"])
    facts = DraftFacts(
        period_id,
        document_accounts(workspace, pins),
        seller,
        {priced.version: priced for priced in pinned_price_books(workspace, pins["price_books"])},
        issue_date(at, seller),
        document_evidence(line_items.manifest_hash, pins),
        pinned_taxes(workspace, pins["taxes.toml"]),
        frozenset(workspace.control_plane.held_accounts(period_id)),
        usage,
        _spool_usage(workspace, period_id, pins, usage),
    )
    processes = settings.worker_count() if line_items.row_count > LINES_OF_ONE_PROCESS else 1
    return drafts_of(facts, manifest_files(workspace, line_items.manifest_hash), folder, processes)


def document_evidence(line_items: str, pins: Mapping[str, Any]) -> InvoiceEvidence:
    """Return what documents of published line items (their manifest hash and pins) can be checked against."""
    return InvoiceEvidence(line_items, sha256_hex(canonical_json(dict(pins["usage"]))), pins["taxes.toml"])


def document_accounts(workspace: Workspace, pins: Mapping[str, Any]) -> dict[str, Account]:
    """Return the accounts by id: called as they are by now, and otherwise as a final period was closed with."""
    accounts = workspace.project.directory.accounts()
    if "accounts_at_close" not in pins:
        return accounts
    closed = pinned_directory(workspace, pins["accounts_at_close"]).accounts()
    return accounts | {
        account_id: replace(one, name=now.name, tax_id=now.tax_id, billing_address=now.billing_address)
        for account_id, one in closed.items()
        for now in [accounts.get(account_id, one)]
    }


def drafts_of(facts: DraftFacts, line_items: Sequence[Path], folder: Path, processes: int) -> Drafts:
    """Make the documents of files of line items in ``folder``, in several processes."""
    (folder / "facts").write_bytes(pickle.dumps(facts))
    shares = [
        Share(folder / "facts", tuple(line_items), start, end, folder / f"documents-{number}")
        for number, (start, end) in enumerate(_whole_accounts(line_items))
    ]
    made = made_shares(shares, processes)
    totals = sorted((draft for one in made for draft, _ in one.totals), key=lambda draft: draft.account_id)
    places = sorted(
        (draft.account_id, one.spool, start) for one in made for draft, start in one.totals if start is not None
    )
    return Drafts(totals, tuple(sorted(problem for one in made for problem in one.problems)), tuple(places))


def write_drafts(workspace: Workspace, period_id: str, to: Path | None, at: datetime) -> list[ShownDraft]:
    """Return what each account would be invoiced by the newest line items of a period; write the documents there.

    They have no number, and what they would draw of credits is what is left now. Nothing is stored or issued.
    """
    line_items = workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
    if line_items is None:
        raise NotReadyError(
            "invoice.no_draft",
            f"period {period_id} has no line items yet",
            ["a night that counts usage of the period rates it: billing run --due"],
        )
    balances: dict[str, list[CreditBalance]] = {}
    for one in workspace.control_plane.credit_balances():
        balances.setdefault(one.grant.account_id, []).append(one)
    held = workspace.control_plane.held_accounts(period_id)
    shown: dict[str, ShownDraft] = {}
    with scratch_folder(workspace.scratch, "drafts") as folder:
        drafts = draft_documents(workspace, period_id, line_items, folder, at)
        with ExitStack() as stack:
            out = None if to is None else stack.enter_context(to.open("wb"))
            for document in drafts.documents():
                mine = balances.get(document.account_id, [])
                draws = draw_credits(document.total, document.currency, document.last_date, mine)
                content, due = finish_document(document, None, draws)
                shown[document.account_id] = ShownDraft(
                    document.account_id, document.currency, document.subtotal, document.total, due, ""
                )
                if out is not None:
                    out.write(content + b"\n")
    for draft in drafts.totals:
        if draft.account_id not in shown:
            shown[draft.account_id] = ShownDraft(
                *(draft.account_id, draft.currency, draft.subtotal, draft.subtotal, draft.subtotal),
                held.get(draft.account_id, ""),
            )
    return [one for _, one in sorted(shown.items())]


def _spool_usage(
    workspace: Workspace, period_id: str, pins: Mapping[str, Any], spool: Path
) -> dict[str, tuple[int, int]]:
    """Write the usage by day of all accounts into a file and return where in it each one is."""
    places: dict[str, tuple[int, int]] = {}
    start = 0
    with spool.open("wb") as file:
        for account_id, entries in usage_by_day(workspace, period_id, pins):
            places[account_id] = start, file.write(entries)
            start += len(entries)
    return places


def _whole_accounts(files: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Yield where to cut line items, in order of their ids: the lines of an account are beside one another there."""
    columns = [pq.read_table(path, columns=["account_id"]).column(0) for path in files]
    accounts = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()).combine_chunks()
    if len(accounts) == 0:
        return
    codes = np.asarray(accounts.dictionary_encode().indices)
    begins = np.flatnonzero(np.diff(codes)) + 1  # where another account begins
    start = 0
    while start < len(codes):
        place = np.searchsorted(begins, start + LINES_PER_SHARE)
        end = int(begins[place]) if place < len(begins) else len(codes)
        yield start, end
        start = end
