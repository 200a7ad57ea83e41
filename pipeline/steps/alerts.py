"""Alerts: what a person has to know now, sent to everywhere that the project names."""

from __future__ import annotations

from datetime import datetime

from pipeline import settings
from pipeline.adapters.alert_delivery import deliver
from pipeline.core.dataset import ESTIMATES
from pipeline.core.operations import Alert, CrossedThreshold, crossed_thresholds, spend_alert
from pipeline.core.project import ProjectSettings
from pipeline.steps.aggregate import find_revision
from pipeline.steps.estimate import published_estimates
from pipeline.steps.period_usage import periods_touched
from pipeline.steps.publish import publish_document, read_document
from pipeline.steps.workspace import Workspace

SPEND_ALERTS = "spend_alerts"


def send_alert(project: ProjectSettings, alert: Alert) -> list[str]:
    """Send an alert; return a sentence for each receiver that did not take it. An alert never stops a night."""
    return deliver(alert, settings.alerts(project), settings.mail_credentials())


def publish_spend_alerts(ws: Workspace, window_id: str, revision: int, at: datetime) -> list[Alert]:
    """Publish which thresholds of spend are reached, by period, and return an alert for each that is new.

    A threshold fires once for each account and period: what the newest publication names has fired.
    """
    if not ws.project.spend_thresholds:
        return []
    alerts = []
    for period_id in periods_touched(ws, find_revision(ws, window_id, revision)):
        estimates = ws.control_plane.publication(ESTIMATES.name, f"period={period_id}")
        if estimates is None:
            continue
        before = reached_thresholds(ws, period_id)
        reached = crossed_thresholds(ws.project.spend_thresholds, published_estimates(ws, estimates), before, window_id)
        if reached != before:
            content = [{name: getattr(one, name) for name in CrossedThreshold.__slots__} for one in reached]
            pins = {"estimates": estimates.manifest_hash}
            publish_document(ws, SPEND_ALERTS, f"period={period_id}", content, pins, at)
        new = sorted(set(reached) - set(before))
        alerts += [spend_alert(ws.project.settings.name, period_id, one) for one in new]
    return alerts


def reached_thresholds(ws: Workspace, period_id: str) -> list[CrossedThreshold]:
    """Return the thresholds of spend that were reached in a period, in order of account."""
    receipt = ws.control_plane.publication(SPEND_ALERTS, f"period={period_id}")
    if receipt is None:
        return []
    return [CrossedThreshold(**fields) for fields in read_document(ws, receipt.manifest_hash)]
