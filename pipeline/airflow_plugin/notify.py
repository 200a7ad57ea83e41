"""Airflow tells people: a task that failed for good, and a night that is not done in time.

Both send the alert that ``[alerts]`` of billing.toml asks for. DAG files import this module each time they are parsed,
so what it needs is imported when it is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from pipeline import settings

LOG = logging.getLogger(__name__)


class AlertNotifier(BaseNotifier):
    """Sends why a task failed, in the words of its refusal; a receiver that does not take it is in the task's log."""

    def notify(self, context: Mapping[str, Any]) -> None:
        from pipeline.adapters.project_files import load_settings
        from pipeline.core.operations import failed_task_alert
        from pipeline.steps.alerts import send_alert

        project = load_settings(settings.project_folder())
        task = context["ti"]
        alert = failed_task_alert(
            project.name, f"{task.dag_id}.{task.task_id}", context["run_id"], context.get("exception")
        )
        _log(send_alert(project, alert))


def night_is_late(context: Mapping[str, Any] | None = None, **_: Any) -> None:
    """Send that a run of the night passed its deadline; called by Airflow's deadline alert, which names the run."""
    from pipeline.adapters.project_files import load_settings
    from pipeline.core.operations import Alert
    from pipeline.steps.alerts import send_alert

    project = load_settings(settings.project_folder())
    run = (context or {}).get("dag_run") or {}
    run_id = run.get("dag_run_id") or run.get("run_id") or "of which Airflow does not say the name"
    title = f"{project.name}: a night is not done in time"
    alert = Alert("alert.night_late", f"late/{run_id}", "page", title, (f"run {run_id} of bill_window",))
    _log(send_alert(project, alert))


def night_deadline(interval: timedelta, callback: Callable[..., None] = night_is_late) -> DeadlineAlert:
    """Return the deadline of a night, which counts from when its run was queued: that is when its window ended."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=interval, callback=SyncCallback(callback)
    )


def send_metrics(figures: Mapping[str, Any]) -> None:
    """Hand gauges to Airflow's own metrics (StatsD or OpenTelemetry), where they are switched on."""
    from airflow.sdk.observability import stats

    for name, figure in figures.items():
        stats.gauge(name, figure)


def _log(problems: list[str]) -> None:
    for problem in problems:
        LOG.warning(problem)
