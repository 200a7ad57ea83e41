"""Count: how much of each SKU each account used in each grain of the window."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import USAGE, Dataset
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import Receipt
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.deduplicate import revision_pins, revision_warehouse
from pipeline.steps.inputs import build_event_quantities, pinned_meters, view_usage_events
from pipeline.steps.publish import publish_revision
from pipeline.steps.workspace import Workspace


def aggregate(workspace: Workspace, window_id: str, revision: int, at: datetime) -> Receipt:
    """Publish ``usage`` of a window revision, from what the revision pins; the same revision makes the same bytes.

    Any revision can be computed again, however old: its inputs and its SQL are in the lake.
    """
    pinned = find_revision(workspace, window_id, revision)
    with (
        scratch_folder(workspace.scratch, "aggregate") as folder,
        revision_warehouse(workspace, pinned) as warehouse,
    ):
        view_usage_events(warehouse, workspace, pinned)
        build_event_quantities(
            warehouse, pinned_meters(workspace, pinned), BillingWindow(pinned.window_start, pinned.window_end)
        )
        ((dataset, usage),) = computed_usage(warehouse, pinned, folder)
        return publish_revision(workspace, dataset, pinned.scope, revision, [usage], revision_pins(pinned), at)


def computed_usage(warehouse: Warehouse, revision: WindowRevision, folder: Path) -> list[tuple[Dataset, Path]]:
    """Write the usage of a revision into a folder, from ``usage_events`` and ``event_quantities`` of the session."""
    grain = timedelta(seconds=revision.pins["grain_seconds"])
    return [(USAGE, warehouse.write("usage", {"grain": grain}, folder / "usage.parquet", USAGE))]


def find_revision(workspace: Workspace, window_id: str, revision: int) -> WindowRevision:
    """Return a revision of a window; one that was never opened raises ``PublicationError``."""
    for found in workspace.control_plane.window_revisions():
        if (found.window_id, found.revision) == (window_id, revision):
            return found
    raise PublicationError(
        "revision.unknown",
        f"window {window_id} has no revision {revision}",
        ["`billing status` lists the revisions there are; deduplicate opens one"],
    )
