"""Diff: what changed between two revisions of a window, per account and SKU, split by cause (P8).

Both revisions are taken as they pin themselves. Between them lie states that never were published: the events,
accounts, meters and SQL of the earlier revision, into which one cause after the other is put (see ``core.change``).
Only events of accounts whose usage differs are looked at. A quantity is that of the window alone, counted as a period.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.change import SETTINGS, Cause, Quantities, QuantityChange, cause_of, causes_in_order, waterfall
from pipeline.core.dataset import (
    EXCLUDED_EVENTS,
    QUANTITY,
    RAW_EVENTS,
    USAGE,
    USAGE_EVENTS,
    USAGE_LEVELS,
    USAGE_VALUES,
    Dataset,
)
from pipeline.core.errors import InputError, NotReadyError, PublicationError
from pipeline.core.meter import LEVELS, Meter, billed_meters
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.aggregate import computed_usage, find_revision
from pipeline.steps.deduplicate import revision_warehouse
from pipeline.steps.inputs import (
    account_references,
    pinned_directory,
    pinned_meters,
    table_accounts,
    table_meters,
    view_raw_event_files,
)
from pipeline.steps.pinned import pinned_sql
from pipeline.steps.publish import dataset_files
from pipeline.steps.rate import ACCOUNT_PERIODS, METER_CHANGES, table_billed_meters
from pipeline.steps.workspace import Workspace

COMPARED_USAGE = (USAGE, USAGE_VALUES, USAGE_LEVELS)
OWN_QUERIES = ("hybrid_events", "period_usage")  # of today: they look at revisions, they do not make them
PINS_OF_CAUSE: dict[str, tuple[str, ...]] = {
    Cause.ACCOUNT_MAPPING.value: ("accounts.csv", "account_fallbacks"),
    Cause.METER_CHANGE.value: ("meters.toml",),
    SETTINGS: ("sql", "grain_seconds"),
}
REASON_STEPS = (("reason", "VARCHAR"), ("step", "BIGINT"))
CHANGED_ACCOUNTS = (("account_id", "VARCHAR"),)
CHANGED_SKUS = (("sku", "VARCHAR"),)
RESOURCE_OWNERS = (("resource", "VARCHAR"), ("account_id", "VARCHAR"))
COMPARED_OUTCOMES = Dataset(
    "compared_outcomes",
    (
        ("object_id", "VARCHAR"),
        ("line_number", "BIGINT"),
        ("is_counted_from", "BOOLEAN"),
        ("is_counted_to", "BOOLEAN"),
        ("reason", "VARCHAR"),
    ),
    ("object_id", "line_number"),
)
COMPARED_EVENTS = Dataset(
    "compared_events",
    (
        ("source", "VARCHAR"),
        ("id", "VARCHAR"),
        ("key_hash", "UBIGINT"),
        ("from_account_id", "VARCHAR"),
        ("to_account_id", "VARCHAR"),
        ("type", "VARCHAR"),
        ("subject", "VARCHAR"),
        *((name, sql_type) for name, sql_type in RAW_EVENTS.columns if name in ("event_at", "received_at")),
        ("quantity", QUANTITY),
        ("data", "VARCHAR"),
        ("object_id", "VARCHAR"),
        ("line_number", "BIGINT"),
        ("is_counted_from", "BOOLEAN"),
        ("is_counted_to", "BOOLEAN"),
        ("step", "BIGINT"),  # of the waterfall
    ),
    ("object_id", "line_number"),
)


@dataclass(frozen=True, slots=True)
class WindowDiff:
    """Every change between two revisions; ``causes`` names, in order, those that changed anything."""

    window_id: str
    revision_from: int
    revision_to: int
    causes: tuple[str, ...]
    changes: tuple[QuantityChange, ...]


@dataclass(frozen=True, slots=True)
class _State:
    """One state between two revisions: whose SQL, grain, meters and directory, and up to which step events changed."""

    settings_of: WindowRevision
    meters_of: WindowRevision
    directory: str
    directory_of: WindowRevision
    step: int


def diff(workspace: Workspace, window_id: str, revision_from: int, revision_to: int) -> WindowDiff:
    """Return how each quantity changed between two revisions of a window, and what of it each cause changed.

    The parts add up to the change, and the last state is the later revision: otherwise ``PublicationError``. A revision
    without usage raises ``NotReadyError``. From a later to an earlier revision the causes are those of the way there.
    """
    if revision_from > revision_to:
        there = diff(workspace, window_id, revision_to, revision_from)
        back = tuple(change.backwards() for change in there.changes)
        return WindowDiff(window_id, revision_from, revision_to, there.causes, back)
    if revision_from == revision_to:
        raise InputError("diff.same_revision", f"revision {revision_from} is compared with itself", ["name two"])
    before, after = (_computed_revision(workspace, window_id, number) for number in (revision_from, revision_to))
    with scratch_folder(workspace.scratch, "diff") as folder:
        accounts = _changed_accounts(workspace, before, after)
        reasons = _write_outcomes(workspace, before, after, folder)
        causes = causes_in_order(reasons)
        if not accounts:
            return WindowDiff(window_id, revision_from, revision_to, (), ())
        steps = {reason: causes.index(cause_of(reason)) + 1 for reason in reasons}
        events = _write_events(workspace, before, after, accounts, steps, folder)
        states = list(_quantities(workspace, before, after, causes, set(steps.values()), accounts, events, folder))
        _require_published(workspace, before, accounts, states[0])
        _require_published(workspace, after, accounts, states[-1])
    changes = waterfall(causes, states)
    named = {cause for change in changes for cause in change.parts}
    return WindowDiff(
        window_id, revision_from, revision_to, tuple(cause for cause in causes if cause in named), tuple(changes)
    )


def _computed_revision(ws: Workspace, window_id: str, number: int) -> WindowRevision:
    revision = find_revision(ws, window_id, number)
    if ws.control_plane.publication(USAGE.name, revision.scope, number) is None:
        raise NotReadyError(
            "diff.not_computed",
            f"revision {number} of window {window_id} has published no usage",
            [f"it is {revision.state.value}; compare revisions that were computed"],
        )
    return revision


def _view_published(ws: Workspace, warehouse: Warehouse, dataset: Dataset, name: str, revision: WindowRevision) -> None:
    warehouse.view_files(name, dataset, dataset_files(ws, dataset, revision.scope, revision.revision))


def _changed_accounts(ws: Workspace, before: WindowRevision, after: WindowRevision) -> list[str]:
    with Warehouse(ws.scratch) as warehouse:
        for side, revision in (("from", before), ("to", after)):
            for dataset in COMPARED_USAGE:
                _view_published(ws, warehouse, dataset, f"{side}_{dataset.name}", revision)
        warehouse.table_rows("changed_skus", CHANGED_SKUS, [(sku,) for sku in _changed_skus(ws, before, after)])
        _table_resource_owners(ws, warehouse, before, after)
        return [row["account_id"] for row in warehouse.select("changed_accounts", {})]


def _table_resource_owners(ws: Workspace, warehouse: Warehouse, before: WindowRevision, after: WindowRevision) -> None:
    """Make ``resource_owners``: who owns a resource by either directory; empty where no meter counts levels."""
    has_levels = any(meter.aggregation in LEVELS for one in (before, after) for meter in pinned_meters(ws, one))
    owners = {
        (reference, account_id)
        for one in (before, after)
        if has_levels
        for reference, account_id, *_ in account_references(pinned_directory(ws, one.pins["accounts.csv"]))
    }
    warehouse.table_rows("resource_owners", RESOURCE_OWNERS, sorted(owners))


def _changed_skus(ws: Workspace, before: WindowRevision, after: WindowRevision) -> list[str]:
    """Return the SKUs whose meters are not the same: what they bill may differ although the usage does not."""
    meters_before, meters_after = ({meter.sku: meter for meter in pinned_meters(ws, one)} for one in (before, after))
    return sorted(
        sku for sku in meters_before.keys() | meters_after.keys() if meters_before.get(sku) != meters_after.get(sku)
    )


def _write_outcomes(ws: Workspace, before: WindowRevision, after: WindowRevision, folder: Path) -> list[str]:
    """Write which events the two revisions do not count alike; return every reason there is."""
    files_before, files_after = (set(revision.pins["raw_event_files"]) for revision in (before, after))
    bounds = {"window_start": before.window_start, "window_end": before.window_end}
    with Warehouse(ws.scratch) as warehouse:
        _view_published(ws, warehouse, EXCLUDED_EVENTS, "from_excluded_events", before)
        _view_published(ws, warehouse, EXCLUDED_EVENTS, "to_excluded_events", after)
        for name, paths in (("added_events", files_after - files_before), ("gone_events", files_before - files_after)):
            warehouse.view_files(name, RAW_EVENTS, [ws.lake.local_file(path) for path in sorted(paths)])
        file = warehouse.write("compared_outcomes", bounds, _outcomes_file(folder), COMPARED_OUTCOMES)
        warehouse.view_files("compared_outcomes", COMPARED_OUTCOMES, [file])
        return [row["reason"] for row in warehouse.select("changed_reasons", {})]


def _outcomes_file(folder: Path) -> Path:
    return folder / "compared_outcomes.parquet"


def _write_events(
    ws: Workspace,
    before: WindowRevision,
    after: WindowRevision,
    accounts: Sequence[str],
    steps: Mapping[str, int],
    folder: Path,
) -> Path:
    """Write the events of the changed accounts that either revision counts, with the account by each directory."""
    paths = sorted({*before.pins["raw_event_files"], *after.pins["raw_event_files"]})
    files = []
    for side, revision in (("from", before), ("to", after)):
        with revision_warehouse(ws, revision) as warehouse:
            view_raw_event_files(warehouse, ws, paths)
            warehouse.table_rows(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS.columns, [])
            table_accounts(warehouse, ws, revision.pins)
            bounds = {"window_start": revision.window_start, "window_end": revision.window_end}
            files.append(warehouse.write("usage_events", bounds, folder / f"{side}_events.parquet", USAGE_EVENTS))
    with Warehouse(ws.scratch) as warehouse:
        for name, file in zip(("from_usage_events", "to_usage_events"), files, strict=True):
            warehouse.view_files(name, USAGE_EVENTS, [file])
        warehouse.view_files("compared_outcomes", COMPARED_OUTCOMES, [_outcomes_file(folder)])
        warehouse.table_rows("changed_accounts", CHANGED_ACCOUNTS, [(account,) for account in accounts])
        warehouse.table_rows("reason_steps", REASON_STEPS, list(steps.items()))
        for side, revision in (("from", before), ("to", after)):
            _view_published(ws, warehouse, USAGE_LEVELS, f"{side}_{USAGE_LEVELS.name}", revision)
        _table_resource_owners(ws, warehouse, before, after)
        return warehouse.write("compared_events", {}, folder / "compared_events.parquet", COMPARED_EVENTS)


def _quantities(
    ws: Workspace,
    before: WindowRevision,
    after: WindowRevision,
    causes: Sequence[str],
    steps: set[int],
    accounts: Sequence[str],
    events: Path,
    folder: Path,
) -> Iterator[Quantities]:
    """Yield the quantities of the changed accounts before the first cause and after each."""
    state = _State(before, before, "from", before, 0)
    quantities = _state_quantities(ws, state, accounts, events, folder)
    yield quantities
    for step, cause in enumerate(causes, start=1):
        taken = causes[:step]
        state = _State(
            settings_of=after if SETTINGS in taken else before,
            meters_of=after if Cause.METER_CHANGE in taken else before,
            directory="to" if Cause.ACCOUNT_MAPPING in taken else "from",
            directory_of=after if Cause.ACCOUNT_MAPPING in taken else before,
            step=step,
        )
        if step in steps or _changes_all(cause, before, after):
            quantities = _state_quantities(ws, state, accounts, events, folder)
        yield quantities


def _changes_all(cause: str, before: WindowRevision, after: WindowRevision) -> bool:
    """Tell whether a cause may change more than which events there are."""
    return any(before.pins[name] != after.pins[name] for name in PINS_OF_CAUSE.get(cause, ()))


def _state_quantities(ws: Workspace, state: _State, accounts: Sequence[str], events: Path, folder: Path) -> Quantities:
    revision = state.settings_of
    sql = {**pinned_sql(ws, revision.pins["sql"]), **{query: sql_text(query) for query in OWN_QUERIES}}
    window = BillingWindow(revision.window_start, revision.window_end)
    meters = pinned_meters(ws, state.meters_of)
    with Warehouse(ws.scratch, sql=sql) as warehouse:
        warehouse.view_files("compared_events", COMPARED_EVENTS, [events])
        warehouse.view_files(RAW_EVENTS.name, COMPARED_EVENTS, [events])
        table_meters(warehouse, meters)
        table_accounts(warehouse, ws, state.directory_of.pins)
        warehouse.view("window_events", {"window_start": window.start, "window_end": window.end}, "metered_events")
        warehouse.build("event_quantities", {})  # not a view: what it reads is about to be another relation
        parameters = {"step": state.step, "directory": state.directory}
        warehouse.build("hybrid_events", parameters, "metered_events")
        files = {dataset.name: [file] for dataset, file in computed_usage(warehouse, meters, revision, folder)}
        return _window_quantities(warehouse, files, meters, window, accounts)


def _window_quantities(
    warehouse: Warehouse,
    files: Mapping[str, Sequence[Path]],
    meters: Sequence[Meter],
    window: BillingWindow,
    accounts: Sequence[str],
) -> Quantities:
    """Return the quantities of these accounts in the window, counted as if the window were their period."""
    for dataset in COMPARED_USAGE:
        warehouse.view_files(dataset.name, dataset, files[dataset.name])
    warehouse.view_files("earlier_levels", USAGE_LEVELS, [])
    warehouse.table_rows("meter_changes", METER_CHANGES, [])
    table_billed_meters(warehouse, billed_meters([meters]))
    rows = [(account_id, window.start, window.end, window.end) for account_id in accounts]
    warehouse.table_rows("account_periods", ACCOUNT_PERIODS, rows)
    wanted = set(accounts)
    return {
        (row["account_id"], row["sku"], row["unit"]): row["quantity"]
        for row in warehouse.select("period_usage", {})
        if row["account_id"] in wanted and row["quantity"] is not None
    }


def _require_published(ws: Workspace, revision: WindowRevision, accounts: Sequence[str], computed: Quantities) -> None:
    """Refuse a waterfall whose first or last state is not what the revision published."""
    files = {dataset.name: dataset_files(ws, dataset, revision.scope, revision.revision) for dataset in COMPARED_USAGE}
    window = BillingWindow(revision.window_start, revision.window_end)
    with Warehouse(ws.scratch) as warehouse:
        table_accounts(warehouse, ws, revision.pins)
        published = _window_quantities(warehouse, files, pinned_meters(ws, revision), window, accounts)
    differing = sorted(key for key in {*published, *computed} if published.get(key) != computed.get(key))
    if differing:
        key = differing[0]
        raise PublicationError(
            "diff.not_the_revision",
            f"the events of revision {revision.revision} of window {revision.window_id} do not make its usage",
            [
                f"account {key[0]}, SKU {key[1]}: expected {published.get(key)} {key[2]}, got {computed.get(key)}",
                f"{len(differing):,} quantities differ in all; billing rerun --window {revision.window_id} "
                f"--revision {revision.revision} shows what does not hold",
            ],
        )
