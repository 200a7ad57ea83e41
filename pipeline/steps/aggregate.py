"""Count: how much of each SKU each account used in each grain of the window."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import EXCLUDED_EVENTS, USAGE, USAGE_LEVELS, USAGE_VALUES, Dataset
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import Receipt
from pipeline.core.meter import LEVELS, VALUES, Meter
from pipeline.core.revision import WindowRevision
from pipeline.steps.deduplicate import revision_pins, revision_warehouse
from pipeline.steps.inputs import pinned_meters, table_meters, view_usage_events
from pipeline.steps.publish import dataset_files, publish_revision
from pipeline.steps.workspace import Workspace


def aggregate(workspace: Workspace, window_id: str, revision: int, at: datetime) -> Receipt:
    """Publish the usage of a window revision, its values and levels, from what it pins: the same bytes each time.

    Any revision can be computed again, however old: its inputs and its SQL are in the lake. Returns the receipt of
    ``usage``, which is published last.
    """
    pinned = find_revision(workspace, window_id, revision)
    with (
        scratch_folder(workspace.scratch, "aggregate") as folder,
        revision_warehouse(workspace, pinned) as warehouse,
    ):
        meters = pinned_meters(workspace, pinned)
        files = dataset_files(workspace, EXCLUDED_EVENTS, pinned.scope, revision)
        view_metered_events(warehouse, workspace, pinned, meters, files)
        *_, usage = [
            publish_revision(workspace, dataset, pinned.scope, revision, [file], revision_pins(pinned), at)
            for dataset, file in computed_usage(warehouse, meters, pinned, folder)
        ]
        return usage


def view_metered_events(
    warehouse: Warehouse,
    workspace: Workspace,
    revision: WindowRevision,
    meters: Sequence[Meter],
    excluded: Sequence[Path],
) -> None:
    """Name the events that count ``metered_events``, by files of the excluded ones.

    They are the billed ones. Where a meter measures levels, those that nobody owns are there too, without an account.
    """
    view_usage_events(warehouse, workspace, revision, excluded, "metered_events")
    if any(meter.aggregation in LEVELS for meter in meters):
        warehouse.view_files("found_exclusions", EXCLUDED_EVENTS, excluded)
        warehouse.view("metered_exclusions", {}, EXCLUDED_EVENTS.name)


def computed_usage(
    warehouse: Warehouse, meters: Sequence[Meter], revision: WindowRevision, folder: Path
) -> list[tuple[Dataset, Path]]:
    """Write ``usage_values``, ``usage_levels`` and ``usage`` of ``metered_events`` into a folder, in this order.

    The grain is that of the revision. Values or levels that no meter has are an empty file, and cost no look at events.
    """
    grain = {"grain": timedelta(seconds=revision.pins["grain_seconds"])}
    table_meters(warehouse, meters)
    warehouse.view("event_quantities", {})
    files = []
    for dataset, aggregations in ((USAGE_VALUES, VALUES), (USAGE_LEVELS, LEVELS)):
        to = folder / f"{dataset.name}.parquet"
        if any(meter.aggregation in aggregations for meter in meters):
            warehouse.write(dataset.name, grain, to, dataset)
            warehouse.view_files(dataset.name, dataset, [to])
        else:
            warehouse.table_rows(dataset.name, dataset.columns, [])
            warehouse.write_table(dataset.name, to, dataset)
        files.append((dataset, to))
    return [*files, (USAGE, warehouse.write(USAGE.name, grain, folder / "usage.parquet", USAGE))]


def find_revision(workspace: Workspace, window_id: str, revision: int) -> WindowRevision:
    """Return a revision of a window; one that was never opened raises ``PublicationError``."""
    for found in workspace.control_plane.window_revisions():
        if (found.window_id, found.revision) == (window_id, revision):
            return found
    raise PublicationError(
        "revision.unknown",
        f"window {window_id} has no revision {revision}",
        ["`billing status` shows the newest revision of each window; `billing run` opens the next one"],
    )
