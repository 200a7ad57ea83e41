"""Lineage of a night, appended to a file: one OpenLineage event a line."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from pipeline.core.dataset import RECONCILIATION
from pipeline.core.lineage import NightFacts, night_events
from pipeline.core.reconciliation import failed_controls
from pipeline.core.revision import RevisionState
from pipeline.steps.aggregate import find_revision
from pipeline.steps.check import check_report
from pipeline.steps.reconcile import published_controls
from pipeline.steps.run_manifest import published_by
from pipeline.steps.workspace import Workspace


def append_lineage(ws: Workspace, window_id: str, revision: int, at: datetime) -> Path | None:
    """Append the events of a revision that is decided; return the file, or None if the project wants none."""
    name = ws.project.settings.operations.lineage_file
    if not name:
        return None
    events = night_events(night_facts(ws, window_id, revision), at)
    path = ws.project.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n" for event in events)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    return path


def night_facts(ws: Workspace, window_id: str, revision: int) -> NightFacts:
    """Return what a revision published, and the verdicts about it."""
    found = find_revision(ws, window_id, revision)
    reconciled = ws.control_plane.publication(RECONCILIATION.name, found.scope, revision)
    controls = None if reconciled is None else published_controls(ws, reconciled)
    is_rejected = found.state is RevisionState.REJECTED
    return NightFacts(
        project=ws.project.settings.name,
        window_id=window_id,
        revision=revision,
        window_start=found.window_start,
        window_end=found.window_end,
        receipts=tuple(published_by(ws, found)),
        checks=check_report(ws, window_id, revision),
        control_count=None if controls is None else len(controls),
        failed_control_count=0 if controls is None else len(failed_controls(controls)),
        rejected_because="the revision was rejected" if is_rejected else "",
    )
