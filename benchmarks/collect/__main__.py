"""Runs the scenarios of collect and prints their tables.

    python -m benchmarks.collect --events 10_000_000 --pairs 5
    python -m benchmarks.collect --scenarios memory --events 10_000_000 --render

Feeds are generated once into the cache. ``--render`` keeps the results in benchmarks/results/collect.json and writes
their tables into docs/benchmarks.md; a scenario that is not run keeps its earlier results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.collect.scenarios import BENCHMARKS, SCENARIOS, Harness
from benchmarks.collect.table import DOCUMENT, render, write_into

RESULTS = BENCHMARKS / "results" / "collect.json"
DEFAULT_SCENARIOS = ("mix", "small", "broken", "memory")
_PACKAGES = ("duckdb", "polars", "pyarrow", "isal")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collect", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=lambda text: int(text.replace("_", "")), default=10_000_000)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved rounds of each scenario but memory")
    parser.add_argument("--scenarios", nargs="+", choices=list(SCENARIOS), default=list(DEFAULT_SCENARIOS))
    parser.add_argument("--cores", type=int, default=2, help="cores that each program may use")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "usage-benchmarks")
    parser.add_argument("--render", action="store_true", help="keep the results and write docs/benchmarks.md")
    options = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.collect", *_shown(arguments if arguments else sys.argv[1:])])
    harness = Harness(options.cache.resolve(), options.cores, _say)
    results: dict[str, Any] = {"scenarios": {}}
    for name in options.scenarios:
        results["scenarios"][name] = {
            "command": command,
            "measured_on": datetime.now(UTC).date().isoformat(),
            "cores": options.cores,
            "machine": machine(),
            "versions": {"Python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
            **harness.run(SCENARIOS[name], options.events, options.pairs),
        }
        if options.render:
            keep(results)
    sys.stdout.write(render(results) + "\n")


def keep(results: dict[str, Any]) -> None:
    """Put the scenarios into the committed results, and the tables of all of them into the document."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"scenarios": {}}
    merged = {**kept["scenarios"], **results["scenarios"]}
    kept = {"scenarios": {name: merged[name] for name in SCENARIOS if name in merged}}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    write_into(DOCUMENT, render(kept))


def machine() -> dict[str, Any]:
    """Return what this machine is, without its name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": names[0] if names else platform.machine(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
    }


def _shown(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without the cache, which is a folder of one machine."""
    shown = list(arguments)
    if "--cache" in shown:
        place = shown.index("--cache")
        del shown[place : place + 2]
    return [argument for argument in shown if not argument.startswith("--cache=")]


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
