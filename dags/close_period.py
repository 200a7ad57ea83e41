"""Every month: make the invoices of the past billing period final. Final is for ever: later usage is an adjustment.

The period is the month before the run, or the `period` param of a manual run (`2026-01`). A period whose windows are
not all accepted is refused with the names of those that are missing; nothing is issued then and the run can be
cleared when they are there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, dag, task

from pipeline import settings
from pipeline.airflow_plugin.retry import RETRY_NOT_READY_AND_NETWORK
from pipeline.steps.schedule import window_schedule

# Read at parse time for the reason given in bill_window.py: catch-up from the first period, and none before it.
SCHEDULE = window_schedule(settings.project_folder())


@dag(
    dag_id="close_period",
    schedule=CronTriggerTimetable("0 12 5 * *", timezone="UTC"),
    start_date=SCHEDULE.first_period_end,
    catchup=True,
    max_active_runs=1,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=30),
        "retry_policy": RETRY_NOT_READY_AND_NETWORK,
    },
    params={
        "period": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}-(0[1-9]|1[0-2])$",
            title="Billing period",
            description="Such as 2026-01; empty: the month before the run.",
        ),
    },
    doc_md=__doc__,
    tags=["billing"],
)
def close_period() -> None:
    @task.short_circuit
    def period_to_close(params: dict[str, Any], dag_run: Any) -> str | None:
        from pipeline.steps.schedule import period_to_close
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        is_manual = dag_run.run_type == "manual"
        return period_to_close(workspace, params["period"], dag_run.run_after, is_manual=is_manual)

    @task
    def close(period_id: str) -> dict[str, Any]:
        from pipeline.steps.close import close
        from pipeline.steps.workspace import open_workspace

        result = close(open_workspace(settings.project_folder()), period_id, datetime.now(UTC))
        totals = {currency: str(total) for currency, total in result.totals.items()}
        folder = str(result.folder)
        return {"period_id": period_id, "invoices": len(result.invoices), "totals": totals, "folder": folder}

    close(period_to_close())


close_period()
