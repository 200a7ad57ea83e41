"""Count: how much of each SKU each account used in each grain of the window."""

from __future__ import annotations

from datetime import datetime, timedelta

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import USAGE, USAGE_VALUES
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import Receipt
from pipeline.core.revision import WindowRevision
from pipeline.steps.deduplicate import revision_pins
from pipeline.steps.inputs import pinned_meters, require_pinned_sql, table_meters, view_usage_events
from pipeline.steps.publish import publish_revision
from pipeline.steps.workspace import Workspace


def aggregate(workspace: Workspace, window_id: str, revision: int, at: datetime) -> Receipt:
    """Publish ``usage_values`` and ``usage`` of a window revision from what it pins; the same revision, the same bytes.

    Any revision can be computed again, however old, as long as the SQL files are those it pins. Returns the receipt of
    ``usage``, which is published last.
    """
    pinned = find_revision(workspace, window_id, revision)
    for query in ("usage_events", "event_quantities", "usage_values", "usage"):
        require_pinned_sql(pinned, query)
    grain = {"grain": timedelta(seconds=pinned.pins["grain_seconds"])}
    with (
        scratch_folder(workspace.scratch, "aggregate") as folder,
        Warehouse(workspace.scratch) as warehouse,
    ):
        view_usage_events(warehouse, workspace, pinned, name="metered_events")
        table_meters(warehouse, pinned_meters(workspace, pinned))
        warehouse.view("event_quantities", {})
        values = warehouse.write("usage_values", grain, folder / "usage_values.parquet", USAGE_VALUES)
        warehouse.view_files(USAGE_VALUES.name, USAGE_VALUES, [values])
        usage = warehouse.write("usage", grain, folder / "usage.parquet", USAGE)
        pins = revision_pins(pinned)
        publish_revision(workspace, USAGE_VALUES, pinned.scope, revision, [values], pins, at)
        return publish_revision(workspace, USAGE, pinned.scope, revision, [usage], pins, at)


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
