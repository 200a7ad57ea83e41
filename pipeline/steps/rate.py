"""Rate: the usage of a billing period, from one revision of each of its windows, becomes draft line items.

A period is rated as a whole each time, because a tier counts across nights. Windows that are not accepted yet
are not in the draft; the window that is being billed takes part with the revision at hand. The draft is published
as ``line_items`` of the period; nothing is issued here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import INSTANT, LINE_ITEMS, USAGE, USAGE_VALUES, Dataset
from pipeline.core.errors import NotReadyError, PricingError
from pipeline.core.line_item import LineItem
from pipeline.core.manifest import Manifest, Receipt, canonical_json, sha256_hex
from pipeline.core.meter import LEVELS, Aggregation, BilledMeter, Meter, billed_meters, meter_changes
from pipeline.core.project import PricedBook, book_on
from pipeline.core.rating import PeriodUsage, rate_usage
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import EPOCH, BillingPeriod, BillingWindow, billing_period
from pipeline.steps import late
from pipeline.steps.aggregate import find_revision
from pipeline.steps.inputs import (
    ACCOUNT_REFERENCE_COLUMNS,
    account_references,
    pinned_account_rows,
    pinned_directory,
    pinned_meters,
)
from pipeline.steps.pinned import pin_sql, pinned_price_books, pinned_sql
from pipeline.steps.publish import manifest_files, pin_file, publish_next, read_manifest
from pipeline.steps.workspace import Workspace

log = logging.getLogger(__name__)

RATE_QUERIES = ("period_usage",)
ACCOUNT_PERIODS = (
    ("account_id", "VARCHAR"),
    ("period_start", INSTANT),
    ("period_end", INSTANT),
    ("levels_until", INSTANT),  # a level that nobody changed is counted up to here
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
class RatedPeriod:
    """The line items of a period, and the window revisions and usage (by window) that they come from.

    ``pins`` names what ``period_usage`` read; see ``view_period``.
    """

    period_id: str
    lines: tuple[LineItem, ...]
    revisions: tuple[WindowRevision, ...]
    usage: Mapping[str, Receipt]
    pins: Mapping[str, Any]


def rate(
    workspace: Workspace, window_id: str, revision: int, at: datetime, beside: Sequence[WindowRevision] = ()
) -> list[Receipt]:
    """Publish the draft of each open period that the window touches in a time zone of the accounts.

    A final period keeps the line items that its invoices rest on. A period without usage has no draft,
    unless an earlier draft has to give way to it. ``beside`` are computed revisions that are about to supersede the
    accepted ones of their windows: the draft takes them instead, so that all windows are counted by one meter.
    """
    at_hand = find_revision(workspace, window_id, revision)
    receipts = []
    for period_id in periods_touched(workspace, at_hand):
        if workspace.control_plane.period_state(period_id) == "final":
            log.info("period %s is final: its line items stay as they were invoiced", period_id)
            continue
        rated = rated_period(workspace, period_id, at_hand, beside)
        if rated.lines or workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}"):
            receipts.append(publish_draft(workspace, rated, at))
    return receipts


def rate_period(workspace: Workspace, period_id: str, at: datetime, candidate: WindowRevision | None) -> Receipt:
    """Publish the draft of an open period, also an empty one; the same usage and prices publish nothing new."""
    return publish_draft(workspace, rated_period(workspace, period_id, candidate), at)


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
    return {account_id: billing_period(period_id, zone) for account_id, zone in sorted(zones.items())}


def rated_period(
    workspace: Workspace,
    period_id: str,
    candidate: WindowRevision | None,
    beside: Sequence[WindowRevision] = (),
) -> RatedPeriod:
    """Return the line items of a period from the newest accepted revision of each window, or the candidate of its own.

    An accepted revision gives way to one of ``beside``, as in ``rate``. A revision whose usage is not published yet
    raises ``NotReadyError``: a draft never leaves out a night silently.
    """
    revisions = _revisions(workspace, period_id, candidate, beside)
    usage = {revision.window_id: _usage(workspace, revision, USAGE) for revision in revisions}
    values = {revision.window_id: _usage(workspace, revision, USAGE_VALUES) for revision in revisions}
    periods = account_periods(workspace, period_id)
    _require_joined(workspace, period_id, periods)
    meters_of = {revision.window_id: pinned_meters(workspace, revision) for revision in revisions}
    meters = billed_meters(meters_of.values())
    earlier = _earlier_levels(workspace, periods, meters)
    counted = [(one.window_start, counted_with) for one, counted_with, _ in earlier]
    counted += [(revision.window_start, meters_of[revision.window_id]) for revision in revisions]
    pins = {
        "accounts.csv": pin_file(workspace, workspace.project.files["accounts.csv"]),
        "billed_meters": pin_billed_meters(workspace, meters),
        "earlier_usage": {one.window_id: receipt.manifest_hash for one, _, receipt in earlier},
        # Beyond the last window that takes part nothing is known, also not that a level stayed as it was.
        "levels_until": max((revision.window_end for revision in revisions), default=EPOCH).isoformat(),
        "usage": {window_id: receipt.manifest_hash for window_id, receipt in usage.items()},
        "usage_values": {window_id: receipt.manifest_hash for window_id, receipt in values.items()},
        "meter_changes": [[sku, changed_at.isoformat()] for sku, changed_at in meter_changes(counted)],
        "time_zones": pin_file(workspace, canonical_json({name: one.time_zone for name, one in periods.items()})),
    }
    project = workspace.project
    with Warehouse(workspace.scratch) as warehouse:
        view_period(warehouse, workspace, pins, periods)
        period_usage = [PeriodUsage(**row) for row in warehouse.select("period_usage", {})]
    lines = rate_usage(period_usage, period_id, project.directory.accounts(), project.price_book_on)
    return RatedPeriod(period_id, tuple(lines), tuple(revisions), usage, pins)


def view_period(
    warehouse: Warehouse,
    workspace: Workspace,
    pins: Mapping[str, Any],
    periods: Mapping[str, BillingPeriod],
    own_files: Mapping[tuple[str, str], Sequence[Path]] | None = None,
) -> None:
    """Name everything that ``period_usage`` reads, as the pins of a draft have it.

    Levels are divided between the owners of their resource, as the pinned directory has them.
    ``own_files`` are files to take, by dataset and window, instead of those that were published.
    """
    own = own_files or {}
    for name, dataset in (("usage", USAGE), ("usage_values", USAGE_VALUES), ("earlier_usage", USAGE)):
        files = [
            file
            for window_id, manifest in pins[name].items()
            for file in own.get((name, window_id)) or manifest_files(workspace, manifest)
        ]
        warehouse.view_files(name, dataset, files)
    meters = json.loads(workspace.lake.get_bytes(f"pins/{pins['billed_meters']}"))
    table_billed_meters(warehouse, [BilledMeter(**{**meter, "divisor": int(meter["divisor"])}) for meter in meters])
    has_levels = any(meter["aggregation"] in LEVELS for meter in meters)
    references = account_references(pinned_directory(workspace, pins["accounts.csv"])) if has_levels else []
    warehouse.table_rows("account_references", ACCOUNT_REFERENCE_COLUMNS, references)
    changes = [(sku, datetime.fromisoformat(changed_at)) for sku, changed_at in pins["meter_changes"]]
    warehouse.table_rows("meter_changes", METER_CHANGES, changes)
    known_until = datetime.fromisoformat(pins["levels_until"])
    bounds = [
        (account_id, period.start, period.end, min(known_until, period.end)) for account_id, period in periods.items()
    ]
    warehouse.table_rows("account_periods", ACCOUNT_PERIODS, bounds)


def table_billed_meters(warehouse: Warehouse, meters: Iterable[BilledMeter]) -> None:
    """Make ``billed_meters``: how usage becomes the quantity of a period."""
    rows = [tuple((asdict(meter) | {"divisor": Decimal(meter.divisor)}).values()) for meter in meters]
    warehouse.table_rows("billed_meters", BILLED_METERS, rows)


def write_lines(warehouse: Warehouse, lines: Iterable[LineItem], folder: Path) -> Path:
    """Write line items as a file of ``line_items``."""
    rows = [tuple(getattr(line, column) for column in LINE_ITEMS.column_names) for line in lines]
    warehouse.table_rows(LINE_ITEMS.name, LINE_ITEMS.columns, rows)
    return warehouse.write_table(LINE_ITEMS.name, folder / "line_items.parquet", LINE_ITEMS)


def pinned_lines(
    workspace: Workspace, draft: Manifest, own_files: Mapping[tuple[str, str], Sequence[Path]]
) -> list[LineItem]:
    """Return the line items of a published draft once more, from its pins; ``own_files`` as in ``view_period``."""
    period_id = draft.scope.removeprefix("period=")
    time_zones = json.loads(workspace.lake.get_bytes(f"pins/{draft.pins['time_zones']}"))
    periods = {account_id: billing_period(period_id, time_zone) for account_id, time_zone in time_zones.items()}
    books = pinned_price_books(workspace, draft.pins["price_books"])
    directory = pinned_directory(workspace, draft.pins["accounts.csv"])
    with Warehouse(workspace.scratch, sql=pinned_sql(workspace, draft.pins["sql"])) as warehouse:
        view_period(warehouse, workspace, draft.pins, periods, own_files)
        period_usage = [PeriodUsage(**row) for row in warehouse.select("period_usage", {})]
    return rate_usage(period_usage, period_id, directory.accounts(), lambda day: book_on(books, day))


def pin_billed_meters(workspace: Workspace, meters: Sequence[BilledMeter]) -> str:
    """Keep how usage is billed in the lake and return its SHA-256."""
    return pin_file(workspace, canonical_json([{**asdict(m), "divisor": str(m.divisor)} for m in meters]))


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
    """Return, in order, each earlier window that may hold a level which lasts into the period, with its usage."""
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
            earlier.append((revision, counted_with[pinned], _usage(workspace, revision, USAGE)))
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


def publish_draft(workspace: Workspace, rated: RatedPeriod, at: datetime, scope: str | None = None) -> Receipt:
    """Publish the line items of an open period; a final one is refused, because its invoices rest on what it has.

    ``scope`` is another name to publish under, for accounts that a final period has no invoice of yet.
    """
    pins = {
        "price_books": {
            priced.version: pin_file(workspace, _price_book_file(workspace, priced))
            for priced in workspace.project.price_books
            if priced.version in {line.price_book_version for line in rated.lines}
        },
        "sql": pin_sql(workspace, RATE_QUERIES),
        **rated.pins,
    }
    with (
        scratch_folder(workspace.scratch, "rate") as folder,
        Warehouse(workspace.scratch) as warehouse,
    ):
        draft = write_lines(warehouse, rated.lines, folder)
        return publish_next(workspace, LINE_ITEMS, scope or f"period={rated.period_id}", draft, pins, at)


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
