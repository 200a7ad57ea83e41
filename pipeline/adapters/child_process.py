"""A process that runs a module of ours by this interpreter: tasks go in by its standard input, answers come back.

It is no child of ``multiprocessing``, because the tasks of a Celery worker must not have any, and nothing is forked,
because a fork of a process with threads (boto3, Arrow, Airflow) can hang. When the process that started it is gone,
also by a kill, its input ends and it ends itself at once.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pipeline.core.errors import BillingError

EXIT_SECONDS_MAX = 5


class ProcessDiedError(Exception):
    """The process ended before it answered; ``exit_code`` is negative for a signal."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class ChildProcess:
    """One process and its pipes. ``ask`` raises what the task raised; a defect comes with its traceback."""

    def __init__(self, module: str) -> None:
        # -P: a folder `pipeline` in the current directory is not this package.
        command = [sys.executable, "-P", "-m", module]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("a process is started with pipes")
        self._tasks, self._answers = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, task: Any) -> None:
        """Give it a task; one that is gone already says so when it is asked for the answer."""
        with suppress(OSError):
            pickle.dump(task, self._tasks)
            self._tasks.flush()

    def answer(self) -> Any:
        """Wait for the answer to the first task that has none."""
        try:
            answer = pickle.load(self._answers)  # noqa: S301 - our own process wrote it
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_SECONDS_MAX)
            raise ProcessDiedError(self._process.poll()) from error
        if isinstance(answer, BillingError):
            raise answer
        if isinstance(answer, _Defect):
            raise RuntimeError(f"a process that ran {self._process.args!r} failed:\n{answer.traceback}")
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._tasks, self._answers):
            with suppress(OSError):  # what it was sent and did not read
                pipe.close()


def spread(
    module: str,
    work: Callable[[Any], Any],
    tasks: Sequence[Any],
    process_count: int,
    on_death: Callable[[ProcessDiedError], Exception],
) -> list[Any]:
    """Return what the tasks come to, in their order: this process does them, and others that serve the module.

    The first task that fails ends the rest and is raised; of a process that is gone, what ``on_death`` makes of it.
    """
    waiting = deque(enumerate(tasks))
    answers: list[Any] = [None] * len(tasks)
    failures: list[BaseException] = []

    def work_off(do: Callable[[Any], Any]) -> None:
        with suppress(IndexError):
            while not failures:
                number, task = waiting.popleft()
                try:
                    answers[number] = do(task)
                except ProcessDiedError as error:
                    failure = on_death(error)
                    failure.__cause__ = error
                    failures.append(failure)
                except BaseException as error:
                    failures.append(error)

    def ask(process: ChildProcess, task: Any) -> Any:
        process.send(task)
        return process.answer()

    processes = [ChildProcess(module) for _ in range(min(process_count, len(tasks)) - 1)]
    threads = [threading.Thread(target=work_off, args=(partial(ask, one),), daemon=True) for one in processes]
    try:
        for thread in threads:
            thread.start()
        work_off(work)
        for thread in threads:
            thread.join()
    finally:
        for process in processes:
            process.end()
    if failures:
        raise failures[0]
    return answers


class _Defect:
    def __init__(self, text: str) -> None:
        self.traceback = text


def serve(work: Callable[[Any], Any]) -> None:
    """Be such a process: answer one task after the other, for as long as somebody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it decides what an interrupt means
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come between the answers
        threading.Thread(target=_receive, args=(tasks,), daemon=True).start()
        while True:
            try:
                answer = work(tasks.get())
            except BillingError as refusal:
                answer = refusal
            except Exception:
                answer = _Defect(traceback.format_exc())
            pickle.dump(answer, answers)
            answers.flush()


def _receive(tasks: queue.SimpleQueue[Any]) -> None:
    """Pass tasks on as they come; end the process when nobody is there to send more."""
    try:
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - the process that started this one wrote it
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)
