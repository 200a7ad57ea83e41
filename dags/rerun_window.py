"""By hand: compute a window revision again from its pinned inputs and compare it with what was published.

The run succeeds when every dataset is identical, and its task returns the content hash of each; otherwise it fails and
the log shows the first rows that differ. It reads the lake and the control plane and writes to neither, so it may run
at any time, also beside `bill_window`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from pipeline import settings
from pipeline.airflow_plugin.retry import RETRY_NOT_READY_AND_NETWORK


@dag(
    dag_id="rerun_window",
    schedule=None,
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    default_args={
        "retries": 1,
        "retry_delay": timedelta(minutes=5),
        "retry_policy": RETRY_NOT_READY_AND_NETWORK,
    },
    params={
        "window": Param(
            type="string",
            pattern=r"^\d{4}-\d\d-\d\d(T\d\d:\d\dZ)?$",
            title="Billing window",
            description="Such as 2026-01-15 (UTC).",
        ),
        "revision": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Revision",
            description="Such as 1; empty: the newest accepted one of the window.",
        ),
    },
    doc_md=__doc__,
    tags=["billing"],
)
def rerun_window() -> None:
    @task
    def rerun(params: dict[str, Any]) -> dict[str, str]:
        from pipeline.steps.rerun import require_identical, rerun
        from pipeline.steps.workspace import open_workspace

        result = rerun(open_workspace(settings.project_folder()), params["window"], params["revision"])
        return require_identical(result)

    rerun()


rerun_window()
