"""Estimate: what each account will pay for the whole period, as far as the nights so far tell.

It is no bill. The usage to the end of the period is projected from the days before (see ``core.forecast``) and rated
at the terms of the account, so that tiers, minimums and commitments are those of the whole period. Rated once more
with the lowest and the highest of those days, it comes with an interval.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.adapters.child_process import ProcessDiedError, serve, spread
from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.dataset import ESTIMATES, INSTANT, LINE_ITEMS, QUANTITY, USAGE, Dataset
from pipeline.core.errors import InputError, NotReadyError, PricingError
from pipeline.core.forecast import Forecast, Span, forecast_of, joined
from pipeline.core.manifest import Manifest, Receipt
from pipeline.core.price_book import PercentageCharge
from pipeline.core.terms import AccountTerms, PeriodTerms, priced_dimensions
from pipeline.core.window import parse_window
from pipeline.settings import worker_count
from pipeline.steps.aggregate import find_revision
from pipeline.steps.inputs import pinned_directory
from pipeline.steps.period_usage import (
    ACCOUNT_PERIODS,
    PERIOD_QUERIES,
    PRICED_DIMENSIONS,
    periods_touched,
    pinned_terms,
    usage_files,
    view_period,
)
from pipeline.steps.pinned import pin_sql
from pipeline.steps.publish import dataset_files, publish_next, read_manifest
from pipeline.steps.rate_slices import ACCOUNTS_OF_A_SLICE, MEMORY_OF_A_SLICE
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE, SQL_RATER_QUERIES, rate_in_sql, table_terms
from pipeline.steps.workspace import Workspace

ACCOUNT_FORECASTS = (
    ("account_id", "VARCHAR"),
    ("segment", "INTEGER"),  # one that is not over; account and segment are the key
    ("forecast", "INTEGER"),
    ("price_list", "INTEGER"),
)
FORECAST_DAYS = (
    ("forecast", "INTEGER"),
    ("day_number", "INTEGER"),  # from 1, the first day of the period
    ("day_start", INSTANT),
    ("day_end", INSTANT),
    ("day_group", "INTEGER"),  # days that are like one another: a weekday, or 0 for any day
)
FORECAST_REST = (
    ("forecast", "INTEGER"),
    ("segment", "INTEGER"),
    ("day_group", "INTEGER"),
    ("parts_left", "BIGINT"),  # 1440ths of a day
    ("group_days", "INTEGER"),  # how many days of the group are looked at
)
PROJECTED_USAGE = (
    *PERIOD_USAGE[:-1],
    ("low_quantity", QUANTITY),
    ("high_quantity", QUANTITY),
    ("event_count", "BIGINT"),
    ("low_event_count", "BIGINT"),
    ("high_event_count", "BIGINT"),
)
PROJECTIONS = ("expected", "low", "high")
ESTIMATE_QUERIES = (
    *PERIOD_QUERIES,
    *SQL_RATER_QUERIES,
    *("account_amounts", "unsummed_usage", "projected_usage", "period_projection", "projected_amounts"),
)
NO_DAY = "no whole day of the period is known yet, so there is nothing to project from"
_KEY = ("account_id", "sku", "segment", "dimensions", "aggregation", "unit")
_FORECAST = ("forecast_amount", "low_amount", "high_amount")
_PROJECTED = Dataset("projected_usage", PROJECTED_USAGE, _KEY)
_VALUES = Dataset("event_values", EVENT_VALUES, ("account_id", "sku", "segment", "grain_start", "value"))


@dataclass(frozen=True, slots=True)
class _Task:
    terms: tuple[AccountTerms, ...]
    usage: Path
    values: Path
    scratch: Path
    sql: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Amounts:
    """What accounts will pay by projection, and why others cannot be rated."""

    amounts: Mapping[str, tuple[Decimal, ...]]
    problems: Mapping[str, str]


def estimate(workspace: Workspace, window_id: str, revision: int, at: datetime) -> list[Receipt]:
    """Publish the estimates of each open period that the window touches, from its draft; none where they are off."""
    if not workspace.project.settings.rating.estimates:
        return []
    receipts = []
    for period_id in periods_touched(workspace, find_revision(workspace, window_id, revision)):
        draft = workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
        if draft is not None and workspace.control_plane.period_state(period_id) != "final":
            receipts.append(estimate_period(workspace, draft, at))
    return receipts


def estimate_period(workspace: Workspace, draft: Receipt, at: datetime) -> Receipt:
    """Publish the estimates of a draft's period; the same draft publishes nothing new."""
    manifest = read_manifest(workspace, draft.manifest_hash)
    window = workspace.project.settings.window
    sql = {query: sql_text(query) for query in ESTIMATE_QUERIES}
    terms = pinned_terms(workspace, manifest.pins, manifest.pins["period_id"])
    with scratch_folder(workspace.scratch, "estimate") as folder:
        rows = list(_rows(workspace, draft, manifest, terms, folder, sql))
        with Warehouse(workspace.scratch) as warehouse:
            warehouse.table_rows(ESTIMATES.name, ESTIMATES.columns, rows)
            file = warehouse.write_table(ESTIMATES.name, folder / "estimates.parquet", ESTIMATES)
        pins = {
            "line_items": draft.manifest_hash,
            "sql": pin_sql(workspace, ESTIMATE_QUERIES),
            "first_window_start": window.first_window_start.isoformat(),
            "window_seconds": int(window.length.total_seconds()),
        }
        return publish_next(workspace, ESTIMATES, draft.scope, [file], pins, at)


def published_estimates(workspace: Workspace, receipt: Receipt) -> list[dict[str, Any]]:
    """Return the estimates of a publication in order of account, as rows of ``ESTIMATES``."""
    with Warehouse(workspace.scratch) as warehouse:
        warehouse.view_files(ESTIMATES.name, ESTIMATES, dataset_files(workspace, receipt))
        return [dict(zip(ESTIMATES.column_names, row, strict=True)) for row in warehouse.rows(ESTIMATES.name)]


def newest_estimates(workspace: Workspace, period_id: str | None, account_id: str | None) -> list[dict[str, Any]]:
    """Return the newest estimates of a period, or of the latest one that has any; of one account if it is named."""
    if period_id is None:
        windows = workspace.control_plane.accepted_revisions().values()
        touched = {period for revision in windows for period in periods_touched(workspace, revision)}
    else:
        touched = {period_id}
    published = [
        receipt
        for period in sorted(touched)
        if (receipt := workspace.control_plane.publication(ESTIMATES.name, f"period={period}")) is not None
    ]
    if not published:
        raise NotReadyError(
            "estimate.none",
            "nothing is estimated" if period_id is None else f"nothing is estimated of period {period_id}",
            ["each accepted night estimates the open periods: billing run, with [rating] estimates = true"],
        )
    rows = published_estimates(workspace, published[-1])
    if account_id is None:
        return rows
    of_account = [row for row in rows if row["account_id"] == account_id]
    if not of_account:
        raise InputError(
            "estimate.no_account",
            f"account {account_id} has no estimate in {published[-1].scope}",
            ["it has no lines and no usage in that period, or another name: see accounts.csv"],
        )
    return of_account


def estimates_of_draft(workspace: Workspace, draft: Receipt) -> Receipt | None:
    """Return the newest publication of estimates that was made from a draft, if there is one."""
    receipt = workspace.control_plane.publication(ESTIMATES.name, draft.scope)
    while receipt is not None:
        if read_manifest(workspace, receipt.manifest_hash).pins["line_items"] == draft.manifest_hash:
            return receipt
        earlier = receipt.revision - 1
        receipt = workspace.control_plane.publication(ESTIMATES.name, draft.scope, earlier) if earlier else None
    return None


def _rows(
    workspace: Workspace, draft: Receipt, manifest: Manifest, terms: PeriodTerms, folder: Path, sql: Mapping[str, str]
) -> Iterator[tuple[Any, ...]]:
    pins = manifest.pins
    as_of = datetime.fromisoformat(pins["levels_until"])
    forecasts = _forecasts(workspace, pins, terms)
    tasks = []
    with Warehouse(workspace.scratch, sql=sql) as warehouse:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, dataset_files(workspace, draft))
        to_date = {row["account_id"]: row["amount"] for row in warehouse.select("account_amounts", {})}
        view_period(warehouse, workspace, pins, terms)
        _table_forecasts(warehouse, terms, forecasts)
        _build_day_usage(warehouse, workspace, pins, terms, forecasts, folder)
        warehouse.build("projected_usage", {})
        possible = [one for account_id, one in sorted(terms.accounts.items()) if forecasts[account_id].is_possible]
        for number, start in enumerate(range(0, len(possible), ACCOUNTS_OF_A_SLICE)):
            own = tuple(possible[start : start + ACCOUNTS_OF_A_SLICE])
            names = [one.account.account_id for one in own]
            usage, values = (
                warehouse.write_table(one.name, folder / f"{one.name}-{number}.parquet", one, ("account_id", names))
                for one in (_PROJECTED, _VALUES)
            )
            tasks.append(_Task(own, usage, values, folder, sql))
    rated = spread(__name__, work, tasks, worker_count(), _worker_died)
    amounts = {name: amounts for one in rated for name, amounts in one.amounts.items()}
    problems = {name: problem for one in rated for name, problem in one.problems.items()}
    for account_id, one in sorted(terms.accounts.items()):
        if account_id not in to_date and not any(amounts.get(account_id, ())):
            continue
        forecast = forecasts[account_id]
        problem = problems.get(account_id, "" if forecast.is_possible else NO_DAY)
        expected, *bounds = (None, None, None) if problem else amounts[account_id]
        found = [amount for amount in (expected, *bounds) if amount is not None]
        interval = (min(found), max(found)) if found else (None, None)
        yield (
            *(account_id, terms.period_id, one.account.currency, as_of, forecast.days_known, forecast.day_count),
            *(to_date.get(account_id, Decimal(0)), expected, *interval, problem),
        )


def _forecasts(workspace: Workspace, pins: Mapping[str, Any], terms: PeriodTerms) -> dict[str, Forecast]:
    """Return how the period of each account is projected; accounts that are alike share one.

    Usage before the first window is never billed, so no account is there before it.
    """
    settings = workspace.project.settings.window
    windows = [parse_window(window_id, settings.length) for window_id in pins["usage"]]
    known = joined((window.start, window.end) for window in windows)
    stays: dict[str, list[Span]] = {}
    for row in pinned_directory(workspace, pins["accounts.csv"]).rows:
        stays.setdefault(row.account_id, []).append((row.valid_from, row.valid_to))
    made: dict[Any, Forecast] = {}
    forecasts = {}
    for account_id, one in terms.accounts.items():
        start, end = max(one.period.start, settings.first_window_start), one.period.end
        there = joined(
            (max(low, start), min(high, end)) for low, high in stays[account_id] if low < end and start < high
        )
        segments = tuple((segment.start, segment.end) for segment in one.segments)
        key = (one.period, segments, there)
        if key not in made:
            made[key] = forecast_of(one.period, segments, there, known)
        forecasts[account_id] = made[key]
    return forecasts


def _table_forecasts(warehouse: Warehouse, terms: PeriodTerms, forecasts: Mapping[str, Forecast]) -> None:
    numbers: dict[int, int] = {}
    price_lists: dict[int, int] = {}
    accounts, days, rest = [], [], []
    dimensions: list[tuple[int, str]] = []
    by_event: list[tuple[int, str]] = []
    for account_id, one in terms.accounts.items():
        forecast = forecasts[account_id]
        if not forecast.days or not forecast.parts_left:
            continue
        if id(forecast) not in numbers:
            number = numbers[id(forecast)] = len(numbers)
            days += [(number, day.number, day.start, day.end, day.group) for day in forecast.days]
            rest += [(number, *key, parts, forecast.group_days) for key, parts in forecast.parts_left.items()]
        for number in sorted({segment for segment, _ in forecast.parts_left}):
            charges = one.segments[number - 1].charges
            if id(charges) not in price_lists:
                price_list = price_lists[id(charges)] = len(price_lists)
                dimensions += [(price_list, sku) for sku in priced_dimensions(charges)]
                by_event += [
                    (price_list, sku)
                    for sku, charge in charges.items()
                    if isinstance(charge, PercentageCharge) and charge.needs_values
                ]
            accounts.append((account_id, number, numbers[id(forecast)], price_lists[id(charges)]))
    warehouse.table_rows("account_forecasts", ACCOUNT_FORECASTS, accounts)
    warehouse.table_rows("forecast_days", FORECAST_DAYS, days)
    warehouse.table_rows("forecast_rest", FORECAST_REST, rest)
    warehouse.table_rows("priced_dimensions", PRICED_DIMENSIONS, dimensions)
    warehouse.table_rows("priced_by_event", PRICED_DIMENSIONS, by_event)


def _build_day_usage(
    warehouse: Warehouse,
    workspace: Workspace,
    pins: Mapping[str, Any],
    terms: PeriodTerms,
    forecasts: Mapping[str, Forecast],
    folder: Path,
) -> None:
    """Make ``day_usage``: each day that is projected from as ``period_usage`` has a segment; see projected_usage."""
    meters = json.loads(workspace.lake.get_bytes(f"pins/{pins['billed_meters']}"))
    if not any(meter["aggregation"] in {"time_weighted_sum", "sum_of_maxima"} for meter in meters):
        warehouse.table_rows("day_usage", PERIOD_USAGE, [])
        return
    price_list_of = {
        (account, segment): price_list for account, segment, _, price_list in warehouse.rows("account_forecasts")
    }
    periods = [
        (account_id, 100 * segment + day.number, day.start, day.end, day.end, price_list_of[account_id, segment])
        for account_id in terms.accounts
        for segment in sorted({segment for segment, _ in forecasts[account_id].parts_left})
        for day in forecasts[account_id].days
    ]
    unsummed = warehouse.write("unsummed_usage", {}, folder / "unsummed_usage.parquet", USAGE)
    warehouse.view_files("usage", USAGE, [unsummed])
    warehouse.table_rows("account_periods", ACCOUNT_PERIODS, periods)
    warehouse.build("period_usage", {}, name="day_usage")
    warehouse.view_files("usage", USAGE, usage_files(workspace, pins, "usage"))


def _worker_died(_: ProcessDiedError) -> NotReadyError:
    return NotReadyError(
        "estimate.worker_died",
        "a process that estimated ended before it was done",
        ["memory may have run out, or somebody killed it", "no estimate was published; what was billed is not touched"],
    )


def work(task: _Task) -> _Amounts:
    """Rate each projection of some accounts; this is what a process of this module serves."""
    found: list[Mapping[str, Decimal]] = []
    problems: dict[str, str] = {}
    with Warehouse(task.scratch, MEMORY_OF_A_SLICE, threads=1, sql=task.sql) as warehouse:
        for projection in PROJECTIONS:
            try:
                amounts, refused = _rate(warehouse, task, projection, frozenset(problems))
            except PricingError as error:
                reason = f"{error.summary} ({error.code})"
                return _Amounts({}, {one.account.account_id: reason for one in task.terms})
            found.append(amounts)
            problems |= refused
    zero = Decimal(0)
    names = [one.account.account_id for one in task.terms]
    return _Amounts({name: tuple(of.get(name, zero) for of in found) for name in names}, problems)


def _rate(
    warehouse: Warehouse, task: _Task, projection: str, left_out: frozenset[str]
) -> tuple[dict[str, Decimal], dict[str, str]]:
    """Return what accounts pay for a projection, and why others have no price at it: a last tier may end below it."""
    chosen = [one for one in task.terms if one.account.account_id not in left_out]
    names = [one.account.account_id for one in chosen]
    warehouse.table_files(_PROJECTED.name, _PROJECTED, [task.usage], ("account_id", names))
    warehouse.build("period_projection", {"projection": projection}, name="period_usage")
    warehouse.table_files(_VALUES.name, _VALUES, [task.values], ("account_id", names))
    table_terms(warehouse, chosen)
    refused: dict[str, str] = {}
    for row in warehouse.select("unpriced_usage", {}):
        refused[row["account_id"]] = f"the projected usage of SKU {row['sku']} has no price: {row['reason']}"
    if refused:
        amounts, more = _rate(warehouse, task, projection, left_out | refused.keys())
        return amounts, refused | more
    rate_in_sql(warehouse)
    return {row["account_id"]: row["amount"] for row in warehouse.select("projected_amounts", {})}, {}


def totals_by_currency(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sums of estimates by period and currency; accounts without a forecast are counted, and not in it.

    Where no account has one, the forecast is None.
    """
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["period_id"], row["currency"])
        if key not in totals:
            totals[key] = {"period_id": key[0], "currency": key[1], "as_of": row["as_of"]}
            totals[key] |= {"account_count": 0, "problem_count": 0}
            totals[key] |= dict.fromkeys(("amount_to_date", *_FORECAST), Decimal(0))
        total = totals[key]
        total["account_count"] += 1
        total["amount_to_date"] += row["amount_to_date"]
        if row["problem"]:
            total["problem_count"] += 1
        else:
            for name in _FORECAST:
                total[name] += row[name]
    for total in totals.values():
        if total["problem_count"] == total["account_count"]:
            total.update(dict.fromkeys(_FORECAST))
    return [total for _, total in sorted(totals.items())]


def largest_estimates(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Return the largest forecasts of each currency; equal ones in order of account."""
    chosen: list[Mapping[str, Any]] = []
    forecast = [row for row in rows if row["forecast_amount"] is not None]
    for currency in sorted({row["currency"] for row in forecast}):
        of_currency = [row for row in forecast if row["currency"] == currency]
        chosen += sorted(of_currency, key=lambda row: (-row["forecast_amount"], row["account_id"]))[:count]
    return chosen


if __name__ == "__main__":
    serve(work)
