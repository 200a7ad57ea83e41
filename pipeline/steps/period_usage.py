"""The usage of a billing period: which revisions of which windows it comes from, what that pins, and its relations.

A period takes the newest accepted revision of each of its windows; the window that is being billed takes part with the
revision at hand. What ``period_usage`` reads is pinned, so that a draft can be computed again from its pins.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.account import AccountDirectory
from pipeline.core.dataset import INSTANT, LINE_ITEMS, USAGE, USAGE_LEVELS, USAGE_VALUES, Dataset
from pipeline.core.errors import NotReadyError, PricingError
from pipeline.core.manifest import Receipt, canonical_json, sha256_hex
from pipeline.core.meter import LEVELS, Aggregation, BilledMeter, Meter, billed_meters, meter_changes
from pipeline.core.project import PricedBook
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.terms import PeriodTerms, period_terms, priced_dimensions
from pipeline.core.window import EPOCH, BillingPeriod, BillingWindow, billing_period
from pipeline.steps import late
from pipeline.steps.inputs import (
    ACCOUNT_REFERENCE_COLUMNS,
    account_references,
    pinned_account_rows,
    pinned_directory,
    pinned_meters,
)
from pipeline.steps.pinned import pinned_price_books
from pipeline.steps.publish import manifest_files, pin_file, read_manifest
from pipeline.steps.workspace import Workspace

PERIOD_QUERIES = ("period_usage", "event_values")
ACCOUNT_PERIODS = (
    ("account_id", "VARCHAR"),
    ("segment", "INTEGER"),
    ("period_start", INSTANT),  # of the segment
    ("period_end", INSTANT),
    ("levels_until", INSTANT),  # a level that nobody changed is counted up to here
    ("price_list", "INTEGER"),  # which SKUs are priced by dimensions; null: none
)
PRICED_DIMENSIONS = (
    ("price_list", "INTEGER"),
    ("sku", "VARCHAR"),
)
METER_CHANGES = (
    ("sku", "VARCHAR"),
    ("changed_at", INSTANT),  # start of the first window that is counted otherwise than the one before
)
BILLED_METERS = (
    ("sku", "VARCHAR"),
    ("aggregation", "VARCHAR"),
    ("unit", "VARCHAR"),
    ("billed_unit", "VARCHAR"),
    ("divisor", "DECIMAL(38,0)"),
    ("percentile", "INTEGER"),
    ("bucket_seconds", "BIGINT"),
)


@dataclass(frozen=True, slots=True)
class PeriodInputs:
    """What a period is rated from: the terms of each account, window revisions in order, their usage by window.

    ``pins`` names what ``view_period`` reads and, as ``accounts.csv`` and ``price_books``, what terms are made of.
    """

    period_id: str
    terms: PeriodTerms
    revisions: tuple[WindowRevision, ...]
    usage: Mapping[str, Receipt]
    pins: Mapping[str, Any]


def periods_touched(workspace: Workspace, revision: WindowRevision) -> list[str]:
    """Return, in order, the periods that the window of a revision reaches into in a time zone of the accounts."""
    return sorted(late.periods_touched(workspace, BillingWindow(revision.window_start, revision.window_end)))


def account_periods(workspace: Workspace, period_id: str) -> dict[str, BillingPeriod]:
    """Return the period of each account: the same month, in the account's own time zone.

    An account that left the directory after a neighbouring month was closed keeps the zone it was closed in, so that
    what was invoiced is not taken for usage of this month.
    """
    zones: dict[str, str] = {}
    for closed_in in _final_neighbours(workspace, period_id).values():
        zones |= closed_in
    zones |= {name: account.time_zone for name, account in workspace.project.directory.accounts().items()}
    closed = closed_pins(workspace, period_id)
    if closed is not None:
        zones |= json.loads(workspace.lake.get_bytes(f"pins/{closed['time_zones']}"))
    return periods_in(period_id, zones)


def period_inputs(
    workspace: Workspace,
    period_id: str,
    candidate: WindowRevision | None,
    beside: Sequence[WindowRevision] = (),
    tried: PricedBook | None = None,
) -> PeriodInputs:
    """Return what a period is rated from: the newest accepted revision of each window, or the candidate of its own.

    An accepted revision gives way to one of ``beside``. A revision whose usage is not published yet
    raises ``NotReadyError``: a draft never leaves out a night silently. A final period keeps the prices and the
    accounts that it was closed with (P5), whatever the project has by now; only accounts that it had not are new.
    A book that is ``tried`` takes the place of all others, also in a final period.
    """
    closed = closed_pins(workspace, period_id)
    revisions = _revisions(workspace, period_id, candidate, beside)
    usage = {revision.window_id: _usage(workspace, revision, USAGE) for revision in revisions}
    values = {revision.window_id: _usage(workspace, revision, USAGE_VALUES) for revision in revisions}
    levels = {revision.window_id: _usage(workspace, revision, USAGE_LEVELS) for revision in revisions}
    periods = account_periods(workspace, period_id)
    _require_joined(workspace, period_id, periods)
    if closed is None:
        directory, price_books = workspace.project.directory, workspace.project.price_books
    else:
        directory = _directory_of(workspace, workspace.project.directory, closed["accounts.csv"])
        price_books = tuple(pinned_price_books(workspace, closed["price_books"]))
    if tried is not None:
        price_books = (tried,)
    terms = period_terms(directory, price_books, period_id, periods)
    meters_of = {revision.window_id: pinned_meters(workspace, revision) for revision in revisions}
    meters = billed_meters(meters_of.values())
    earlier = _earlier_levels(workspace, periods, meters)
    counted = [(one.window_start, counted_with) for one, counted_with, _ in earlier]
    counted += [(revision.window_start, meters_of[revision.window_id]) for revision in revisions]
    pins = {
        "accounts.csv": pin_file(workspace, workspace.project.files["accounts.csv"]),
        "billed_meters": pin_billed_meters(workspace, meters),
        "earlier_levels": {one.window_id: receipt.manifest_hash for one, _, receipt in earlier},
        # Beyond the last window that takes part nothing is known, also not that a level stayed as it was.
        "levels_until": max((revision.window_end for revision in revisions), default=EPOCH).isoformat(),
        **(
            {name: closed[name] for name in ("price_books", "seller", "taxes.toml")}
            if closed is not None and tried is None
            else _pins_of_documents(workspace, terms)
        ),
        "usage": {window_id: receipt.manifest_hash for window_id, receipt in usage.items()},
        "usage_levels": {window_id: receipt.manifest_hash for window_id, receipt in levels.items()},
        "usage_values": {window_id: receipt.manifest_hash for window_id, receipt in values.items()},
        "meter_changes": [[sku, changed_at.isoformat()] for sku, changed_at in meter_changes(counted)],
        "time_zones": pin_file(workspace, canonical_json({name: one.time_zone for name, one in periods.items()})),
    }
    if closed is not None:
        pins["accounts_at_close"] = closed["accounts.csv"]
    return PeriodInputs(period_id, terms, tuple(revisions), usage, pins)


def _pins_of_documents(workspace: Workspace, terms: PeriodTerms) -> dict[str, Any]:
    """Pin what the documents of a period are made with, as of now: a final period keeps it."""
    books, taxes = terms.price_books, workspace.project.files.get("taxes.toml")
    seller = workspace.project.settings.seller.model_dump(mode="json")
    return {
        "price_books": {priced.version: pin_file(workspace, _price_book_file(workspace, priced)) for priced in books},
        "seller": pin_file(workspace, canonical_json(seller)),
        "taxes.toml": None if taxes is None else pin_file(workspace, taxes),
    }


def closed_pins(workspace: Workspace, period_id: str) -> Mapping[str, Any] | None:
    """Return the pins of the line items that a final period was closed with; None for one that is open."""
    if workspace.control_plane.period_state(period_id) != "final":
        return None
    line_items = workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
    return None if line_items is None else read_manifest(workspace, line_items.manifest_hash).pins


def _directory_of(workspace: Workspace, newest: AccountDirectory, at_close: str) -> AccountDirectory:
    """Return the accounts as they were at a close, and of the newest directory those that were not there then."""
    closed = pinned_directory(workspace, at_close)
    known = {row.account_id for row in closed.rows}
    return AccountDirectory((*closed.rows, *(row for row in newest.rows if row.account_id not in known)))


def view_period(
    warehouse: Warehouse,
    workspace: Workspace,
    pins: Mapping[str, Any],
    terms: PeriodTerms,
    own_files: Mapping[tuple[str, str], Sequence[Path]] | None = None,
    account_ids: Collection[str] | None = None,
) -> None:
    """Make the relations ``period_usage`` and ``event_values`` from what the pins of a draft name.

    Usage is divided between the segments of the terms; an account without terms has its whole period. Levels are
    divided between the owners of their resource, as the pinned directory has them. ``own_files`` are files to take, by
    dataset and window, instead of those that were published. ``account_ids`` leave out all other accounts.
    """
    view_usage(warehouse, workspace, pins, own_files, account_ids)
    table_account_periods(warehouse, terms, datetime.fromisoformat(pins["levels_until"]))
    for query in ("period_usage", "event_values"):
        warehouse.build(query, {})
        if account_ids is not None:
            warehouse.keep_rows(query, "account_id", account_ids)


def view_usage(
    warehouse: Warehouse,
    workspace: Workspace,
    pins: Mapping[str, Any],
    own_files: Mapping[tuple[str, str], Sequence[Path]] | None = None,
    account_ids: Collection[str] | None = None,
) -> None:
    """Name all that ``period_usage`` reads but the segments: usage, how it is billed, and who owned what when."""
    read = {dataset.name: dataset for dataset in (USAGE, USAGE_VALUES, USAGE_LEVELS)} | {"earlier_levels": USAGE_LEVELS}
    for name, dataset in read.items():
        warehouse.view_files(name, dataset, usage_files(workspace, pins, name, own_files))
        if account_ids is not None and dataset is not USAGE_LEVELS:  # levels are divided between accounts below
            warehouse.keep_rows(name, "account_id", account_ids)
    meters = json.loads(workspace.lake.get_bytes(f"pins/{pins['billed_meters']}"))
    table_billed_meters(warehouse, [BilledMeter(**{**meter, "divisor": int(meter["divisor"])}) for meter in meters])
    has_levels = any(meter["aggregation"] in LEVELS for meter in meters)
    references = account_references(pinned_directory(workspace, pins["accounts.csv"])) if has_levels else []
    warehouse.table_rows("account_references", ACCOUNT_REFERENCE_COLUMNS, references)
    changes = [(sku, datetime.fromisoformat(changed_at)) for sku, changed_at in pins["meter_changes"]]
    warehouse.table_rows("meter_changes", METER_CHANGES, changes)


def usage_files(
    workspace: Workspace,
    pins: Mapping[str, Any],
    name: str,
    own_files: Mapping[tuple[str, str], Sequence[Path]] | None = None,
) -> list[Path]:
    """Return the files of ``usage`` or of a dataset beside it that the pins name, or those given instead."""
    own = own_files or {}
    return [
        file
        for window_id, manifest in pins[name].items()
        for file in own.get((name, window_id)) or manifest_files(workspace, manifest)
    ]


def pinned_terms(
    workspace: Workspace, pins: Mapping[str, Any], period_id: str, price_books: Sequence[PricedBook] | None = None
) -> PeriodTerms:
    """Return the terms that the pins of a draft make, the same as they were, or those of other price books."""
    periods = periods_in(period_id, json.loads(workspace.lake.get_bytes(f"pins/{pins['time_zones']}")))
    directory = pinned_directory(workspace, pins["accounts.csv"])
    if "accounts_at_close" in pins:
        directory = _directory_of(workspace, directory, pins["accounts_at_close"])
    books = pinned_price_books(workspace, pins["price_books"]) if price_books is None else price_books
    return period_terms(directory, books, period_id, periods)


def table_account_periods(warehouse: Warehouse, terms: PeriodTerms, known_until: datetime) -> None:
    """Make ``account_periods``, a row for each segment, and ``priced_dimensions``: what is priced by dimensions."""
    bounds: list[tuple[Any, ...]] = []
    price_lists: dict[int, int | None] = {}  # accounts share their charges, so that each are looked at once
    priced: list[tuple[int, str]] = []
    for account_id, period in terms.periods.items():
        if account_id not in terms.accounts:
            bounds.append((account_id, 1, period.start, period.end, min(known_until, period.end), None))
            continue
        for segment in terms.accounts[account_id].segments:
            key = id(segment.charges)
            if key not in price_lists:
                skus = priced_dimensions(segment.charges)
                number = len(price_lists)
                price_lists[key] = number if skus else None
                priced += [(number, sku) for sku in skus]
            until = min(known_until, segment.end)
            bounds.append((account_id, segment.number, segment.start, segment.end, until, price_lists[key]))
    warehouse.table_rows("account_periods", ACCOUNT_PERIODS, bounds)
    warehouse.table_rows("priced_dimensions", PRICED_DIMENSIONS, priced)


def period_usage_rows(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return the rows of ``period_usage`` that ``view_period`` made, in order."""
    rows: list[dict[str, Any]] = warehouse.connection.table("period_usage").to_arrow_table().to_pylist()
    return rows


def table_billed_meters(warehouse: Warehouse, meters: Iterable[BilledMeter]) -> None:
    """Make ``billed_meters``: how usage becomes the quantity of a period."""
    rows = [tuple((asdict(meter) | {"divisor": Decimal(meter.divisor)}).values()) for meter in meters]
    warehouse.table_rows("billed_meters", BILLED_METERS, rows)


def pin_billed_meters(workspace: Workspace, meters: Sequence[BilledMeter]) -> str:
    """Keep how usage is billed in the lake and return its SHA-256."""
    return pin_file(workspace, canonical_json([{**asdict(m), "divisor": str(m.divisor)} for m in meters]))


def periods_in(period_id: str, time_zones: Mapping[str, str]) -> dict[str, BillingPeriod]:
    """Return the period of each account, in order of id."""
    of_zone = {time_zone: billing_period(period_id, time_zone) for time_zone in set(time_zones.values())}
    return {account_id: of_zone[time_zone] for account_id, time_zone in sorted(time_zones.items())}


def _usage(workspace: Workspace, revision: WindowRevision, dataset: Dataset) -> Receipt:
    receipt = workspace.control_plane.publication(dataset.name, revision.scope, revision.revision)
    if receipt is None:
        raise NotReadyError(
            "rate.usage_missing",
            f"revision {revision.revision} of window {revision.window_id} has no {dataset.name} yet",
            ["no period was rated with it; run the step aggregate of this revision first"],
        )
    return receipt


def _earlier_levels(
    workspace: Workspace, periods: Mapping[str, BillingPeriod], meters: Sequence[BilledMeter]
) -> list[tuple[WindowRevision, tuple[Meter, ...], Receipt]]:
    """Return, in order, each earlier window that may hold a level which lasts into the period, with its levels."""
    if not any(meter.aggregation == Aggregation.TIME_WEIGHTED_SUM for meter in meters):
        return []
    start = min(period.start for period in periods.values())
    counted_with: dict[str, tuple[Meter, ...]] = {}
    earlier = []
    for revision in workspace.control_plane.accepted_revisions().values():
        if revision.window_end > start:
            continue
        pinned = revision.pins["meters.toml"]
        if pinned not in counted_with:
            counted_with[pinned] = pinned_meters(workspace, revision)
        if any(meter.aggregation is Aggregation.TIME_WEIGHTED_SUM for meter in counted_with[pinned]):
            earlier.append((revision, counted_with[pinned], _usage(workspace, revision, USAGE_LEVELS)))
    return sorted(earlier, key=lambda one: one[0].window_start)


def _final_neighbours(workspace: Workspace, period_id: str) -> dict[str, dict[str, str]]:
    """Return, for the month before and the one after if it is final, the time zone each account was closed in."""
    year, month = int(period_id[:4]), int(period_id[5:])
    before = f"{year - (month == 1)}-{(month - 2) % 12 + 1:02}"
    after = f"{year + (month == 12)}-{month % 12 + 1:02}"
    closed = {}
    for neighbour in (before, after):
        line_items = workspace.control_plane.publication(LINE_ITEMS.name, f"period={neighbour}")
        if line_items is not None and workspace.control_plane.period_state(neighbour) == "final":
            accounts_csv = read_manifest(workspace, line_items.manifest_hash).pins["accounts.csv"]
            rows = pinned_account_rows(workspace.lake.get_bytes(f"pins/{accounts_csv}"))
            closed[neighbour] = {row["account_id"]: row["time_zone"] for row in rows}
    return closed


def _require_joined(workspace: Workspace, period_id: str, periods: Mapping[str, BillingPeriod]) -> None:
    """Refuse a period that overlaps, or leaves a gap to, the final one before or after it, for any account.

    An account whose time zone changed would be billed twice for some hours, or never.
    """
    problems = []
    for neighbour, time_zones in _final_neighbours(workspace, period_id).items():
        for account_id, time_zone in time_zones.items():
            period, closed = periods[account_id], billing_period(neighbour, time_zone)
            if period.start != closed.end and period.end != closed.start:
                problems.append(
                    f"account {account_id}: {neighbour} was closed in {time_zone}, "
                    f"{period_id} would be in {period.time_zone}"
                )
    if problems:
        raise PricingError(
            "pricing.time_zone_changed",
            f"period {period_id} does not join the period that is final ({len(problems)} accounts)",
            [*sorted(set(problems)), "hours would be billed twice, or never; put the time zone back"],
        )


def _revisions(
    workspace: Workspace, period_id: str, candidate: WindowRevision | None, beside: Sequence[WindowRevision]
) -> list[WindowRevision]:
    """Return, in order, the newest accepted revision of each window of the period, or the candidate of its own."""
    periods = account_periods(workspace, period_id).values()
    start, end = min(period.start for period in periods), max(period.end for period in periods)
    chosen: dict[str, WindowRevision] = {}
    for revision in workspace.control_plane.window_revisions(start, end):  # in order of window and revision
        if revision.state is RevisionState.ACCEPTED:
            chosen[revision.window_id] = revision
    chosen |= {revision.window_id: revision for revision in beside if revision.window_id in chosen}
    if candidate is not None:
        chosen[candidate.window_id] = candidate
    return sorted(chosen.values(), key=lambda revision: revision.window_start)


def _price_book_file(workspace: Workspace, priced: PricedBook) -> bytes:
    """Return the bytes that the version of a book is named after."""
    _, digits = priced.version.rsplit("@", 1)
    return next(content for content in workspace.project.files.values() if sha256_hex(content).startswith(digits))
