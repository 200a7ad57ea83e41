"""Documents made in several processes, one for each processor: this one and its workers."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.adapters.child_process import ProcessDiedError, serve, spread
from pipeline.core.errors import NotReadyError
from pipeline.steps.draft_shares import MadeShare, Share, make_share


def made_shares(shares: Sequence[Share], process_count: int) -> list[MadeShare]:
    """Return what each share came to; this process takes part, so one process is no other one."""
    return spread(__name__, make_share, shares, process_count, _worker_died)


def _worker_died(error: ProcessDiedError) -> NotReadyError:
    return NotReadyError(
        "close.worker_died",
        "a process that made documents ended before it was done",
        [
            f"its exit code is {error.exit_code}; memory may have run out, or somebody killed it",
            "nothing was issued; the same call may succeed later, or with BILLING_WORKERS=1",
        ],
    )


if __name__ == "__main__":
    serve(make_share)
