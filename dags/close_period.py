"""Every month: make the invoices of the past billing period final. Final is for ever: later usage is an adjustment.

The period is the month before the run, or the `period` param of a manual run (`2026-01`). A period whose windows are
not all accepted is refused with the names of those that are missing; nothing is issued then and the run can be
cleared when they are there.

Before it closes, `ask_finance` waits for somebody with the role finance: approve, approve and hold some accounts, or
reject, each with a reason. The task holds no worker while it waits. It is skipped where `[close] sign_off` is "none",
and where `billing sign-off approve` has approved these very figures. A rejection, an answer of somebody without the
role, and figures that changed since fail the run and issue nothing; clear `figures_to_approve` to ask again.

```
period_to_close -> figures_to_approve -> ask_finance -> record_decision -> close
```
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
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

    # What comes after the answer runs without one, too, where nothing is left to ask.
    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def figures_to_approve(period_id: str) -> dict[str, str] | None:
        from pipeline.steps.sign_off_question import question
        from pipeline.steps.workspace import open_workspace

        return question(open_workspace(settings.project_folder()), period_id, datetime.now(UTC))

    @task
    def record_decision(period_id: str, asked: dict[str, str], answer: dict[str, Any]) -> str:
        from pipeline.steps.sign_off_question import record_answer
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        return record_answer(workspace, period_id, asked, answer, datetime.now(UTC)).decision.value

    @task(trigger_rule="none_failed")
    def close(period_id: str) -> dict[str, Any]:
        from pipeline.steps.close import close
        from pipeline.steps.workspace import open_workspace

        result = close(open_workspace(settings.project_folder()), period_id, datetime.now(UTC))
        totals = {currency: str(total) for currency, total in result.totals.items()}
        folder = str(result.folder)
        return {"period_id": period_id, "invoices": len(result.invoices), "totals": totals, "folder": folder}

    period_id = period_to_close()
    asked = figures_to_approve(period_id)
    ask_finance = HITLOperator(
        task_id="ask_finance",
        subject="{{ ti.xcom_pull(task_ids='figures_to_approve')['subject'] }}",
        body="{{ ti.xcom_pull(task_ids='figures_to_approve')['body'] }}",
        options=["Approve", "Approve, hold accounts", "Reject"],
        params={
            "reason": Param(type="string", minLength=1, title="Reason", description="Recorded with the decision."),
            "hold_accounts": Param(
                "",
                type="string",
                title="Accounts to hold",
                description="Such as acct-7 acct-9; only if you approve and hold accounts.",
            ),
        },
    )
    asked >> ask_finance
    record_decision(period_id, asked, ask_finance.output) >> close(period_id)


close_period()
