"""Every hour: fetch the new files of the raw bucket, and bill again each window that late events reached.

`collect` lists the bucket against the object ledger, so an hour that was missed loses nothing and this DAG needs no
catch-up. `late_windows` names each window of an open period whose accepted revision lacks events that have arrived
since; one run of `bill_window` is triggered for each. Its run id names the window and the revision it supersedes, so
the same late events trigger one run however often this DAG looks; a run that failed is cleared by hand, not repeated.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, dag, task

from pipeline import settings
from pipeline.airflow_plugin.notify import AlertNotifier
from pipeline.airflow_plugin.retry import RETRY_NOT_READY_AND_NETWORK


@dag(
    dag_id="collect_usage",
    schedule=CronTriggerTimetable("5 * * * *", timezone="UTC"),
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "on_failure_callback": [AlertNotifier()],
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_policy": RETRY_NOT_READY_AND_NETWORK,
    },
    doc_md=__doc__,
    tags=["billing"],
)
def collect_usage() -> None:
    @task
    def collect() -> dict[str, Any]:
        from pipeline.steps.run_costs import collect_at_cost
        from pipeline.steps.workspace import open_workspace

        say = logging.getLogger(__name__).info
        result = collect_at_cost(open_workspace(settings.project_folder()), datetime.now(UTC), say)
        return {
            "objects": result.new_objects,
            "raw_events": result.raw_events,
            "quarantined": dict(result.by_reason),
            "unclaimed_keys": len(result.unclaimed_keys),
            "replaced_keys": len(result.replaced_keys),
            "pending": len(result.pending),
        }

    @task
    def late_windows() -> list[dict[str, Any]]:
        from pipeline.steps.schedule import late_window_runs
        from pipeline.steps.workspace import open_workspace

        return late_window_runs(open_workspace(settings.project_folder()))

    late = late_windows()
    collect() >> late
    TriggerDagRunOperator.partial(
        task_id="bill_late_windows",
        trigger_dag_id="bill_window",
        logical_date=None,
        skip_when_already_exists=True,
    ).expand_kwargs(late)


collect_usage()
