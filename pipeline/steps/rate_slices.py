"""Both raters at work: a period is rated in slices of accounts, by several processes, and each slice is compared.

A slice is rated by one thread, so that its rows come in one order on every machine; how large it is does not depend
on the machine either. The SQL rater writes a file of line items for each slice. The reference rater then rates the
accounts that are to be rated twice from the same files of usage, and what it says is compared line by line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, starmap
from operator import attrgetter
from pathlib import Path
from typing import Any

from pipeline.adapters.child_process import ProcessDiedError, spread
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.agreement import Disagreement, LineFigures
from pipeline.core.dataset import LINE_ITEMS, Dataset
from pipeline.core.decimals import plain_text
from pipeline.core.errors import NotReadyError
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.rating import rate_account
from pipeline.core.terms import AccountTerms
from pipeline.settings import worker_count
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE, rate_in_sql, table_terms, write_line_items

ACCOUNTS_OF_A_SLICE = 25_000
MEMORY_OF_A_SLICE = "1200MB"
DISAGREEMENTS_OF_A_SLICE = 1_000

_USAGE = Dataset("period_usage", PERIOD_USAGE, ("account_id", "sku", "segment", "dimensions", "aggregation", "unit"))
_VALUES = Dataset("event_values", EVENT_VALUES, ("account_id", "sku", "segment", "grain_start", "value"))
_REFERENCE_LINES = tuple(
    column
    for column in LINE_ITEMS.columns
    if column[0] in {"line_item_id", "account_id", "sku", "quantity", "amount_exact", "amount"}
)


@dataclass(frozen=True, slots=True)
class Slice:
    """Some accounts of a period: their terms, the files of what they used, and the file of their line items."""

    terms: tuple[AccountTerms, ...]
    usage: Path
    values: Path
    lines: Path
    scratch: Path
    sql: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _RateTask:
    slice: Slice


@dataclass(frozen=True, slots=True)
class _CompareTask:
    slice: Slice
    accounts: frozenset[str] | None
    has_lines: bool = True


@dataclass(frozen=True, slots=True)
class RatedSlice:
    """How many lines the SQL rater wrote, and the usage that it has no price for (rows of ``unpriced_usage``)."""

    line_count: int
    unpriced: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ComparedSlice:
    """What the reference rater rated, what it has no price for (account, sentence), and where it does not agree."""

    account_count: int
    line_count: int
    problems: tuple[tuple[str, str], ...]
    disagreements: tuple[Disagreement, ...]


def cut_slices(
    warehouse: Warehouse,
    terms: Sequence[AccountTerms],
    folder: Path,
    sql: Mapping[str, str],
    size: int = ACCOUNTS_OF_A_SLICE,
) -> list[Slice]:
    """Write the usage and the event values of each slice of accounts to files; terms are in order of account.

    Without terms there is one slice, of nobody.
    """
    slices = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, max(len(terms), 1), size)):
        own = tuple(terms[start : start + size])
        names = [account.account.account_id for account in own]
        usage, values = (
            warehouse.write_table(one.name, folder / f"{one.name}-{number}.parquet", one, ("account_id", names))
            for one in (_USAGE, _VALUES)
        )
        slices.append(Slice(own, usage, values, folder / f"line_items-{number}.parquet", folder, sql))
    return slices


def rate_slices(slices: Sequence[Slice]) -> list[RatedSlice]:
    """Let the SQL rater write the line items of each slice."""
    return _spread([_RateTask(one) for one in slices])


def compare_slices(slices: Sequence[Slice], accounts: Collection[str] | None = None) -> list[ComparedSlice]:
    """Let the reference rater rate these accounts, or all, and compare it with what the SQL rater wrote."""
    chosen = None if accounts is None else frozenset(accounts)
    return _spread([_CompareTask(one, chosen) for one in slices])


def problems_of_slices(slices: Sequence[Slice], accounts: Collection[str] | None) -> list[ComparedSlice]:
    """Let the reference rater rate these accounts, or all, for what it has no price for; nothing is compared."""
    chosen = None if accounts is None else frozenset(accounts)
    return _spread([_CompareTask(one, chosen, has_lines=False) for one in slices])


def leave_out_usage(one: Slice, unpriced: Sequence[Mapping[str, Any]]) -> None:
    """Take the usage of these rows of ``unpriced_usage``, and the values of its events, out of a slice's files."""
    _leave_out(one, ("account_id", "sku", "segment", "dimensions", "unit"), unpriced)


def leave_out_accounts(one: Slice, account_ids: Collection[str]) -> None:
    """Take all usage of these accounts out of the files of a slice."""
    _leave_out(one, ("account_id",), [{"account_id": account_id} for account_id in account_ids])


def _leave_out(one: Slice, key: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with Warehouse(one.scratch, MEMORY_OF_A_SLICE, threads=1) as warehouse:
        for dataset, file in ((_USAGE, one.usage), (_VALUES, one.values)):
            columns = [column for column in dataset.columns if column[0] in key]
            found = sorted({tuple(row[name] for name, _ in columns) for row in rows})
            warehouse.view_files(dataset.name, dataset, [file])
            warehouse.leave_out_rows(dataset.name, columns, found)
            warehouse.write_table(dataset.name, file.with_suffix(".new"), dataset).replace(file)


def _spread(tasks: Sequence[Any]) -> list[Any]:
    return spread("pipeline.steps.rate_worker", work, tasks, worker_count(), _worker_died)


def _worker_died(_: ProcessDiedError) -> NotReadyError:
    return NotReadyError(
        "rate.worker_died",
        "a process that rated ended before it was done",
        [
            "memory may have run out, or somebody killed it",
            "nothing was published; the same call may succeed later, or with BILLING_WORKERS=1",
        ],
    )


def work(task: Any) -> RatedSlice | ComparedSlice:
    """Do one task; this is what a process of ``rate_worker`` serves."""
    return _rate(task.slice) if isinstance(task, _RateTask) else _compare(task)


def _rate(one: Slice) -> RatedSlice:
    with Warehouse(one.scratch, MEMORY_OF_A_SLICE, threads=1, sql=one.sql) as warehouse:
        for dataset, file in ((_USAGE, one.usage), (_VALUES, one.values)):
            warehouse.view_files(dataset.name, dataset, [file])
        table_terms(warehouse, one.terms)  # makes tables of them
        unpriced = tuple(warehouse.select("unpriced_usage", {}))
        if unpriced:
            return RatedSlice(0, unpriced)
        rate_in_sql(warehouse)
        write_line_items(warehouse, one.lines)
        return RatedSlice(warehouse.row_count("rated_lines"), ())


def _compare(task: _CompareTask) -> ComparedSlice:
    one, accounts = task.slice, task.accounts
    chosen = [terms for terms in one.terms if accounts is None or terms.account.account_id in accounts]
    names = None if accounts is None else [terms.account.account_id for terms in chosen]
    columns: dict[str, list[Any]] = {name: [] for name, _ in _REFERENCE_LINES}
    problems: list[tuple[str, str]] = []
    with Warehouse(one.scratch, MEMORY_OF_A_SLICE, threads=1, sql=one.sql) as warehouse:
        read = [(_USAGE, one.usage), (_VALUES, one.values)] + [(LINE_ITEMS, one.lines)] * task.has_lines
        for dataset, file in read:
            warehouse.table_files(dataset.name, dataset, [file], None if names is None else ("account_id", names))
        values = [EventValue(*row) for row in warehouse.rows(_VALUES.name)]
        usage = starmap(PeriodUsage, warehouse.rows(_USAGE.name))
        for terms, own_usage, own_values in _by_account(chosen, usage, iter(values)):
            rated = rate_account(terms, own_usage, own_values)
            problems += [(terms.account.account_id, sentence) for sentence in rated.problems]
            for name, column in columns.items():
                column.extend([] if rated.problems else [getattr(line, name) for line in rated.lines])
        warehouse.table_rows("reference_lines", _REFERENCE_LINES, list(zip(*columns.values(), strict=True)))
        refused = {account_id for account_id, _ in problems}
        differing = warehouse.select("differing_lines", {}) if task.has_lines else []
        differing = [row for row in differing if row["account_id"] not in refused][:DISAGREEMENTS_OF_A_SLICE]
        inputs = _inputs(warehouse, chosen, differing)
    disagreements = tuple(
        Disagreement(
            row["line_item_id"],
            row["account_id"],
            inputs[row["account_id"]].currency,
            _figures(row, "sql"),
            _figures(row, "reference"),
            inputs[row["account_id"]].of(row["sku"]),
        )
        for row in differing
    )
    return ComparedSlice(len(chosen), len(columns["account_id"]), tuple(problems), disagreements)


def _by_account(
    chosen: Sequence[AccountTerms], usage: Iterator[PeriodUsage], values: Iterator[EventValue]
) -> Iterator[tuple[AccountTerms, list[PeriodUsage], list[EventValue]]]:
    """Yield each account with its rows; all three come in order of account, and no row is of another one."""
    by_account = attrgetter("account_id")
    groups: list[Any] = [groupby(usage, by_account), groupby(values, by_account)]
    heads: list[Any] = [next(group, None) for group in groups]
    for terms in chosen:
        own: list[Any] = [[], []]
        for side, head in enumerate(heads):
            if head is not None and head[0] == terms.account.account_id:
                own[side] = list(head[1])
                heads[side] = next(groups[side], None)
        yield terms, own[0], own[1]
    if any(head is not None for head in heads):
        raise ValueError(f"there is usage of an account without terms: {heads}")


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What the lines of an account are rated from."""

    terms: AccountTerms
    usage: tuple[PeriodUsage, ...]

    @property
    def currency(self) -> str:
        return self.terms.account.currency

    def of(self, sku: str) -> tuple[str, ...]:
        """Return sentences: the usage of a SKU in each segment, and the prices that hold then."""
        used = [
            f"segment {row.segment}: {plain_text(row.quantity)} {row.unit} ({row.aggregation} of {row.event_count}"
            f" events){' ' + row.dimensions if row.dimensions else ''}"
            for row in self.usage
            if row.sku == sku
        ]
        prices = []
        for segment in self.terms.segments:
            priced = segment.charges.get(sku) or segment.plan
            prices.append(
                f"segment {segment.number}, {segment.active_days} of {self.terms.days} days, plan {segment.plan_name} "
                f"of {segment.priced.version}: {priced.model_dump_json(exclude_defaults=True)}"
            )
        return (*used, *prices)


def _inputs(
    warehouse: Warehouse, chosen: Sequence[AccountTerms], differing: Sequence[Mapping[str, Any]]
) -> dict[str, _Inputs]:
    names = {row["account_id"] for row in differing}
    if not names:
        return {}
    usage = [row for row in starmap(PeriodUsage, warehouse.rows(_USAGE.name)) if row.account_id in names]
    return {
        terms.account.account_id: _Inputs(
            terms, tuple(row for row in usage if row.account_id == terms.account.account_id)
        )
        for terms in chosen
        if terms.account.account_id in names
    }


def _figures(row: Mapping[str, Any], side: str) -> LineFigures | None:
    if row[f"{side}_quantity"] is None:
        return None
    return LineFigures(row[f"{side}_quantity"], row[f"{side}_amount_exact"], row[f"{side}_amount"])
