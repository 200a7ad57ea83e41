"""Documents made in several processes, one for each processor: this one and its workers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.adapters.child_process import ChildProcess, ProcessDiedError, serve
from pipeline.core.errors import NotReadyError
from pipeline.steps.draft_shares import MadeShare, Share, make_share


def made_shares(shares: Sequence[Share], process_count: int) -> list[MadeShare]:
    """Return what each share came to; this process takes part, so one process is no other one."""
    waiting = iter(shares)
    made: list[MadeShare] = []

    def work_off(worker: ChildProcess | None) -> None:
        while (share := next(waiting, None)) is not None:
            if worker is None:
                made.append(make_share(share))
                continue
            worker.send(share)
            try:
                made.append(worker.answer())
            except ProcessDiedError as error:
                raise NotReadyError(
                    "close.worker_died",
                    "a process that made documents ended before it was done",
                    [
                        f"its exit code is {error.exit_code}; memory may have run out, or somebody killed it",
                        "nothing was issued; the same call may succeed later, or with BILLING_WORKERS=1",
                    ],
                ) from error

    workers = [ChildProcess(__name__) for _ in range(min(process_count, len(shares)) - 1)]
    try:
        with ThreadPoolExecutor(len(workers) + 1) as threads:
            for done in [threads.submit(work_off, worker) for worker in [*workers, None]]:
                done.result()
    finally:
        for worker in workers:
            worker.end()
    return made


if __name__ == "__main__":
    serve(make_share)
