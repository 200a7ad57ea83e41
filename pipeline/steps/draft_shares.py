"""Shares of a period's line items, each of whole accounts: what several processes make documents of."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.account import Account
from pipeline.core.errors import PricingError
from pipeline.core.invoice import (
    InvoiceDraft,
    InvoiceEvidence,
    PreparedDocument,
    draft_invoices,
    prepare_document,
)
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.tax import TaxTable
from pipeline.core.window import billing_period


@dataclass(frozen=True, slots=True)
class DraftFacts:
    """What documents need beside lines."""

    period_id: str
    accounts: Mapping[str, Account]
    seller: SellerSettings
    books: Mapping[str, PricedBook]
    issued_on: date
    evidence: InvoiceEvidence
    taxes: TaxTable | None
    held: frozenset[str]
    usage_by_day: Path  # canonical JSON of each account
    usage_places: Mapping[str, tuple[int, int]]  # by account, where in it: start and byte count


@dataclass(frozen=True, slots=True)
class Share:
    """Line items ``[start, end)`` of the files, which hold all lines of their accounts."""

    facts: Path
    files: tuple[Path, ...]
    start: int
    end: int
    spool: Path


@dataclass(frozen=True, slots=True)
class MadeShare:
    """What a share came to: totals of each account, where its document is in the spool, and what was refused."""

    spool: Path
    totals: list[tuple[InvoiceDraft, int | None]]
    problems: list[str]


@lru_cache(1)
def _facts(path: Path) -> DraftFacts:
    facts: DraftFacts = pickle.loads(path.read_bytes())  # noqa: S301 - our own process wrote it
    return facts


def make_share(share: Share) -> MadeShare:
    """Prepare the documents of a share into its spool; a held account has a total and no document."""
    facts = _facts(share.facts)
    totals: list[tuple[InvoiceDraft, int | None]] = []
    problems: list[str] = []
    with share.spool.open("wb") as spool, facts.usage_by_day.open("rb") as usage:
        for lines in _lines_by_account(share):
            if lines[0].account_id not in facts.held:
                try:
                    document = _prepare(lines, facts, usage)
                except PricingError as error:
                    problems += error.details
                else:
                    totals.append(
                        (InvoiceDraft(document.account_id, document.currency, document.subtotal), spool.tell())
                    )
                    pickle.dump(document, spool, protocol=pickle.HIGHEST_PROTOCOL)
                    continue
            totals += [(draft, None) for draft in draft_invoices(lines)]
    return MadeShare(share.spool, totals, problems)


def _prepare(lines: Sequence[LineItem], facts: DraftFacts, usage: BinaryIO) -> PreparedDocument:
    account = facts.accounts[lines[0].account_id]
    period = billing_period(facts.period_id, account.time_zone)
    place = facts.usage_places.get(account.account_id)
    if place is not None:
        usage.seek(place[0])
    return prepare_document(
        lines,
        account,
        facts.seller,
        period,
        facts.books,
        facts.issued_on,
        facts.evidence,
        facts.taxes,
        b"[]" if place is None else usage.read(place[1]),
    )


def _lines_by_account(share: Share) -> Iterator[list[LineItem]]:
    """Yield the lines of each account of a share."""
    lines: list[LineItem] = []
    for line in _lines(share):
        if lines and lines[0].account_id != line.account_id:
            yield lines
            lines = []
        lines.append(line)
    if lines:
        yield lines


def _lines(share: Share) -> Iterator[LineItem]:
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
    columns = {name: _values(rows.column(name)) for name in rows.column_names}
    columns["kind"] = [LineKind(kind) for kind in columns["kind"]]
    for values in zip(*(columns[name] for name in LineItem._fields), strict=True):
        yield LineItem(*values)


def _values(column: Any) -> list[Any]:
    """Return the values of a column; each different one is made once, because most columns have few of them."""
    encoded = column.combine_chunks().dictionary_encode()
    different = encoded.dictionary.to_pylist()
    return [different[index] for index in encoded.indices.to_pylist()]
