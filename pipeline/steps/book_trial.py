"""A price book that is tried: both raters rate under it, nothing is published, and what it changes is added up.

A book that is tried counts as in force for the whole period, whatever its ``effective_from``: the question is what the
period would cost under it. Usage that it has no price for is named, and rated as if it had not been used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from pipeline.adapters.price_book_files import PriceBookFile
from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.dataset import LINE_ITEMS, PRICE_CHANGES
from pipeline.core.errors import PricingError
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.price_comparison import CurrencyComparison, currency_comparisons
from pipeline.core.project import PricedBook
from pipeline.core.terms import AccountTerms
from pipeline.steps.rate import COMPARE_QUERIES, TOO_LARGE
from pipeline.steps.rate_slices import (
    ACCOUNTS_OF_A_SLICE,
    Slice,
    compare_slices,
    cut_slices,
    leave_out_accounts,
    leave_out_usage,
    problems_of_slices,
    rate_slices,
)
from pipeline.steps.sql_rater import SQL_RATER_QUERIES

ALWAYS = date(1970, 1, 1)
ACCOUNTS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class TriedLines:
    """The files of the lines that the SQL rater made, in order, and what stands in the way, by account, as sentences.

    ``unpriced`` is usage without a price, ``disagreements`` are what the two raters do not say alike. ``known_until``
    is the end of the last window whose usage took part, if any did.
    """

    files: tuple[Path, ...]
    unpriced: Mapping[str, list[str]]
    disagreements: Mapping[str, list[str]]
    known_until: datetime | None = None

    @property
    def problems(self) -> dict[str, list[str]]:
        accounts = sorted({*self.unpriced, *self.disagreements})
        return {name: [*self.unpriced.get(name, ()), *self.disagreements.get(name, ())] for name in accounts}


def as_if_in_force(file: PriceBookFile) -> PricedBook:
    """Return a book as one that was always in force."""
    return PricedBook(file.priced.book.model_copy(update={"effective_from": ALWAYS}), file.priced.version)


def tried_slices(
    warehouse: Warehouse,
    terms: Iterable[AccountTerms],
    folder: Path,
    sql: Mapping[str, str] | None = None,
    size: int = ACCOUNTS_OF_A_SLICE,
) -> list[Slice]:
    """Cut ``period_usage`` and ``event_values`` of the warehouse into slices of these accounts; files in the folder."""
    texts = sql or {query: sql_text(query) for query in (*SQL_RATER_QUERIES, *COMPARE_QUERIES)}
    return cut_slices(warehouse, sorted(terms, key=lambda one: one.account.account_id), folder, texts, size)


def rate_tried(slices: Sequence[Slice]) -> TriedLines:
    """Rate every account of the slices with both raters; the usage files lose the rows that have no price."""
    unpriced: dict[str, list[str]] = {}
    emptied: set[str] = set()  # accounts whose usage is all left out: one of their numbers has no place in a line
    disagreements: defaultdict[str, list[str]] = defaultdict(list)
    waiting = list(slices)
    while waiting:
        try:
            rated = rate_slices(waiting)
        except PricingError as error:
            if error.code != TOO_LARGE:
                raise
            refused = _problems(waiting, None)
            if not refused.keys() - emptied:  # nobody can say whose number it is
                raise
            emptied |= refused.keys()
            _add(unpriced, refused)
            for one in waiting:
                leave_out_accounts(one, refused)
            continue
        without_price = [(one, result.unpriced) for one, result in zip(waiting, rated, strict=True) if result.unpriced]
        waiting = [one for one, _ in without_price]
        if without_price:
            rows = [row for _, found in without_price for row in found]
            refused = _problems(waiting, {row["account_id"] for row in rows})
            for row in rows:
                if row["account_id"] not in refused:
                    told = f"account {row['account_id']}, SKU {row['sku']}: {row['reason']}"
                    disagreements[row["account_id"]].append(f"the SQL rater alone refuses {told}")
            _add(unpriced, refused)
        for one, found in without_price:
            leave_out_usage(one, found)
    for compared in compare_slices(slices):
        for account_id, sentence in compared.problems:
            disagreements[account_id].append(f"the reference rater alone refuses {sentence}")
        for line in compared.disagreements:
            disagreements[line.account_id].append(line.sentence)
    return TriedLines(tuple(one.lines for one in slices), unpriced, disagreements)


def _problems(slices: Sequence[Slice], accounts: Collection[str] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for compared in problems_of_slices(slices, accounts):
        for account_id, sentence in compared.problems:
            found.setdefault(account_id, []).append(sentence)
    return found


def _add(told: dict[str, list[str]], found: Mapping[str, list[str]]) -> None:
    """Add sentences that are not among those of their account yet."""
    for account_id, sentences in found.items():
        already = told.setdefault(account_id, [])
        already += [sentence for sentence in sentences if sentence not in already]


def read_lines(warehouse: Warehouse, files: Sequence[Path]) -> list[LineItem]:
    """Return the line items of files, in order."""
    warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, files)
    lines = (LineItem(*row) for row in warehouse.rows(LINE_ITEMS.name))
    return [line._replace(kind=LineKind(line.kind)) for line in lines]


def write_price_changes(
    warehouse: Warehouse, now: Sequence[Path], then: Sequence[Path], to: Path, left_out: Collection[str] = ()
) -> Path:
    """Write what two sets of line items come to, without some accounts, as a file of ``price_changes``."""
    for name, files in ((LINE_ITEMS.name, now), (f"other_{LINE_ITEMS.name}", then)):
        warehouse.view_files(name, LINE_ITEMS, files)
        if left_out:
            warehouse.leave_out_rows(name, (("account_id", "VARCHAR"),), [(account_id,) for account_id in left_out])
    return warehouse.write("price_changes", {}, to, PRICE_CHANGES)


def compared_currencies(warehouse: Warehouse, files: Sequence[Path]) -> list[CurrencyComparison]:
    """Return what the changes in files of ``price_changes`` add up to, in each currency."""
    warehouse.view_files(PRICE_CHANGES.name, PRICE_CHANGES, files)
    totals = warehouse.select("price_change_totals", {})
    return currency_comparisons(totals, warehouse.select("price_change_accounts", {"shown": ACCOUNTS_SHOWN_MAX}))
