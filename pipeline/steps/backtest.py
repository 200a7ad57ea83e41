"""Backtest: past periods under another price book, from the usage, accounts and time zones that their drafts pin.

What a period costs now are its published line items, final or not; what it would cost are lines that both raters make
of the same pinned files. Nothing is published: a page and a Parquet file go into a folder for whoever decides.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.adapters.documents import render
from pipeline.adapters.price_book_files import PriceBookFile
from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import LINE_ITEMS, PRICE_CHANGES
from pipeline.core.errors import NotReadyError
from pipeline.core.manifest import Receipt
from pipeline.core.price_comparison import CurrencyComparison
from pipeline.core.window import billing_period, next_period_id
from pipeline.steps.book_trial import (
    as_if_in_force,
    compared_currencies,
    rate_tried,
    tried_slices,
    write_price_changes,
)
from pipeline.steps.period_usage import pinned_terms, view_period
from pipeline.steps.publish import manifest_files, read_manifest
from pipeline.steps.workspace import Workspace

SENTENCES_SHOWN_MAX = 500


@dataclass(frozen=True, slots=True)
class TestedPeriod:
    """A period that was rated again: its state, the line items it is compared with, and the books that made these."""

    period_id: str
    state: str
    revision: int
    manifest_hash: str
    price_books: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Backtest:
    """What past periods would have cost. ``left_out`` are periods of the range that have no line items.

    ``unpriced`` are sentences on usage that the book has no price for, which counts as zero; ``disagreements`` are
    sentences on what the two raters do not say alike. ``page`` and ``changes`` are the files that were written;
    ``content_hash`` is that of the rows of ``changes``.
    """

    version: str
    periods: tuple[TestedPeriod, ...]
    left_out: tuple[str, ...]
    currencies: tuple[CurrencyComparison, ...]
    unpriced: tuple[str, ...]
    disagreements: tuple[str, ...]
    page: Path
    changes: Path
    content_hash: str

    @property
    def is_sound(self) -> bool:
        """Tell whether all usage has a price and both raters agree."""
        return not self.unpriced and not self.disagreements


def periods_between(first: str, last: str) -> list[str]:
    """Return the periods from one to another, both inclusive.

    >>> periods_between("2025-12", "2026-02")
    ['2025-12', '2026-01', '2026-02']
    """
    for period_id in (first, last):
        billing_period(period_id, "UTC")
    if last < first:
        raise ValueError(f"{last} is before {first}")
    periods = [first]
    while periods[-1] != last:
        periods.append(next_period_id(periods[-1]))
    return periods


def backtest(workspace: Workspace, file: PriceBookFile, period_ids: Sequence[str], out: Path) -> Backtest:
    """Rate periods, in order, under a book as if it had been in force, and write what changes into a folder.

    Without line items of any of them it raises ``NotReadyError``. The same inputs make the same bytes.
    """
    publications = {
        period_id: workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
        for period_id in period_ids
    }
    published = {period_id: receipt for period_id, receipt in publications.items() if receipt is not None}
    if not published:
        raise NotReadyError(
            "backtest.not_rated",
            f"no period from {period_ids[0]} to {period_ids[-1]} has line items",
            ["there is nothing to compare with; name periods that were rated (billing price list)"],
        )
    periods, files = [], []
    unpriced: list[str] = []
    disagreements: list[str] = []
    with scratch_folder(workspace.scratch, "backtest") as folder:
        for period_id, receipt in published.items():
            tested, to = _tested(workspace, period_id, receipt), folder / f"{period_id}.parquet"
            without_price, not_alike = _rate_again(workspace, tested, file, folder / period_id, to)
            periods.append(tested)
            files.append(to)
            unpriced += [f"{period_id}: {sentence}" for sentence in without_price]
            disagreements += [f"{period_id}: {sentence}" for sentence in not_alike]
        with Warehouse(workspace.scratch) as warehouse:
            currencies = compared_currencies(warehouse, files)
            changes = warehouse.write_table(PRICE_CHANGES.name, folder / "price_changes.parquet", PRICE_CHANGES)
            _, content_hash = warehouse.describe_file(PRICE_CHANGES, [changes])
        name = period_ids[0] if len(period_ids) == 1 else f"{period_ids[0]}_{period_ids[-1]}"
        own = out / "backtests" / file.priced.version
        result = Backtest(
            version=file.priced.version,
            periods=tuple(periods),
            left_out=tuple(period_id for period_id in period_ids if period_id not in published),
            currencies=tuple(currencies),
            unpriced=tuple(unpriced),
            disagreements=tuple(disagreements),
            page=own / f"{name}.html",
            changes=own / f"{name}.parquet",
            content_hash=content_hash,
        )
        own.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(changes, result.changes)
    result.page.write_bytes(_page(workspace, result))
    return result


def _tested(workspace: Workspace, period_id: str, receipt: Receipt) -> TestedPeriod:
    books = read_manifest(workspace, receipt.manifest_hash).pins["price_books"]
    state = workspace.control_plane.period_state(period_id)
    return TestedPeriod(period_id, state, receipt.revision, receipt.manifest_hash, tuple(sorted(books)))


def _rate_again(
    workspace: Workspace, tested: TestedPeriod, file: PriceBookFile, folder: Path, to: Path
) -> tuple[list[str], list[str]]:
    """Write what changes in a period; return, as sentences, what has no price and where the raters disagree."""
    pins = read_manifest(workspace, tested.manifest_hash).pins
    now = manifest_files(workspace, tested.manifest_hash)
    terms = pinned_terms(workspace, pins, tested.period_id, [as_if_in_force(file)])
    with Warehouse(workspace.scratch) as warehouse:
        view_period(warehouse, workspace, pins, terms)
        slices = tried_slices(warehouse, terms.accounts.values(), folder)
    tried = rate_tried(slices)
    with Warehouse(workspace.scratch) as warehouse:
        write_price_changes(warehouse, now, tried.files, to)
    billed = _accounts_of(now) if terms.problems else ()
    without_price = {name: [f"account {name}: {why}"] for name, why in terms.problems.items() if name in billed}
    sides = ({**tried.unpriced, **without_price}, tried.disagreements)
    unpriced, disagreements = ([told for _, found in sorted(side.items()) for told in sorted(found)] for side in sides)
    return unpriced, disagreements


def _accounts_of(files: Sequence[Path]) -> Collection[str]:
    columns = (pq.read_table(path, columns=["account_id"]).column(0) for path in files)
    return {str(account_id) for column in columns for account_id in column.unique().to_pylist()}


def _page(workspace: Workspace, result: Backtest) -> bytes:
    settings = workspace.project.settings
    model = {
        "project_name": settings.name,
        "legal_entity": settings.seller.legal_entity,
        "result": result,
        "books_now": sorted({version for period in result.periods for version in period.price_books}),
        "shown_max": SENTENCES_SHOWN_MAX,
    }
    return render("backtest.html", model).encode()
