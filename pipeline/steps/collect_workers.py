"""Batches of a collection in several processes, one for each processor: this one and its workers.

A worker is this module run by the same interpreter: it reads tasks from its standard input and writes results to its
standard output. It is no child of ``multiprocessing``, because the tasks of a Celery worker must not have any, and
nothing is forked, because a fork of a process with threads (boto3, Arrow, Airflow) can hang. When the process that
started it is gone, also by a kill, its input ends and it ends itself at once.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import BinaryIO

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import BillingError, NotReadyError
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
        # -P: a folder `pipeline` in the current directory is not this package.
        command = [sys.executable, "-P", "-m", "pipeline.steps.collect_workers"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def collect(self, store: ObjectStore, batch: BatchTask) -> BatchResult:
        task: Task = (batch, store.bucket, store.endpoint_url, store.region)
        try:
            if self._process.stdin is None or self._process.stdout is None:
                raise AssertionError("a worker is started with pipes")
            pickle.dump(task, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)  # noqa: S301 - our own process wrote it
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise NotReadyError(
                "collect.worker_died",
                "a process that read objects ended before it was done",
                [
                    f"its exit code is {self._process.poll()}; memory may have run out, or somebody killed it",
                    "nothing was collected; the same call may succeed later, or with BILLING_WORKERS=1",
                ],
            ) from error
        if isinstance(answer, BatchResult):
            return answer
        if isinstance(answer, BillingError):
            raise answer
        raise RuntimeError(f"a process that read objects failed:\n{answer}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it was sent and did not read
                    pipe.close()


# In the worker -------------------------------------------------------------------------------------------------------


def _work(tasks: BinaryIO, results: BinaryIO) -> None:
    received: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(tasks, received), daemon=True).start()
    while True:
        batch, bucket, endpoint_url, region = received.get()
        answer: BatchResult | BillingError | str
        try:
            answer = collect_batch(batch, ObjectStore(bucket, endpoint_url, region))
        except BillingError as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        pickle.dump(answer, results)
        results.flush()


def _receive(tasks: BinaryIO, received: queue.SimpleQueue[Task]) -> None:
    """Pass tasks on as they come; end the process when nobody is there to send more."""
    try:
        while True:
            received.put(pickle.load(tasks))  # noqa: S301 - our own process wrote it
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it decides what an interrupt means
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as output:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come between the results
        _work(sys.stdin.buffer, output)
