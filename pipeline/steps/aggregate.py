"""Count: how much of each SKU each account used in each grain of the window."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import USAGE, USAGE_VALUES, Dataset
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import Receipt
from pipeline.core.meter import Meter
from pipeline.core.revision import WindowRevision
from pipeline.steps.deduplicate import revision_pins, revision_warehouse
from pipeline.steps.inputs import pinned_meters, table_meters, view_usage_events
from pipeline.steps.publish import publish_revision
from pipeline.steps.workspace import Workspace


def aggregate(workspace: Workspace, window_id: str, revision: int, at: datetime) -> Receipt:
    """Publish ``usage_values`` and ``usage`` of a window revision from what it pins; the same revision, the same bytes.

    Any revision can be computed again, however old: its inputs and its SQL are in the lake. Returns the receipt of
    ``usage``, which is published last.
    """
    pinned = find_revision(workspace, window_id, revision)
    with (
        scratch_folder(workspace.scratch, "aggregate") as folder,
        revision_warehouse(workspace, pinned) as warehouse,
    ):
        view_usage_events(warehouse, workspace, pinned, name="metered_events")
        (values, usage) = computed_usage(warehouse, pinned_meters(workspace, pinned), pinned, folder)
        publish_revision(workspace, values[0], pinned.scope, revision, [values[1]], revision_pins(pinned), at)
        return publish_revision(workspace, usage[0], pinned.scope, revision, [usage[1]], revision_pins(pinned), at)


def computed_usage(
    warehouse: Warehouse, meters: Sequence[Meter], revision: WindowRevision, folder: Path
) -> tuple[tuple[Dataset, Path], tuple[Dataset, Path]]:
    """Write ``usage_values`` and ``usage`` of ``metered_events`` into a folder, in the grain of a revision."""
    grain = {"grain": timedelta(seconds=revision.pins["grain_seconds"])}
    table_meters(warehouse, meters)
    warehouse.view("event_quantities", {})
    values = warehouse.write("usage_values", grain, folder / "usage_values.parquet", USAGE_VALUES)
    warehouse.view_files(USAGE_VALUES.name, USAGE_VALUES, [values])
    usage = warehouse.write("usage", grain, folder / "usage.parquet", USAGE)
    return (USAGE_VALUES, values), (USAGE, usage)


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
