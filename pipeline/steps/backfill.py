"""Backfill: many windows in order, several at once, in a way that a second call finishes what a first one did not.

What takes long, to deduplicate and to aggregate, comes first, in a process for each window, at most so many at once.
Rating, the gates and acceptance follow here, one window after the other in their order. A draft takes the new revision
of each window that has an accepted one already, so that a meter that changed its aggregation or unit is the same in all
of them; else the result is that of running the windows one by one. A process that was started ends itself when this
one is gone, also by a kill; what it published by then is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from pipeline.adapters.child_process import ChildProcess, ProcessDiedError, serve
from pipeline.core.errors import BillingError, InputError, NotReadyError
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import BillingWindow, windows_between
from pipeline.steps.aggregate import find_revision
from pipeline.steps.deduplicate import current_revision
from pipeline.steps.links import CollectedEvents
from pipeline.steps.run import LeftOutWindow, Say, WindowResult, compute_window, left_out_window, settle_window
from pipeline.steps.workspace import Workspace, open_workspace


def windows_of_backfill(workspace: Workspace, first: BillingWindow, last: BillingWindow) -> list[BillingWindow]:
    """Return the windows from the first to the last, both included; a last one before the first is refused."""
    if last.start < first.start:
        raise InputError(
            "backfill.no_window",
            f"the last window {last.window_id} is before the first one {first.window_id}",
            ["expected --from before --to, or the same"],
        )
    return list(windows_between(first.start, last.end, workspace.project.settings.window.length))


def backfill(
    workspace: Workspace,
    windows: Sequence[BillingWindow],
    at_most: int,
    now: Callable[[], datetime],
    say: Say,
    *,
    include_late: bool = False,
) -> Iterator[WindowResult | LeftOutWindow]:
    """Run windows in order, at most ``at_most`` of them at once; yield what each came to.

    A window whose accepted revision is current is not computed again. One that is not shown to be complete is left out
    and holds back no other; any other refusal ends the backfill, as in ``run_due_windows``.
    """
    collected = CollectedEvents(workspace)
    current: dict[BillingWindow, WindowRevision | None] = {}

    def current_of(window: BillingWindow) -> WindowRevision | None:  # asked for when it is its turn: a year is many
        if window not in current:
            current[window] = _accepted_and_current(workspace, window, include_late, collected)
        return current[window]

    ahead = (window for window in windows if at_most > 1 and current_of(window) is None)
    processes: dict[BillingWindow, _WindowProcess] = {}

    def start_next() -> None:
        if (window := next(ahead, None)) is not None:
            processes[window] = _WindowProcess(workspace.project.folder, window, now(), include_late)

    try:
        for _ in range(at_most):
            start_next()
        computed: dict[BillingWindow, WindowRevision | LeftOutWindow | BillingError] = {}
        for window in windows:
            revision, process = current_of(window), processes.get(window)
            try:
                if revision is None and process is not None:
                    revision = process.revision(workspace)
                elif revision is None:
                    revision = compute_window(workspace, window, now(), say, include_late=include_late)
                computed[window] = revision
            except BillingError as error:
                computed[window] = left_out_window(window, error) or error
                if computed[window] is error:
                    break  # what was computed before is still settled
            if processes.pop(window, None) is not None:
                start_next()
        # Each window is rated with all that were computed: a meter that changed is the same in all of them.
        beside = [revision for revision in computed.values() if isinstance(revision, WindowRevision)]
        for outcome in computed.values():
            if isinstance(outcome, BillingError):
                raise outcome
            if isinstance(outcome, LeftOutWindow):
                yield outcome
            else:
                yield settle_window(workspace, outcome, now(), say, beside)
    finally:
        for process in processes.values():
            process.end()


def _accepted_and_current(
    workspace: Workspace, window: BillingWindow, include_late: bool, collected: CollectedEvents
) -> WindowRevision | None:
    revision = current_revision(workspace, window, include_late=include_late, collected=collected)
    return revision if revision is not None and revision.state is RevisionState.ACCEPTED else None


class _WindowProcess:
    """One process that computes the usage of a window."""

    def __init__(self, folder: Path, window: BillingWindow, at: datetime, include_late: bool) -> None:
        self._window = window
        self._process = ChildProcess(__name__)
        self._process.send((folder, window, at, include_late))

    def revision(self, workspace: Workspace) -> WindowRevision:
        """Wait for the end and return the computed revision; raise what the window was refused with."""
        try:
            return find_revision(workspace, self._window.window_id, self._process.answer())
        except ProcessDiedError as error:
            raise NotReadyError(
                "backfill.process_died",
                f"the process that computed window {self._window.window_id} ended before it was done",
                [
                    f"its exit code is {error.exit_code}; memory may have run out, or somebody killed it",
                    "the windows before it stand; the same call goes on from here; --at-most 1 takes less memory",
                ],
            ) from error
        finally:
            self.end()

    def end(self) -> None:
        self._process.end()


def _compute(task: tuple[Path, BillingWindow, datetime, bool]) -> int:
    folder, window, at, include_late = task
    workspace = open_workspace(folder)
    return compute_window(workspace, window, at, lambda _: None, include_late=include_late).revision


if __name__ == "__main__":
    serve(_compute)
