"""Batches of a collection in processes of their own, one for each processor.

Processes are started afresh, not forked: a fork of a process with threads (boto3, Arrow, Airflow) can hang. A process
whose parent was killed ends itself, so nothing goes on writing after a run that is gone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import NotReadyError
from pipeline.steps.collect_batch import BatchResult, BatchTask, collect_batch


def collect_batches(batches: Sequence[BatchTask], store: ObjectStore, worker_count: int) -> Iterator[BatchResult]:
    """Yield the result of each batch in order, whichever is done first."""
    pool = ProcessPoolExecutor(worker_count, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        jobs = [pool.submit(_collect, batch, store.bucket, store.endpoint_url, store.region) for batch in batches]
        for job in jobs:
            yield job.result()
    except BrokenProcessPool as error:
        raise NotReadyError(
            "collect.worker_died",
            "a process that read objects ended before it was done",
            [
                "nothing was collected; memory may have run out, or somebody killed it",
                "the same call may succeed later, or with fewer processes at once: BILLING_WORKERS=1",
            ],
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(batch: BatchTask, bucket: str, endpoint_url: str | None, region: str) -> BatchResult:
    return collect_batch(batch, ObjectStore(bucket, endpoint_url, region))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent,), daemon=True).start()


def _wait_for(parent: object) -> None:
    parent.join()  # type: ignore[attr-defined]  # a ParentProcess, which typeshed does not name
    os._exit(1)
