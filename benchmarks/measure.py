"""Runs one program and says what its whole process tree cost: wall, CPU, peak memory.

CPU is user + system time of every process that the program started, directly or not: this process adopts orphans
(``PR_SET_CHILD_SUBREAPER``) and waits for all of them, so the kernel's own sum is complete. Memory is the sum of PSS
(a page shared by n processes counts 1/n in each), sampled every 100 ms; a shorter peak can be missed.

Run as ``python -m benchmarks.measure RESULT.json CORES PROGRAM [ARGUMENT ...]``.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SAMPLE_SECONDS = 0.1
_SECONDS_FOR_ORPHANS = 15.0
_PR_SET_CHILD_SUBREAPER = 36
_LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run cost, and the last line that it printed."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    last_line: str


def measure(command: list[str], cores: int, environment: dict[str, str], folder: Path) -> Cost:
    """Run a program in a process of its own that measures it; a program that fails raises ``RuntimeError``."""
    result = folder / "cost.json"
    measured = [sys.executable, "-m", "benchmarks.measure", str(result), str(cores), *command]
    done = subprocess.run(measured, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    cost: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return Cost(**cost, last_line=done.stdout.strip().rpartition("\n")[2])


def costs(cost: Cost) -> dict[str, Any]:
    """Return what is kept of a run."""
    return {"wall_seconds": cost.wall_seconds, "cpu_seconds": cost.cpu_seconds, "peak_bytes": cost.peak_bytes}


def warm(folder: Path) -> None:
    """Read every file once, so that each run finds them in the page cache."""
    buffer = bytearray(1 << 20)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def main(result: str, cores: str, *command: str) -> None:
    """Run the command on the first cores, and write what it cost as JSON; exit as the command did."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this kernel does not let a process adopt orphans")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    peak = 0
    started = time.monotonic()
    program = subprocess.Popen(command)
    while True:
        try:
            program.wait(_SAMPLE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, sum(_shared_bytes(pid) for pid in _descendants(os.getpid())))
    wall_seconds = time.monotonic() - started
    _wait_for_orphans()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {"wall_seconds": wall_seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peak}
    Path(result).write_text(json.dumps(cost), encoding="utf-8")
    raise SystemExit(program.returncode)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for task in _entries(Path(f"/proc/{parent}/task")):
            children = [int(child) for child in _text(task / "children").split()]
            found += children
            waiting += children
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    """Return what is in a file of a process; nothing if the process has gone."""
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _shared_bytes(pid: int) -> int:
    for line in _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _wait_for_orphans() -> None:
    give_up_at = time.monotonic() + _SECONDS_FOR_ORPHANS
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            if time.monotonic() > give_up_at:
                raise RuntimeError("the program left a process behind that does not end, so its CPU cannot be counted")
            time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
