"""Airflow tells people: the callbacks are called as Airflow calls them, and send to a server on this machine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.execution_time.callback_supervisor import execute_callback

from pipeline.airflow_plugin.notify import AlertNotifier, night_is_late
from pipeline.core.errors import ReconciliationError
from tests.adapters.test_alert_delivery import http_server
from tests.fixtures_project import write_project

REFUSAL = ReconciliationError("reconciliation.quantity_mismatch", "usage does not match", ["expected 3, got 2"])


def context(exception: BaseException | None) -> dict[str, Any]:
    task = SimpleNamespace(dag_id="bill_window", task_id="reconcile")
    return {"ti": task, "run_id": "scheduled__2026-01-16", "exception": exception}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_PROJECT", str(write_project(tmp_path / "project")))


@pytest.mark.usefixtures("project")
def test_a_gate_that_refuses_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as (url, received):
        monkeypatch.setenv("BILLING_WEBHOOK_URL", url)
        AlertNotifier()(context(REFUSAL))

    assert received[0]["body"] == {
        "code": "reconciliation.quantity_mismatch",
        "key": "bill_window.reconcile/scheduled__2026-01-16",
        "severity": "page",
        "title": "test project: bill_window.reconcile refused: usage does not match",
        "details": ["expected 3, got 2"],
    }


@pytest.mark.usefixtures("project")
def test_any_other_failure_names_the_task_and_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as (url, received):
        monkeypatch.setenv("BILLING_SLACK_URL", url)
        AlertNotifier()(context(KeyError("usage")))

    assert received[0]["body"]["text"] == (
        "*test project: bill_window.reconcile failed*\nKeyError: 'usage'\nrun scheduled__2026-01-16"
    )


@pytest.mark.usefixtures("project")
def test_a_receiver_that_is_down_does_not_break_the_callback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BILLING_WEBHOOK_URL", "http://127.0.0.1:9/")

    AlertNotifier()(context(REFUSAL))

    assert "the webhook did not take the alert bill_window.reconcile/scheduled__2026-01-16" in caplog.text


@pytest.mark.usefixtures("project")
def test_a_late_night_is_told_with_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as (url, received):
        monkeypatch.setenv("BILLING_WEBHOOK_URL", url)
        run = {"dag_run_id": "scheduled__2026-01-16", "dag_id": "bill_window"}
        path = f"{night_is_late.__module__}.{night_is_late.__qualname__}"
        done = execute_callback(path, {"context": {"dag_run": run}}, Path(), None, structlog.get_logger())

    assert done == (True, None)
    assert received[0]["body"]["code"] == "alert.night_late"
    assert received[0]["body"]["details"] == ["run scheduled__2026-01-16 of bill_window"]


def test_the_night_has_a_deadline_whose_callback_airflow_can_import(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.setenv("BILLING_PROJECT", str(root / "examples" / "llm_api"))
    dag = DagBag(dag_folder=str(root / "dags" / "bill_window.py"), safe_mode=False).dags["bill_window"]

    (deadline,) = dag.deadline

    assert import_string(deadline.callback.path) is night_is_late
    assert deadline.interval == timedelta(hours=12)  # six of grace and six of the default deadline
    assert all(isinstance(task.on_failure_callback[0], AlertNotifier) for task in dag.tasks)
