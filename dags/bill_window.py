"""Every night: one run bills one billing window, from collected events to an accepted revision and its report.

```
wait_for_cutoff -> deduplicate -> aggregate -> rate -> check -> reconcile -> accept -> estimate -> settle -> report
                                                       |---- gates ----|
```

The window is the data interval of the run, or the `window` param of a manual run (`2026-01-15`). `check` and
`reconcile` are the gates: when one refuses, `accept` does not run, `settle` rejects the revision, the report is
rendered all the same and the run is failed. Between tasks travel receipts (names, numbers, hashes), never rows. A task
that is run again publishes the same bytes. What is late for the first revision waits for the next one, which takes in
everything collected by then; changed inputs make it, also files that came since, and `include_late` makes it for late
events alone. After the cutoff `deduplicate` refuses a window whose sources have not shown that they are complete, and
is tried again; `accept_incomplete` gives the reason why it is closed all the same, which the report prints.

A task that fails for good, and a night that is not done by its deadline (`[sli.pipeline_availability]`), send an alert
to whom `[alerts]` of billing.toml names.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DeltaDataIntervalTimetable, Param, PokeReturnValue, dag, task

from pipeline import settings
from pipeline.airflow_plugin.notify import AlertNotifier, night_deadline, send_metrics
from pipeline.airflow_plugin.retry import RETRY_NOT_READY_AND_NETWORK
from pipeline.steps.schedule import window_schedule

# billing.toml is read when this file is parsed, because two facts of the schedule stand there and nowhere else: the
# first window, and the length of a window. With them catch-up is safe: every window since the first gets its own run,
# also after an outage, and none before it. It is one small file, and a broken one shows as an import error with its
# sentence, before any work. Nothing else of the project is read here.
SCHEDULE = window_schedule(settings.project_folder())


@dag(
    dag_id="bill_window",
    # Intervals are counted from start_date, which is a window's start: one run per window of any length.
    # For windows of one day this is midnight UTC.
    schedule=DeltaDataIntervalTimetable(SCHEDULE.length),
    start_date=SCHEDULE.first_window_start,
    catchup=True,
    max_active_runs=1,
    deadline=night_deadline(SCHEDULE.deadline),
    default_args={
        "on_failure_callback": [AlertNotifier()],
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_policy": RETRY_NOT_READY_AND_NETWORK,
    },
    params={
        "window": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}-\d\d-\d\d(T\d\d:\d\dZ)?$",
            title="Billing window",
            description="Such as 2026-01-15 (UTC); empty: the data interval of the run.",
        ),
        "include_late": Param(
            False,
            type="boolean",
            title="Take in late events",
            description="Make the next revision for late events alone; one made anyway takes them in.",
        ),
        "accept_incomplete": Param(
            None,
            type=["null", "string"],
            pattern=r"\S",
            title="Accept an incomplete window",
            description="Why the window is closed although evidence is missing; recorded, and printed in the report.",
        ),
    },
    doc_md=__doc__,
    tags=["billing"],
)
def bill_window() -> None:
    @task.sensor(mode="reschedule", poke_interval=timedelta(minutes=5), timeout=timedelta(days=7))
    def wait_for_cutoff(params: dict[str, Any], data_interval_end: datetime | None = None) -> PokeReturnValue:
        from pipeline.steps.schedule import cutoff_is_collected, window_of_run
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        window = window_of_run(params["window"], data_interval_end, SCHEDULE.length)
        return PokeReturnValue(cutoff_is_collected(workspace, window), xcom_value=window.window_id)

    @task
    def deduplicate(window_id: str, params: dict[str, Any]) -> dict[str, Any]:
        from pipeline.core.window import parse_window
        from pipeline.steps.deduplicate import deduplicate
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        window = parse_window(window_id, SCHEDULE.length)
        opened = deduplicate(
            workspace,
            window,
            datetime.now(UTC),
            include_late=params["include_late"],
            accept_incomplete=params["accept_incomplete"],
        )
        return {"window_id": opened.window_id, "revision": opened.revision, "inputs_hash": opened.inputs_hash}

    @task
    def aggregate(opened: dict[str, Any]) -> dict[str, Any]:
        from pipeline.steps.aggregate import aggregate
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        return aggregate(workspace, opened["window_id"], opened["revision"], datetime.now(UTC)).to_json()

    @task
    def rate(opened: dict[str, Any]) -> list[dict[str, Any]]:
        from pipeline.steps.price_trials import run_canary
        from pipeline.steps.rate import rate
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        drafts = rate(workspace, opened["window_id"], opened["revision"], datetime.now(UTC))
        run_canary(workspace, opened["window_id"], opened["revision"])
        return [draft.to_json() for draft in drafts]

    @task
    def check(opened: dict[str, Any]) -> dict[str, Any]:
        from pipeline.steps.check import check
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        checked = check(workspace, opened["window_id"], opened["revision"], datetime.now(UTC))
        return {"window_id": opened["window_id"], "expectations": len(checked.results)}

    @task
    def reconcile(opened: dict[str, Any]) -> dict[str, Any]:
        from pipeline.steps.reconcile import reconcile
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        return reconcile(workspace, opened["window_id"], opened["revision"], datetime.now(UTC)).to_json()

    @task
    def accept(opened: dict[str, Any]) -> None:
        from pipeline.steps.accept import accept
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        accept(workspace, opened["window_id"], opened["revision"], datetime.now(UTC))

    @task
    def estimate(opened: dict[str, Any]) -> list[dict[str, Any]]:
        from pipeline.steps.estimate import estimate
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        receipts = estimate(workspace, opened["window_id"], opened["revision"], datetime.now(UTC))
        return [receipt.to_json() for receipt in receipts]

    @task
    def settle(opened: dict[str, Any], run_id: str) -> str:
        from pipeline.steps.schedule import settle
        from pipeline.steps.workspace import open_workspace

        workspace = open_workspace(settings.project_folder())
        why = f"a task of the run {run_id} failed"
        return settle(workspace, opened["window_id"], opened["revision"], datetime.now(UTC), why)

    @task
    def report(opened: dict[str, Any]) -> str:
        from pipeline.steps.finish import finish_night
        from pipeline.steps.metrics import night_figures
        from pipeline.steps.workspace import open_workspace

        workspace, named = open_workspace(settings.project_folder()), (opened["window_id"], opened["revision"])
        path = finish_night(workspace, *named, datetime.now(UTC), logging.getLogger(__name__).info)
        send_metrics(night_figures(workspace, *named))
        return str(path)

    opened = deduplicate(wait_for_cutoff())
    accepted = accept(opened)
    aggregate(opened) >> rate(opened) >> check(opened) >> reconcile(opened) >> accepted

    # Teardowns run whenever a revision was opened, after a failure too, and do not decide the state of the run:
    # a run whose revision was not accepted is failed although its report was rendered.
    opened.as_setup()
    estimated = estimate(opened)
    accepted >> estimated >> settle(opened).as_teardown(setups=opened) >> report(opened).as_teardown(setups=opened)


bill_window()
