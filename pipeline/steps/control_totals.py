"""The totals that prove a window revision, taken from published files and nothing else.

The first time, a revision is reconciled against what is published at that moment, and the reconciliation pins all of
it: the objects of the night, every manifest, every SQL file. From then on the pins decide, so that reconciling or
reporting again gives the same numbers, whatever has arrived since (P1).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pipeline import __version__
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.agreement import Agreement
from pipeline.core.check import CHECK_RESULTS
from pipeline.core.dataset import (
    EXCLUDED_EVENTS,
    LINE_ITEMS,
    QUARANTINE,
    RAW_EVENTS,
    RECONCILIATION,
    USAGE,
    USAGE_LEVELS,
    USAGE_VALUES,
)
from pipeline.core.manifest import canonical_json
from pipeline.core.meter import billed_meters
from pipeline.core.money import exact
from pipeline.core.reason import ExclusionReason, QuarantineReason
from pipeline.core.reconciliation import (
    Control,
    EventCounts,
    ObjectLines,
    PeriodAccounts,
    PeriodAmount,
    PeriodQuantity,
    SkuQuantities,
    SourceEvents,
    SourceQuantity,
    WindowTotals,
)
from pipeline.core.report import (
    SAMPLE_ROWS_MAX,
    AccountAmount,
    ExcludedEvent,
    QuarantinedLine,
    ReasonCount,
    exclusion_sentence,
    in_reason_order,
    printable,
    quarantine_sentence,
    shortened,
)
from pipeline.core.revision import LedgerObject, WindowRevision
from pipeline.core.terms import PeriodTerms
from pipeline.core.window import BillingWindow
from pipeline.steps.completeness import COMPLETENESS, published_producer_totals
from pipeline.steps.deduplicate import revision_pins
from pipeline.steps.external import EXTERNAL_QUERY, external_controls_of, pin_external
from pipeline.steps.inputs import Pins, pinned_meters, view_event_quantities, view_raw_events, view_usage_events
from pipeline.steps.outcomes import EVENT_OUTCOMES
from pipeline.steps.period_usage import (
    PERIOD_QUERIES,
    periods_in,
    periods_touched,
    pin_billed_meters,
    pinned_terms,
    view_period,
)
from pipeline.steps.pinned import pin_sql, pinned_sql
from pipeline.steps.publish import manifest_files, pin_file, read_manifest
from pipeline.steps.rate import pinned_agreement
from pipeline.steps.workspace import Workspace

LEDGER_OBJECTS = (("object_id", "VARCHAR"), ("is_of_night", "BOOLEAN"), ("contract", "VARCHAR"))
SEGMENT_DAYS = (
    ("account_id", "VARCHAR"),
    ("segment", "INTEGER"),
    ("segment_count", "INTEGER"),
    ("active_days", "INTEGER"),
    ("days", "INTEGER"),
)
DRAFT_QUERIES = (*PERIOD_QUERIES, "line_item_quantities", "line_item_amounts", "account_amounts", EXTERNAL_QUERY)
CONTROL_QUERIES = (
    *("object_line_counts", "night_event_counts", "quarantine_counts", "quarantine_samples", "window_objects"),
    *(
        "event_outcome_counts",
        "exclusion_counts",
        "excluded_samples",
        "window_events",
        "event_quantities",
    ),
    *(
        "sku_quantities",
        "excluded_quantities",
        "usage_totals",
        "usage_ties",
        "usage_events",
        "billed_quantities",
        *DRAFT_QUERIES,
    ),
)


@dataclass(frozen=True, slots=True)
class Night:
    """The span of receipt times whose objects one report accounts for; the first night has no start."""

    start: datetime | None
    end: datetime

    def holds(self, received_at: datetime) -> bool:
        return received_at < self.end and (self.start is None or received_at >= self.start)


@dataclass(frozen=True, slots=True)
class RevisionTotals:
    """The totals of a revision, with the samples and the accounts that the report shows beside them."""

    totals: WindowTotals
    quarantine: tuple[ReasonCount, ...]
    excluded: tuple[ReasonCount, ...]
    accounts: tuple[AccountAmount, ...]


def pins_of_reconciliation(ws: Workspace, revision: WindowRevision) -> dict[str, Any]:
    """Return what the revision was reconciled against; before it was, what it would be reconciled against now."""
    reconciled = ws.control_plane.publication(RECONCILIATION.name, revision.scope, revision.revision)
    if reconciled is not None:
        return dict(read_manifest(ws, reconciled.manifest_hash).pins)
    night = night_of(ws, revision)
    objects = _objects(ws, revision, night)
    published = {
        dataset.name: _manifest_hash(ws, dataset.name, revision)
        for dataset in (EXCLUDED_EVENTS, USAGE_VALUES, USAGE_LEVELS, USAGE)
    }
    checked = ws.control_plane.publication(CHECK_RESULTS, revision.document_scope)
    return {
        **revision_pins(revision),
        **published,
        "accounts": pin_accounts(ws),
        "accounts.csv": revision.pins["accounts.csv"],
        "billed_meters": pin_billed_meters(ws, billed_meters([pinned_meters(ws, revision)])),
        "check_results": None if checked is None else checked.manifest_hash,
        "code_version": __version__,
        "completeness": _manifest_of(ws, COMPLETENESS, revision.document_scope),
        "collections": ws.control_plane.collections_of(known.object_id for known in objects),
        "drafts": _drafts(ws, revision, published[USAGE.name]),
        "external": pin_external(ws),
        "event_outcomes": _manifest_of(ws, EVENT_OUTCOMES, revision.document_scope),
        "first_window_start": _first_window_start(ws).isoformat(),
        "levels_until": revision.window_end.isoformat(),
        "legal_entity": ws.project.settings.seller.legal_entity,
        "night": {"start": None if night.start is None else night.start.isoformat(), "end": night.end.isoformat()},
        "objects": pin_file(ws, canonical_json([_plain(known) for known in objects])),
        "project": ws.project.settings.name,
        # Events are billed and metered as the revision did; what compares is of the day of the reconciliation.
        "sql": {
            **pin_sql(ws, CONTROL_QUERIES),
            **{query: revision.pins["sql"][query] for query in ("usage_events", "window_events", "event_quantities")},
        },
    }


def pin_accounts(ws: Workspace) -> str:
    """Keep the name and the time zone of each account in the lake and return their SHA-256."""
    rows = {
        name: {"name": account.name, "time_zone": account.time_zone}
        for name, account in ws.project.directory.accounts().items()
    }
    return pin_file(ws, canonical_json(rows))


def night_of(ws: Workspace, revision: WindowRevision) -> Night:
    """Return the night of a window: from the cutoff of the window before to its own, as first revisions set them.

    A later revision has a later cutoff, or another grace period, but the same night: an object stays in one report.
    """
    length = revision.window_end - revision.window_start
    known = ws.control_plane.window_revisions(revision.window_start - length, revision.window_end)
    graces = {
        first.window_start: timedelta(seconds=first.pins["grace_period_seconds"])
        for first in known
        if first.revision == 1
    }
    own_grace = graces[revision.window_start]
    end = revision.window_end + own_grace
    if revision.window_start <= _first_window_start(ws):
        return Night(None, end)
    return Night(revision.window_start + graces.get(revision.window_start - length, own_grace), end)


def _first_window_start(ws: Workspace) -> datetime:
    return ws.project.settings.window.first_window_start


def pinned_night(pins: Pins) -> Night:
    """Return the night that the pins name."""
    start, end = pins["night"]["start"], pins["night"]["end"]
    return Night(None if start is None else datetime.fromisoformat(start), datetime.fromisoformat(end))


def pinned_objects(ws: Workspace, pins: Pins) -> list[LedgerObject]:
    """Return every object that the pins name: those of the night, and others that hold events of the window."""
    rows = json.loads(ws.lake.get_bytes(f"pins/{pins['objects']}"))
    return [LedgerObject(**{**row, "received_at": datetime.fromisoformat(row["received_at"])}) for row in rows]


def revision_totals(ws: Workspace, revision: WindowRevision, pins: Pins) -> RevisionTotals:
    """Return the totals of a revision, both sides of each equation counted in other files or by another road."""
    night, objects = pinned_night(pins), pinned_objects(ws, pins)
    window = BillingWindow(revision.window_start, revision.window_end)
    bounds = {"window_start": window.start, "window_end": window.end}
    limits = {
        "first_window_start": datetime.fromisoformat(pins["first_window_start"]),
        "future_tolerance": timedelta(seconds=revision.pins["future_tolerance_seconds"]),
    }
    with Warehouse(ws.scratch, sql=pinned_sql(ws, pins["sql"])) as warehouse:
        rows = [(known.object_id, night.holds(known.received_at), known.contract) for known in objects]
        warehouse.table_rows("ledger_objects", LEDGER_OBJECTS, rows)
        for dataset in (RAW_EVENTS, QUARANTINE):
            files = [file for manifest in pins["collections"][dataset.name] for file in manifest_files(ws, manifest)]
            warehouse.view_files(dataset.name, dataset, files)
        stored = {row["object_id"]: row for row in warehouse.select("object_line_counts", {})}
        bridge = warehouse.select("night_event_counts", {**bounds, **limits})[0]
        quarantine = _quarantine(warehouse)

        view_usage_events(warehouse, ws, revision, manifest_files(ws, pins[EXCLUDED_EVENTS.name]))
        outcomes = warehouse.select("event_outcome_counts", bounds)
        excluded = _excluded(warehouse)
        skus, source_quantities = _sku_quantities(ws, warehouse, revision, pins, window)
    drafted = drafted_totals(ws, pins)

    of_night = [known for known in objects if night.holds(known.received_at)]
    events = EventCounts(
        night_line_count=sum(known.line_count for known in of_night),
        night_quarantine_count=sum(group.count for group in quarantine),
        **bridge,
        window_event_count=sum(row["window_event_count"] for row in outcomes),
        usage_event_count=sum(row["usage_event_count"] for row in outcomes),
        excluded_counts={group.reason: group.count for group in excluded},
        accounted_once_count=sum(row["accounted_once_count"] for row in outcomes),
    )
    object_lines = tuple(
        ObjectLines(
            known.object_id,
            known.line_count,
            stored[known.object_id]["raw_event_count"],
            stored[known.object_id]["quarantine_count"],
        )
        for known in objects
    )
    totals = WindowTotals(
        object_lines,
        events,
        skus,
        drafted.quantities,
        drafted.tied_accounts,
        drafted.amounts,
        drafted.agreements,
        tuple(
            SourceEvents(
                row["contract"], row["window_event_count"], row["usage_event_count"], row["excluded_event_count"]
            )
            for row in outcomes
        ),
        source_quantities,
        published_producer_totals(ws, pins["completeness"]),
        drafted.external,
    )
    return RevisionTotals(totals, quarantine, excluded, drafted.accounts)


def _objects(ws: Workspace, revision: WindowRevision, night: Night) -> list[LedgerObject]:
    with Warehouse(ws.scratch) as warehouse:
        view_raw_events(warehouse, ws, revision.pins)
        bounds = {"window_start": revision.window_start, "window_end": revision.window_end}
        of_window = [row["object_id"] for row in warehouse.select("window_objects", bounds)]
    found = {known.object_id: known for known in ws.control_plane.ledger(of_window)}
    found |= {known.object_id: known for known in ws.control_plane.objects_received(night.start, night.end)}
    return [found[object_id] for object_id in sorted(found)]


def _plain(known: LedgerObject) -> dict[str, Any]:
    return {**asdict(known), "received_at": known.received_at.isoformat()}


def _manifest_of(ws: Workspace, document: str, scope: str) -> str | None:
    receipt = ws.control_plane.publication(document, scope)
    return None if receipt is None else receipt.manifest_hash


def _manifest_hash(ws: Workspace, dataset: str, revision: WindowRevision) -> str | None:
    receipt = ws.control_plane.publication(dataset, revision.scope, revision.revision)
    return None if receipt is None else receipt.manifest_hash


def _drafts(ws: Workspace, revision: WindowRevision, usage: str | None) -> dict[str, str | None]:
    """Return, for each open period that the window touches, the newest draft rated from this revision's usage."""
    if usage is None:
        return {}
    final_periods = ws.control_plane.final_periods()
    return {
        period_id: _draft(ws, f"period={period_id}", revision.window_id, usage)
        for period_id in periods_touched(ws, revision)
        if period_id not in final_periods
    }


def _draft(ws: Workspace, scope: str, window_id: str, usage: str) -> str | None:
    newest = ws.control_plane.publication(LINE_ITEMS.name, scope)
    for number in range(0 if newest is None else newest.revision, 0, -1):
        draft = ws.control_plane.publication(LINE_ITEMS.name, scope, number)
        if draft is not None and read_manifest(ws, draft.manifest_hash).pins["usage"].get(window_id) == usage:
            return draft.manifest_hash
    return None


def _quarantine(warehouse: Warehouse) -> tuple[ReasonCount, ...]:
    counts = {row["reason"]: row["line_count"] for row in warehouse.select("quarantine_counts", {})}
    lines = [
        QuarantinedLine(**{**row, "raw": printable(row["raw"])})
        for row in warehouse.select("quarantine_samples", {"sample_rows": SAMPLE_ROWS_MAX})
    ]
    return tuple(
        ReasonCount(reason, quarantine_sentence(reason), count, tuple(line for line in lines if line.reason == reason))
        for reason, count in in_reason_order(counts, QuarantineReason)
    )


def _excluded(warehouse: Warehouse) -> tuple[ReasonCount, ...]:
    counts = {row["reason"]: row["event_count"] for row in warehouse.select("exclusion_counts", {})}
    events = [
        ExcludedEvent(**{**row, **{name: shortened(row[name]) for name in ("source", "id", "type", "subject")}})
        for row in warehouse.select("excluded_samples", {"sample_rows": SAMPLE_ROWS_MAX})
    ]
    return tuple(
        ReasonCount(
            reason, exclusion_sentence(reason), count, tuple(event for event in events if event.reason == reason)
        )
        for reason, count in in_reason_order(counts, ExclusionReason)
    )


def _sku_quantities(
    ws: Workspace, warehouse: Warehouse, revision: WindowRevision, pins: Pins, window: BillingWindow
) -> tuple[tuple[SkuQuantities, ...], tuple[SourceQuantity, ...]]:
    """Add up what was received, what was excluded, what is billed and the usage: each counted by itself."""
    view_event_quantities(warehouse, pinned_meters(ws, revision), window)
    raw_rows = warehouse.select("sku_quantities", {})
    excluded_rows = warehouse.select("excluded_quantities", {})
    billed_rows = warehouse.select("billed_quantities", {})
    for dataset in (USAGE_VALUES, USAGE_LEVELS, USAGE):
        manifest = pins[dataset.name]
        warehouse.view_files(dataset.name, dataset, [] if manifest is None else manifest_files(ws, manifest))
    sku, source, reason = ("sku", "unit"), ("contract", "sku", "unit"), ("sku", "unit", "reason")
    raw, billed = _added(raw_rows, sku), _added(billed_rows, sku)
    usage = _added(warehouse.select("usage_totals", {}), sku)
    grain = {"grain": timedelta(seconds=revision.pins["grain_seconds"])}
    ties = _added(warehouse.select("usage_ties", grain), sku)
    excluded = _added(excluded_rows, reason)
    raw_by, billed_by, excluded_by = (_added(rows, source) for rows in (raw_rows, billed_rows, excluded_rows))
    nothing: dict[str, Any] = defaultdict(int)
    skus = tuple(
        SkuQuantities(
            sku=name,
            unit=unit,
            raw_quantity=Decimal(raw.get((name, unit), nothing)["quantity"]),
            excluded_quantities={
                key[2]: Decimal(added["quantity"]) for key, added in excluded.items() if key[:2] == (name, unit)
            },
            billed_quantity=Decimal(billed.get((name, unit), nothing)["quantity"]),
            billed_event_count=billed.get((name, unit), nothing)["event_count"],
            usage_quantity=Decimal(usage.get((name, unit), nothing)["quantity"]),
            usage_event_count=usage.get((name, unit), nothing)["event_count"],
            unreadable_count=raw.get((name, unit), nothing)["unreadable_count"],
            usage_row_count=ties.get((name, unit), nothing)["row_count"],
            tied_row_count=ties.get((name, unit), nothing)["tied_count"],
        )
        for name, unit in sorted({*raw, *billed, *usage})
    )
    sources = tuple(
        SourceQuantity(
            contract=contract,
            sku=name,
            unit=unit,
            raw_quantity=Decimal(raw_by.get((contract, name, unit), nothing)["quantity"]),
            billed_quantity=Decimal(billed_by.get((contract, name, unit), nothing)["quantity"]),
            excluded_quantity=Decimal(excluded_by.get((contract, name, unit), nothing)["quantity"]),
        )
        for contract, name, unit in sorted({*raw_by, *billed_by, *excluded_by})
    )
    return skus, sources


def _added(rows: Iterable[Mapping[str, Any]], by: Sequence[str]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the numbers of the rows added up by these columns, exactly."""
    added: dict[tuple[str, ...], dict[str, Any]] = {}
    with exact():
        for row in rows:
            sums = added.setdefault(tuple(row[name] for name in by), defaultdict(int))
            for name, number in row.items():
                if isinstance(number, int | Decimal):
                    sums[name] += number
    return added


@dataclass(frozen=True, slots=True)
class DraftedTotals:
    """The totals of the drafts of one or more periods; ``accounts`` has every account."""

    quantities: tuple[PeriodQuantity, ...]
    tied_accounts: tuple[PeriodAccounts, ...]
    amounts: tuple[PeriodAmount, ...]
    accounts: tuple[AccountAmount, ...]
    agreements: Mapping[str, Agreement]
    external: tuple[Control, ...]


def drafted_totals(ws: Workspace, pins: Pins, *, is_whole: bool = False) -> DraftedTotals:
    """Return usage beside line items for each draft that the pins name, and what the line items add up to.

    With ``is_whole`` a period is about to close, so that external reports are held against its line items, too.

    A draft that is None stands for a period without line items: the usage of the window in it has to be zero.
    """
    quantities: list[PeriodQuantity] = []
    tied_accounts: list[PeriodAccounts] = []
    amounts: list[PeriodAmount] = []
    accounts: list[AccountAmount] = []
    agreements: dict[str, Agreement] = {}
    external: list[Control] = []
    directory = json.loads(ws.lake.get_bytes(f"pins/{pins['accounts']}"))
    with Warehouse(ws.scratch, sql=pinned_sql(ws, pins["sql"])) as warehouse:
        for period_id, draft in sorted(pins["drafts"].items()):
            period_pins = _undrafted_pins(pins) if draft is None else read_manifest(ws, draft).pins
            warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, [] if draft is None else manifest_files(ws, draft))
            if draft is None:
                time_zones = {account_id: row["time_zone"] for account_id, row in directory.items()}
                terms = PeriodTerms(period_id, periods_in(period_id, time_zones), {}, {}, ())
            else:
                terms = pinned_terms(ws, period_pins, period_id)
                agreements[period_id] = pinned_agreement(ws, period_pins)
            view_period(warehouse, ws, period_pins, terms, account_ids=period_pins.get("accounts"))
            warehouse.table_rows("segment_days", SEGMENT_DAYS, _segment_days(terms))
            pairs = warehouse.select("line_item_quantities", {})
            quantities += [
                PeriodQuantity(period_id, row["sku"], row["unit"], row["usage_quantity"], row["line_item_quantity"])
                for row in pairs
            ]
            pair_count, tied_count = (sum(row[column] for row in pairs) for column in ("pair_count", "tied_count"))
            tied_accounts.append(PeriodAccounts(period_id, pair_count, tied_count))
            amounts += [PeriodAmount(period_id=period_id, **row) for row in warehouse.select("line_item_amounts", {})]
            accounts += [
                AccountAmount(period_id=period_id, name=directory.get(row["account_id"], {}).get("name", ""), **row)
                for row in warehouse.select("account_amounts", {})
            ]
            if pins["external"] is not None and draft is not None:
                external += external_controls_of(
                    *(ws, warehouse, pins["external"], period_id, period_pins, directory), is_whole=is_whole
                )
    return DraftedTotals(
        tuple(quantities), tuple(tied_accounts), tuple(amounts), tuple(accounts), agreements, tuple(external)
    )


def _segment_days(terms: PeriodTerms) -> list[tuple[Any, ...]]:
    return [
        (account_id, segment.number, len(one.segments), segment.active_days, one.days)
        for account_id, one in terms.accounts.items()
        for segment in one.segments
    ]


def _undrafted_pins(pins: Pins) -> dict[str, Any]:
    """Return what a period without a draft would be rated from: the usage of the window alone."""
    return {
        "accounts.csv": pins["accounts.csv"],
        "billed_meters": pins["billed_meters"],
        "earlier_levels": {},
        "levels_until": pins["levels_until"],
        "meter_changes": [],
        "usage": {"": pins[USAGE.name]},
        "usage_levels": {"": pins[USAGE_LEVELS.name]},
        "usage_values": {"": pins[USAGE_VALUES.name]},
    }
