"""The real DAGs, run to their end in one process: what a refused gate leaves behind, and how a failure is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.revision import RevisionState
from pipeline.steps.workspace import open_workspace
from tests.fixtures_project import PRICE_BOOK, put_events, usage_event, write_project

REPOSITORY = Path(__file__).parents[2]
NIGHT = datetime(2026, 1, 16, 1, tzinfo=UTC)

# Airflow reads its configuration when it is imported, so each Airflow has a process of its own.
SCRIPT = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from pipeline.airflow_plugin.one_process import DagRunFailed, OneProcessAirflow
said, failures = [], []
airflow = OneProcessAirflow(Path(sys.argv[1]), Path(sys.argv[2]), said.append)
for dag_id, day, params in json.loads(sys.argv[3]):
    try:
        airflow.run(dag_id, datetime.fromisoformat(day), params)
    except DagRunFailed as error:
        failures.append(str(error))
print(json.dumps({"said": said, "failures": failures}))
"""

pytestmark = pytest.mark.slow


def run_dags(folder: Path, project: Path, *runs: tuple[str, str, dict[str, Any]]) -> dict[str, list[str]]:
    command = [sys.executable, "-c", SCRIPT, str(folder / "airflow"), str(REPOSITORY / "dags"), json.dumps(runs)]
    environment = {**os.environ, "BILLING_PROJECT": str(project)}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False, cwd=REPOSITORY
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_window_that_cannot_be_priced_is_rejected_reported_and_never_accepted(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    # One SKU has no price in euro: loading cannot tell, because no account with euros may ever use it.
    book = PRICE_BOOK.replace('currency = "EUR"', 'currency = "CHF"', 1)
    project = write_project(tmp_path / "project", raw_bucket, {"price_books/2025-01-01.toml": book})
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(subject="customer-3")], NIGHT)

    ran = run_dags(
        tmp_path,
        project,
        ("collect_usage", "2026-01-16T06:05:00+00:00", {}),
        ("bill_window", "2026-01-17T00:00:00+00:00", {"window": "2026-01-15"}),
    )

    workspace = open_workspace(project)
    revision = workspace.control_plane.latest_revision("2026-01-15")
    assert revision is not None
    assert revision.state is RevisionState.REJECTED
    assert workspace.control_plane.accepted_revision("2026-01-15") is None
    assert list((workspace.out / "reports").glob("2026-01-15-r1.html"))
    assert [line for line in ran["said"] if "accept" in line] == []
    (failure,) = ran["failures"]
    assert failure.startswith("bill_window failed\n  rate: ")
    assert "EUR" in failure


def test_a_window_that_is_not_collected_yet_is_refused_and_not_waited_for(tmp_path: Path, project_folder: Path) -> None:
    ran = run_dags(tmp_path, project_folder, ("bill_window", "2026-01-16T00:00:00+00:00", {}))

    (failure,) = ran["failures"]
    assert "wait_for_cutoff" in failure
    assert open_workspace(project_folder).control_plane.latest_revision("2026-01-15") is None


def test_each_run_bills_the_window_of_its_own_data_interval(
    tmp_path: Path, project_folder: Path, raw_bucket: ObjectStore
) -> None:
    put_events(raw_bucket, "usage/a.ndjson", [usage_event()], NIGHT)

    ran = run_dags(
        tmp_path,
        project_folder,
        ("collect_usage", "2026-01-18T06:05:00+00:00", {}),
        ("bill_window", "2026-01-18T00:00:00+00:00", {"window": "2026-01-15"}),
        ("bill_window", "2026-01-16T00:00:00+00:00", {}),
        ("bill_window", "2026-01-17T00:00:00+00:00", {}),
    )

    revisions = open_workspace(project_folder).control_plane.window_revisions()
    assert ran["failures"] == []
    assert [(r.window_id, r.revision, r.state) for r in revisions] == [
        ("2026-01-15", 1, RevisionState.ACCEPTED),
        ("2026-01-16", 1, RevisionState.ACCEPTED),
    ]


def test_a_rerun_returns_the_content_hash_of_each_dataset_and_fails_for_a_revision_that_is_not_there(
    tmp_path: Path, project_folder: Path, raw_bucket: ObjectStore
) -> None:
    put_events(raw_bucket, "usage/a.ndjson", [usage_event()], NIGHT)

    ran = run_dags(
        tmp_path,
        project_folder,
        ("collect_usage", "2026-01-18T06:05:00+00:00", {}),
        ("bill_window", "2026-01-18T00:00:00+00:00", {"window": "2026-01-15"}),
        ("rerun_window", "2026-01-19T00:00:00+00:00", {"window": "2026-01-15"}),
        ("rerun_window", "2026-01-20T00:00:00+00:00", {"window": "2026-01-15", "revision": 2}),
    )

    assert any(line.startswith("rerun_window.rerun: done") for line in ran["said"])
    (failure,) = ran["failures"]
    assert "revision.unknown" in failure


def test_a_run_in_which_no_task_ran_is_a_failure(tmp_path: Path, project_folder: Path) -> None:
    ran = run_dags(tmp_path, project_folder, ("close_period", "2025-06-05T12:00:00+00:00", {"period": "2025-05"}))

    (failure,) = ran["failures"]
    assert "no task runs" in failure


def test_a_period_that_is_not_ready_tells_what_is_missing(tmp_path: Path, project_folder: Path) -> None:
    ran = run_dags(tmp_path, project_folder, ("close_period", "2026-02-05T12:00:00+00:00", {"period": "2026-01"}))

    (failure,) = ran["failures"]
    assert "close.earlier_period_open" in failure  # New York's December ends in the first window
    assert "2026-01-01" in failure
