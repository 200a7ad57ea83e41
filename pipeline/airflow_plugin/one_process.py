"""Runs the real DAGs in this process, one task after another: no scheduler, no server, no port.

It is what `make demo` uses and what a DAG is tried with. A run here has the same tasks, params, trigger rules and
receipts as under a scheduler, but nothing is waited for and no task is tried again. Airflow's own output, which is
long, goes to a log file; one line per task goes to the caller.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.core.errors import BillingError

Say = Callable[[str], None]


class DagRunFailed(Exception):  # noqa: N818 - a run that failed is its name in Airflow
    """A DAG run that did not end in success, with the error of each task that failed."""

    def __init__(self, dag_id: str, errors: Mapping[str, BaseException | str | None], log_file: Path) -> None:
        self.dag_id = dag_id
        self.errors = dict(errors)
        self.log_file = log_file
        lines = [f"{dag_id} failed"]
        for task_id, error in self.errors.items():
            sentence = str(error) if isinstance(error, BillingError) else f"{type(error).__name__}: {error}"
            lines += [f"  {line}" for line in f"{task_id}: {sentence}".splitlines()]
        lines.append(f"  everything Airflow said: {log_file}")
        super().__init__("\n".join(lines))


@dataclass(frozen=True, slots=True)
class DagRunResult:
    """A DAG run that succeeded: what each task returned, by task id (the last one, if it was mapped)."""

    run_id: str
    returned: Mapping[str, Any]


class OneProcessAirflow:
    """A private Airflow in ``home`` (SQLite, no example DAGs) whose DAGs run in this process.

    Airflow reads its configuration when it is imported, so there is one of these per process, made before
    anything imports Airflow; a later one is refused.
    """

    def __init__(self, home: Path, dags_folder: Path, say: Say) -> None:
        if "airflow" in sys.modules:
            raise RuntimeError("airflow is imported already, so its configuration cannot be chosen any more")
        self.log_file = home / "airflow.log"
        self._dags_folder = dags_folder
        self._say = say
        self._started_at = 0.0
        self._errors: dict[str, BaseException | str | None] = {}
        home.mkdir(parents=True, exist_ok=True)
        os.environ.update(_configuration(home, dags_folder))
        with self.quiet():
            import airflow.settings
            from airflow.sdk.listener import get_listener_manager
            from airflow.utils.db import initdb

            airflow.settings.initialize()  # type: ignore[no-untyped-call]
            initdb()
            get_listener_manager().add_listener(_task_listener(self))  # type: ignore[no-untyped-call]
            self.dag_ids = tuple(sorted(self._load()))

    def _load(self) -> Mapping[str, Any]:
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(dag_folder=str(self._dags_folder), safe_mode=False)
        if bag.import_errors:
            raise RuntimeError("\n".join(f"{file}: {error}" for file, error in sorted(bag.import_errors.items())))
        return dict(bag.dags)

    def run(self, dag_id: str, logical_date: datetime, params: Mapping[str, Any] | None = None) -> DagRunResult:
        """Run a DAG to its end and return what its tasks returned; a run that fails raises ``DagRunFailed``.

        The data interval is that of a manual run at ``logical_date``: for ``bill_window`` the window that ends there.
        """
        self._errors.clear()
        with self.quiet():
            dag = self._load()[dag_id]  # a fresh one: Airflow leaves the params of a run in the DAG object
            dag.deadline = None  # nobody is waiting; and dag.test() takes the alerts for their ids and fails
            for task in dag.tasks:  # nothing changes while this process waits
                task.retries = 0
                if hasattr(task, "poke_interval"):
                    task.timeout = 0
            dag_run = dag.test(logical_date=logical_date, run_conf=dict(params or {}))
            returned = _returned(dag_run)
            task_count = len(dag_run.get_task_instances())
        if task_count == 0:  # Airflow calls that a success: it leaves out tasks that start after the logical date
            reason = f"no task runs at {logical_date}, before the DAG's start date"
            raise DagRunFailed(dag_id, {"run": ValueError(reason)}, self.log_file)
        if dag_run.state != "success":  # dag.test() does not raise
            raise DagRunFailed(dag_id, self._errors, self.log_file)
        return DagRunResult(dag_run.run_id, returned)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Send all that is printed, also by a child process, to the log file; ``say`` keeps the real output."""
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        say = self._say
        with self.log_file.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        self._say = lambda sentence: _say_on(kept, say, sentence)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for kept_descriptor, descriptor in zip(kept, (1, 2), strict=True):
                os.dup2(kept_descriptor, descriptor)
                os.close(kept_descriptor)
            self._say = say

    def task_started(self) -> None:
        self._started_at = time.monotonic()

    def task_ended(self, task: Any, state: str, error: BaseException | str | None = None) -> None:
        name = task.task_id if task.map_index is None or task.map_index < 0 else f"{task.task_id}[{task.map_index}]"
        if error is not None:
            self._errors[name] = error
        self._say(f"{task.dag_id}.{name}: {state}, {time.monotonic() - self._started_at:.1f} s")


def _say_on(kept: tuple[int, int], say: Say, sentence: str) -> None:
    """Say one sentence on the descriptors that were kept, then go back to the log."""
    logged = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    for kept_descriptor, descriptor in zip(kept, (1, 2), strict=True):
        os.dup2(kept_descriptor, descriptor)
    try:
        say(sentence)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        for logged_descriptor, descriptor in zip(logged, (1, 2), strict=True):
            os.dup2(logged_descriptor, descriptor)
            os.close(logged_descriptor)


def _configuration(home: Path, dags_folder: Path) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
    }


def _task_listener(airflow: OneProcessAirflow) -> Any:
    """Return an Airflow listener that reports each task of this process."""
    from airflow.listeners import hookimpl

    class TaskListener:
        @hookimpl
        def on_task_instance_running(self) -> None:
            airflow.task_started()

        @hookimpl
        def on_task_instance_success(self, task_instance: Any) -> None:
            airflow.task_ended(task_instance, "done")

        @hookimpl
        def on_task_instance_skipped(self, task_instance: Any) -> None:
            airflow.task_ended(task_instance, "skipped")

        @hookimpl
        def on_task_instance_failed(self, task_instance: Any, error: BaseException | str | None) -> None:
            airflow.task_ended(task_instance, "failed", error or "no reason was given")

    return TaskListener()


def _returned(dag_run: Any) -> dict[str, Any]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        rows: Any = session.scalars(
            XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, key="return_value")
        )
        return {row.task_id: XComModel.deserialize_value(row) for row in rows}
