"""Batches of a collection in several processes, one for each processor: this one and its workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from pipeline.adapters.child_process import ChildProcess, ProcessDiedError, serve
from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import NotReadyError
from pipeline.steps.collect_batch import BatchResult, BatchTask, collect_batch

Task = tuple[BatchTask, str, str | None, str]  # a batch; the bucket, its endpoint and region


def collect_batches(batches: Sequence[BatchTask], store: ObjectStore, process_count: int) -> Iterator[BatchResult]:
    """Yield the result of each batch in order, whichever is done first. This process collects too."""
    jobs = [_Job(batch) for batch in batches]
    waiting = deque(jobs)
    workers = [_Worker() for _ in range(process_count - 1)]

    def work_off(collect: Callable[[BatchTask], BatchResult]) -> None:
        with suppress(IndexError):
            while True:
                waiting.popleft().do(collect)

    threads = [
        threading.Thread(target=work_off, args=(partial(worker.collect, store),), daemon=True) for worker in workers
    ]
    for thread in threads:
        thread.start()
    try:
        for job in jobs:
            while not job.is_done() and waiting:
                with suppress(IndexError):  # a worker took the last one
                    waiting.popleft().do(partial(collect_batch, store=store))
            yield job.result()
    finally:
        waiting.clear()
        for worker in workers:
            worker.end()
        for thread in threads:
            thread.join()


class _Job:
    """One batch, and its result when it is there."""

    def __init__(self, batch: BatchTask) -> None:
        self._batch = batch
        self._future: Future[BatchResult] = Future()

    def do(self, collect: Callable[[BatchTask], BatchResult]) -> None:
        try:
            self._future.set_result(collect(self._batch))
        except Exception as error:
            self._future.set_exception(error)

    def is_done(self) -> bool:
        return self._future.done()

    def result(self) -> BatchResult:
        return self._future.result()


class _Worker:
    """One process that collects batches, one after the other."""

    def __init__(self) -> None:
        self._process = ChildProcess(__name__)

    def collect(self, store: ObjectStore, batch: BatchTask) -> BatchResult:
        task: Task = (batch, store.bucket, store.endpoint_url, store.region)
        self._process.send(task)
        try:
            result: BatchResult = self._process.answer()
        except ProcessDiedError as error:
            raise NotReadyError(
                "collect.worker_died",
                "a process that read objects ended before it was done",
                [
                    f"its exit code is {error.exit_code}; memory may have run out, or somebody killed it",
                    "nothing was collected; the same call may succeed later, or with BILLING_WORKERS=1",
                ],
            ) from error
        return result

    def end(self) -> None:
        self._process.end()


def _collect(task: Task) -> BatchResult:
    batch, bucket, endpoint_url, region = task
    return collect_batch(batch, ObjectStore(bucket, endpoint_url, region))


if __name__ == "__main__":
    serve(_collect)
