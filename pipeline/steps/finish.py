"""Finish: what a night tells people and machines once its revision is decided, accepted or rejected."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pipeline.core.revision import RevisionState
from pipeline.steps.aggregate import find_revision
from pipeline.steps.alerts import publish_spend_alerts, send_alert
from pipeline.steps.lineage import append_lineage
from pipeline.steps.metrics import write_metrics
from pipeline.steps.report import report
from pipeline.steps.service_levels import publish_service_levels
from pipeline.steps.workspace import Workspace


def finish_night(
    ws: Workspace, window_id: str, revision: int, at: datetime, say: Callable[[str], None], *, refresh: bool = False
) -> Path:
    """Measure a revision that is decided, write its report, and tell everybody; return the report's path.

    ``refresh``: the revision was decided in another way before, so its report says what is so now. An alert that a
    receiver does not take is said, and stops nothing.
    """
    publish_service_levels(ws, window_id, revision, at)
    path = report(ws, window_id, revision, at, refresh=refresh)
    append_lineage(ws, window_id, revision, at)
    if find_revision(ws, window_id, revision).state is RevisionState.ACCEPTED:
        for alert in publish_spend_alerts(ws, window_id, revision, at):
            say(f"{window_id}: {alert.title}: {'; '.join(alert.details)}")
            for problem in send_alert(ws.project.settings, alert):
                say(f"warning: {problem}")
    write_metrics(ws)
    return path
