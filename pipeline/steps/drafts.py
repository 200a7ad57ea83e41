"""Drafts: the documents of a period as data, made from published line items; close numbers them.

Line items are cut into shares of whole accounts, which several processes make documents of. Prepared documents go to
files of a scratch folder, because those of a hundred thousand accounts do not fit into memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import settings
from pipeline.adapters.child_process import ChildProcess, ProcessDiedError, serve
from pipeline.adapters.scratch import scratch_folder
from pipeline.core.account import Account
from pipeline.core.credit import CreditBalance, draw_credits
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import NotReadyError, PricingError
from pipeline.core.invoice import (
    InvoiceDraft,
    InvoiceEvidence,
    PreparedDocument,
    draft_invoices,
    finish_document,
    issue_date,
    prepare_document,
)
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.manifest import Receipt, canonical_json, sha256_hex
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.tax import TaxTable
from pipeline.core.window import billing_period
from pipeline.steps.pinned import pinned_price_books
from pipeline.steps.publish import manifest_files, pin_file, read_manifest
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
class _Facts:
    """What documents need beside lines."""

    period_id: str
    accounts: Mapping[str, Account]
    seller: SellerSettings
    books: Mapping[str, PricedBook]
    cutoffs: tuple[datetime, ...]
    evidence: InvoiceEvidence
    taxes: TaxTable | None
    held: frozenset[str]
    usage_by_day: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Share:
    """Line items ``[start, end)`` of the files, which hold all lines of their accounts."""

    facts: Path
    files: tuple[Path, ...]
    start: int
    end: int
    spool: Path


@dataclass(frozen=True, slots=True)
class _Made:
    """What a share came to: totals of each account, where its document is in the spool, and what was refused."""

    spool: Path
    totals: list[tuple[InvoiceDraft, int | None]]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Drafts:
    """The documents of a period before they have numbers; ``totals`` has every account, also the held ones."""

    totals: list[InvoiceDraft]
    problems: tuple[str, ...]
    _places: tuple[tuple[str, Path, int], ...]

    def documents(self) -> Iterator[PreparedDocument]:
        """Yield the documents in order of account; charges that no tax rate is known for raise ``PricingError``."""
        if self.problems:
            more = len(self.problems) - PROBLEMS_SHOWN_MAX
            raise PricingError(
                "tax.no_rate",
                f"taxes.toml has no rate for what is to be invoiced ({len(self.problems)} in all)",
                [
                    *self.problems[:PROBLEMS_SHOWN_MAX],
                    *([f"and {more:,} more"] if more > 0 else []),
                    "nothing was issued; add the rates, or tax_region to accounts.csv, or hold the accounts",
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


def draft_documents(
    workspace: Workspace,
    period_id: str,
    line_items: Receipt,
    folder: Path,
    usage_by_day: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Drafts:
    """Make a document of each account that published line items have and that is not held, in ``folder``."""
    pins = read_manifest(workspace, line_items.manifest_hash).pins
    tax_table = workspace.project.files.get("taxes.toml")
    facts = _Facts(
        period_id,
        workspace.project.directory.accounts(),
        workspace.project.settings.seller,
        {priced.version: priced for priced in pinned_price_books(workspace, pins["price_books"])},
        _cutoffs(workspace, pins["usage"]),
        InvoiceEvidence(
            line_items.manifest_hash,
            sha256_hex(canonical_json(dict(pins["usage"]))),
            None if tax_table is None else pin_file(workspace, tax_table),
        ),
        workspace.project.taxes,
        frozenset(workspace.control_plane.held_accounts(period_id)),
        usage_by_day or {},
    )
    (folder / "facts").write_bytes(pickle.dumps(facts))
    files = tuple(manifest_files(workspace, line_items.manifest_hash))
    shares = [
        _Share(folder / "facts", files, start, end, folder / f"documents-{number}")
        for number, (start, end) in enumerate(_whole_accounts(files))
    ]
    made = _all_made(shares, settings.worker_count() if line_items.row_count > LINES_OF_ONE_PROCESS else 1)
    totals = sorted((draft for one in made for draft, _ in one.totals), key=lambda draft: draft.account_id)
    places = sorted(
        (draft.account_id, one.spool, start) for one in made for draft, start in one.totals if start is not None
    )
    return Drafts(totals, tuple(sorted(problem for one in made for problem in one.problems)), tuple(places))


def write_drafts(workspace: Workspace, period_id: str, to: Path | None) -> list[ShownDraft]:
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
        drafts = draft_documents(workspace, period_id, line_items, folder)
        with ExitStack() as stack:
            out = None if to is None else stack.enter_context(to.open("wb"))
            for document in drafts.documents():
                mine = balances.get(document.account_id, [])
                draws = draw_credits(document.total, document.currency, document.issue_date, mine)
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


def _cutoffs(workspace: Workspace, usage: Mapping[str, str]) -> tuple[datetime, ...]:
    """Return the cutoff of each window that usage was taken from."""
    accepted = workspace.control_plane.accepted_revisions()
    return tuple(accepted[window_id].cutoff_at for window_id in sorted(usage) if window_id in accepted)


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


def _all_made(shares: Sequence[_Share], process_count: int) -> list[_Made]:
    """Return what each share came to; this process takes part, so one process is no other one."""
    waiting = iter(shares)
    made: list[_Made] = []

    def work_off(worker: ChildProcess | None) -> None:
        while (share := next(waiting, None)) is not None:
            if worker is None:
                made.append(_make(share))
                continue
            worker.send(share)
            try:
                made.append(worker.answer())
            except ProcessDiedError as error:
                raise NotReadyError(
                    "close.worker_died",
                    "a process that made documents ended before it was done",
                    [
                        f"its exit code is {error.exit_code}; memory may have run out, or somebody killed it",
                        "nothing was issued; the same call may succeed later, or with BILLING_WORKERS=1",
                    ],
                ) from error

    workers = [ChildProcess(__name__) for _ in range(min(process_count, len(shares)) - 1)]
    try:
        with ThreadPoolExecutor(len(workers) + 1) as threads:
            for done in [threads.submit(work_off, worker) for worker in [*workers, None]]:
                done.result()
    finally:
        for worker in workers:
            worker.end()
    return made


@lru_cache(1)
def _facts(path: Path) -> _Facts:
    facts: _Facts = pickle.loads(path.read_bytes())  # noqa: S301 - our own process wrote it
    return facts


def _make(share: _Share) -> _Made:
    facts = _facts(share.facts)
    totals: list[tuple[InvoiceDraft, int | None]] = []
    problems: list[str] = []
    with share.spool.open("wb") as spool:
        for lines in _lines_by_account(share):
            account_id = lines[0].account_id
            [draft] = draft_invoices(lines)
            start: int | None = None
            if account_id not in facts.held:
                try:
                    document = _prepare(lines, facts)
                    start = spool.tell()
                    pickle.dump(document, spool, protocol=pickle.HIGHEST_PROTOCOL)
                except PricingError as error:
                    problems += error.details
            totals.append((draft, start))
    return _Made(share.spool, totals, problems)


def _prepare(lines: Sequence[LineItem], facts: _Facts) -> PreparedDocument:
    account = facts.accounts[lines[0].account_id]
    period = billing_period(facts.period_id, account.time_zone)
    return prepare_document(
        lines,
        account,
        facts.seller,
        period,
        facts.books,
        issue_date(facts.cutoffs or [period.end], period.time_zone),
        facts.evidence,
        facts.taxes,
        facts.usage_by_day.get(account.account_id, ()),
    )


def _lines_by_account(share: _Share) -> Iterator[list[LineItem]]:
    """Yield the lines of each account of a share."""
    lines: list[LineItem] = []
    for line in _lines(share):
        if lines and lines[0].account_id != line.account_id:
            yield lines
            lines = []
        lines.append(line)
    if lines:
        yield lines


def _lines(share: _Share) -> Iterator[LineItem]:
    position = 0
    for path in share.files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                first, last = max(share.start - position, 0), min(share.end - position, count)
                if first < last:
                    rows = file.read_row_group(group).slice(first, last - first)
                    yield from _line_items(rows)
                position += count


def _line_items(rows: pa.Table) -> Iterator[LineItem]:
    columns: dict[str, list[Any]] = {name: rows.column(name).to_pylist() for name in rows.column_names}
    columns["kind"] = [LineKind(kind) for kind in columns["kind"]]
    for values in zip(*(columns[name] for name in LineItem.__dataclass_fields__), strict=True):
        yield LineItem(*values)


if __name__ == "__main__":
    serve(_make)
