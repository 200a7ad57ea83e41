"""Backfill: many windows in order, several at once, in a way that a second call finishes what a first one did not.

What takes long, to deduplicate and to aggregate, comes first, in a process for each window, at most so many at once.
Rating, the gates and acceptance follow here, one window after the other in their order. A draft takes the new revision
of each window that has an accepted one already, so that a meter that changed its aggregation or unit is the same in all
of them; else the result is that of running the windows one by one. A process that was started ends itself when this
one is gone, also by a kill; what it published by then is found again.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pipeline.adapters.warehouse import Warehouse
from pipeline.core.errors import BillingError, InputError, NotReadyError
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import BillingWindow, windows_between
from pipeline.steps.aggregate import find_revision
from pipeline.steps.deduplicate import late_event_count
from pipeline.steps.inputs import current_pins
from pipeline.steps.run import LeftOutWindow, Say, WindowResult, compute_window, settle_window
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
    current = {window: _current_revision(workspace, window, include_late) for window in windows}
    to_compute = [window for window in windows if current[window] is None]
    ahead = iter(to_compute if at_most > 1 else [])
    processes: dict[BillingWindow, _WindowProcess] = {}

    def start_next() -> None:
        if (window := next(ahead, None)) is not None:
            processes[window] = _WindowProcess(workspace.project.folder, window, now(), include_late)

    try:
        for _ in range(at_most):
            start_next()
        computed: dict[BillingWindow, WindowRevision | BillingError] = {}
        for window in windows:
            revision, process = current[window], processes.get(window)
            try:
                if revision is None and process is not None:
                    revision = process.revision(workspace)
                elif revision is None:
                    revision = compute_window(workspace, window, now(), say, include_late=include_late)
                computed[window] = revision
            except BillingError as error:
                computed[window] = error
                if not _is_left_out(error):
                    break  # what was computed before is still settled
            if processes.pop(window, None) is not None:
                start_next()
        # Each window is rated with all that were computed: a meter that changed is the same in all of them.
        beside = [revision for revision in computed.values() if isinstance(revision, WindowRevision)]
        for window, outcome in computed.items():
            if isinstance(outcome, WindowRevision):
                yield settle_window(workspace, outcome, now(), say, beside)
            elif _is_left_out(outcome):
                yield LeftOutWindow(window.window_id, outcome.code, outcome.summary, outcome.details)
            else:
                raise outcome
    finally:
        for process in processes.values():
            process.end()


def _is_left_out(refusal: BillingError) -> bool:
    return isinstance(refusal, NotReadyError) and refusal.code == "window.incomplete"


def _current_revision(workspace: Workspace, window: BillingWindow, include_late: bool) -> WindowRevision | None:
    """Return the accepted revision of a window if it is all that would come out by now."""
    newest = workspace.control_plane.latest_revision(window.window_id)
    if newest is None or newest.state is not RevisionState.ACCEPTED:
        return None
    if current_pins(workspace, window, newest) != newest.pins:
        return None
    if include_late:
        with Warehouse(workspace.scratch) as warehouse:
            if late_event_count(workspace, warehouse, newest) > 0:
                return None
    return newest


class _WindowProcess:
    """One process that computes the usage of a window and ends."""

    def __init__(self, folder: Path, window: BillingWindow, at: datetime, include_late: bool) -> None:
        # -P: a folder `pipeline` in the current directory is not this package.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.steps.backfill"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("a process is started with pipes")
        self._window = window
        with suppress(OSError):  # it ended already: wait() says so
            pickle.dump((folder, window, at, include_late), self._process.stdin)
            self._process.stdin.flush()

    def revision(self, workspace: Workspace) -> WindowRevision:
        """Wait for the end and return the computed revision; raise what the window was refused with."""
        try:
            answer = pickle.load(self._process.stdout)  # type: ignore[arg-type]  # noqa: S301 - our own process wrote it
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise NotReadyError(
                "backfill.process_died",
                f"the process that computed window {self._window.window_id} ended before it was done",
                [
                    f"its exit code is {self._process.poll()}; memory may have run out, or somebody killed it",
                    "the windows before it stand; the same call goes on from here; --at-most 1 takes less memory",
                ],
            ) from error
        finally:
            self.end()
        if isinstance(answer, BillingError):
            raise answer
        if not isinstance(answer, int):
            raise RuntimeError(f"the process of window {self._window.window_id} failed:\n{answer}")
        return find_revision(workspace, self._window.window_id, answer)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


# In the process of a window ------------------------------------------------------------------------------------------


def _end_with_the_caller() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as output:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come before the answer
        task = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own process wrote it
        threading.Thread(target=_end_with_the_caller, daemon=True).start()
        outcome: BillingError | int | str
        try:
            project, task_window, task_at, with_late = task
            outcome = compute_window(
                open_workspace(project), task_window, task_at, lambda _: None, include_late=with_late
            ).revision
        except BillingError as refusal:
            outcome = refusal
        except Exception:
            outcome = traceback.format_exc()
        pickle.dump(outcome, output)
