"""What the links of a revision were derived from, so that an auditor can derive them again (P1).

A revision pins its links as rows: copies of its keys in other windows, withdrawals of its events. The raw events that
they come from are no inputs of it, because files of other dates that change nothing make no new revision. They are
named beside it instead, in the document ``link_inputs``: every collection there was, by the hash of its manifest, with
the settings, the rules and the SQL that were used. Which raw event files are of the window follows from them as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.adapters.lake import WriteBesideLake
from pipeline.core.errors import PublicationError
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.links import LINK_QUERIES, CollectedEvents, LinkInputs, read_pinned_rows
from pipeline.steps.pinned import pin_sql, pinned_sql
from pipeline.steps.publish import publish_document, read_document, read_manifest
from pipeline.steps.workspace import Workspace

LINK_INPUTS = "link_inputs"

Row = dict[str, Any]


def publish_link_inputs(ws: Workspace, collected: CollectedEvents, revision: WindowRevision, at: datetime) -> None:
    """Publish what the links of a revision were derived from."""
    pins = {"inputs_hash": revision.inputs_hash, "sql": pin_sql(ws, LINK_QUERIES)}
    publish_document(ws, LINK_INPUTS, revision.document_scope, collected.inputs.to_json(), pins, at)


def collected_then(ws: Workspace, revision: WindowRevision, folder: Path) -> CollectedEvents:
    """Return what was collected when the revision was computed, to derive from it again; nothing is kept.

    What is derived is written into the folder; no row that was derived before is trusted.
    """
    receipt = ws.control_plane.publication(LINK_INPUTS, revision.document_scope)
    if receipt is None:
        raise PublicationError(
            "rerun.no_link_inputs",
            f"revision {revision.revision} of window {revision.window_id} does not name what its links come from",
            ["its usage is published, so the document link_inputs was; look at the control plane's audit log"],
        )
    inputs = LinkInputs.from_json(read_document(ws, receipt.manifest_hash))
    sql = pinned_sql(ws, read_manifest(ws, receipt.manifest_hash).pins["sql"])
    return CollectedEvents(replace(ws, lake=WriteBesideLake(ws.lake, folder)), inputs, sql)


def derived_links(
    ws: Workspace, revision: WindowRevision, collected: CollectedEvents
) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return the rows of each pin that raw events decide: as they are pinned, and as they are derived now."""
    window = BillingWindow(revision.window_start, revision.window_end)
    pins = revision.pins
    return {
        "raw_event_files": (_files(pins["raw_event_files"]), _files(collected.files_of_window(window))),
        "neighbours": (
            read_pinned_rows(ws, pins["neighbours"]),
            collected.rows(collected.neighbours(window)),
        ),
        "withdrawn_events": (
            read_pinned_rows(ws, pins["withdrawn_events"]),
            collected.rows(collected.withdrawn_events(window)),
        ),
        "withdrawal_types": (_types(pins["withdrawal_types"]), _types(collected.withdrawal_types(window))),
    }


def _files(paths: Sequence[str]) -> list[Row]:
    return [{"path": path} for path in paths]


def _types(types: Sequence[Sequence[Any]]) -> list[Row]:
    return [{"event_type": event_type, "replaces": replaces} for event_type, replaces in types]
