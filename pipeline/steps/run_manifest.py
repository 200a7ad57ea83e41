"""The run manifest: one document that names everything a window revision was computed from, and what it made (P1).

It is written when the revision is accepted. Versions of code and engines are recorded in it; they are no inputs, so
another version by itself makes no new revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from pipeline.adapters.versions import engine_versions
from pipeline.core.check import CHECK_RESULTS
from pipeline.core.dataset import RECONCILIATION
from pipeline.core.manifest import Receipt
from pipeline.core.revision import WindowRevision
from pipeline.steps.completeness import COMPLETENESS
from pipeline.steps.derivation import LINK_INPUTS
from pipeline.steps.outcomes import EVENT_OUTCOMES
from pipeline.steps.publish import pin_file, publish_document, read_document, read_manifest
from pipeline.steps.workspace import Workspace

RUN_MANIFEST = "run_manifest"
SETTINGS_FILE = "billing.toml"  # names databases and endpoints; the settings that change a number are named one by one


def publish_run_manifest(ws: Workspace, revision: WindowRevision, at: datetime) -> Receipt:
    """Publish the run manifest of a revision that is computed, checked and reconciled."""
    reconciled = ws.control_plane.publication(RECONCILIATION.name, revision.scope, revision.revision)
    checked = ws.control_plane.publication(CHECK_RESULTS, revision.document_scope)
    outcomes = ws.control_plane.publication(EVENT_OUTCOMES, revision.document_scope)
    completeness = ws.control_plane.publication(COMPLETENESS, revision.document_scope)
    controls = {} if reconciled is None else read_manifest(ws, reconciled.manifest_hash).pins
    links = ws.control_plane.publication(LINK_INPUTS, revision.document_scope)
    documents = [document for document in (completeness, outcomes, links, checked) if document is not None]
    settings = ws.project.settings.window
    content: dict[str, Any] = {
        "window_id": revision.window_id,
        "revision": revision.revision,
        "window_start": revision.window_start.isoformat(),
        "window_end": revision.window_end.isoformat(),
        "cutoff_at": revision.cutoff_at.isoformat(),
        "reason": revision.reason,
        "inputs_hash": revision.inputs_hash,
        "inputs": revision.pins,
        "objects": controls.get("objects"),
        "controls": controls.get("sql", {}),
        "expectations": {} if checked is None else read_manifest(ws, checked.manifest_hash).pins["expectations"],
        "project_files": {
            name: pin_file(ws, file) for name, file in sorted(ws.project.files.items()) if name != SETTINGS_FILE
        },
        "settings": {
            "first_window": settings.first_window.isoformat(),
            "window_length_seconds": settings.length // timedelta(seconds=1),
        },
        "versions": engine_versions(),
        "datasets": [receipt.to_json() for receipt in [*published_by(ws, revision), *documents]],
    }
    return publish_document(ws, RUN_MANIFEST, revision.document_scope, content, {}, at)


def run_manifest(ws: Workspace, revision: WindowRevision) -> dict[str, Any] | None:
    """Return the run manifest of a revision, or None if it was never accepted."""
    receipt = ws.control_plane.publication(RUN_MANIFEST, revision.document_scope)
    if receipt is None:
        return None
    found: dict[str, Any] = read_document(ws, receipt.manifest_hash)
    return found


def published_by(ws: Workspace, revision: WindowRevision) -> Iterator[Receipt]:
    """Yield what a revision published: its datasets by name, the drafts rated for it, its reconciliation."""
    own = {
        receipt.dataset: receipt
        for receipt in ws.control_plane.publications(revision.scope)
        if receipt.revision == revision.revision
    }
    reconciled = own.pop(RECONCILIATION.name, None)
    yield from own.values()
    if reconciled is None:
        return
    for draft in read_manifest(ws, reconciled.manifest_hash).pins["drafts"].values():
        if draft is not None:
            manifest = read_manifest(ws, draft)
            found = ws.control_plane.publication(manifest.dataset, manifest.scope, manifest.revision)
            if found is not None:
                yield found
    yield reconciled
