"""Processes that collect: in whatever process they are started, and whatever becomes of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ListedObject, ObjectStore
from pipeline.core.contract import SourceContract
from pipeline.core.errors import NotReadyError
from pipeline.steps import collect_workers
from pipeline.steps.collect import object_id_of
from pipeline.steps.collect_batch import BatchTask, NewObject
from pipeline.steps.collect_workers import collect_batches
from tests.fixtures_project import put_events, usage_event

RECEIVED_AT = datetime(2026, 1, 15, 13, tzinfo=UTC)
CONTRACT = SourceContract.model_validate({"name": "usage", "version": "1", "prefix": "usage/", "format": "ndjson"})


@pytest.fixture
def batches(tmp_path: Path, raw_bucket: ObjectStore) -> list[BatchTask]:
    """Three batches of one object of two lines each."""
    for number in range(3):
        put_events(raw_bucket, f"usage/{number}", [usage_event(id=f"{number}-{n}") for n in range(2)], RECEIVED_AT)
    return [
        BatchTask((NewObject(object_id_of(listed), listed, CONTRACT),), tmp_path / f"batch-{index}")
        for index, listed in enumerate(sorted(raw_bucket.list_objects()))
    ]


def taken(batches: list[BatchTask], raw: ObjectStore) -> list[tuple[str, int]]:
    return [(o.object_id.split("@")[0], o.raw_event_count) for r in collect_batches(batches, raw, 2) for o in r.objects]


def children() -> list[str]:
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if "collect_workers" in line]


def test_results_come_in_the_order_of_the_batches_and_no_process_stays(
    batches: list[BatchTask], raw_bucket: ObjectStore
) -> None:
    assert taken(batches, raw_bucket) == [("usage/0", 2), ("usage/1", 2), ("usage/2", 2)]
    assert children() == []


def test_a_worker_that_is_killed_is_a_refusal_that_may_succeed_later(
    batches: list[BatchTask], raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = collect_workers._Worker.__init__

    def killed(worker: collect_workers._Worker) -> None:
        start(worker)
        os.kill(worker._process.pid, signal.SIGKILL)

    monkeypatch.setattr(collect_workers._Worker, "__init__", killed)

    with pytest.raises(NotReadyError, match=r"collect\.worker_died") as refused:
        taken(batches, raw_bucket)

    assert "its exit code is -9" in str(refused.value)
    assert children() == []


def test_a_defect_is_told_with_its_traceback_wherever_it_shows(
    batches: list[BatchTask], raw_bucket: ObjectStore
) -> None:
    listed = ListedObject("usage/0", "v", 1, RECEIVED_AT)
    broken = [
        BatchTask((NewObject("usage/0@v", listed, None),), batch.folder)  # type: ignore[arg-type]
        for batch in batches[:2]
    ]

    with pytest.raises((RuntimeError, AttributeError), match="NoneType"):
        taken([*broken, batches[2]], raw_bucket)

    assert children() == []


def test_a_folder_that_cannot_be_written_is_a_refusal(batches: list[BatchTask], raw_bucket: ObjectStore) -> None:
    batches[1].folder.write_text("a file is in the way")

    with pytest.raises(NotReadyError, match=r"collect\.scratch_unusable"):
        taken(batches, raw_bucket)


def _collect_in_daemon(batches: list[BatchTask], raw: ObjectStore, answer: multiprocessing.Queue[object]) -> None:
    answer.put(taken(batches, raw))


def test_a_daemonic_process_such_as_a_celery_worker_may_collect(
    batches: list[BatchTask], raw_bucket: ObjectStore
) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_collect_in_daemon, args=(batches, raw_bucket, answer), daemon=True)
    process.start()
    try:
        assert answer.get(timeout=60) == [("usage/0", 2), ("usage/1", 2), ("usage/2", 2)]
    finally:
        process.join(10)
        process.kill()
