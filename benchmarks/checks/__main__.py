"""Runs the suites of events and prints what they cost.

    python -m benchmarks.checks --events 5_000_000 --render

Events are made before anything is measured. ``--render`` keeps the results in benchmarks/results/checks.json and writes
their table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from os import environ
from pathlib import Path
from typing import Any

from benchmarks.checks.table import SECTION, render
from benchmarks.command import Benchmark, say
from benchmarks.measure import costs, measure, warm

PACKAGES = ("duckdb", "great-expectations")
BENCHMARK = Benchmark(SECTION, __doc__.splitlines()[0], ("checks",), PACKAGES, render, {"events": 5_000_000})


def run(_name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Check as often as pairs are asked for."""
    options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checks-", dir=options.cache) as scratch:
        folder = Path(scratch).resolve()
        program = [sys.executable, "-m", "benchmarks.checks.ours", str(folder), str(options.events)]
        subprocess.run([*program, "prepare"], check=True)
        runs: list[dict[str, Any]] = []
        expectation_counts = set()
        for number in range(1, options.pairs + 1):
            warm(folder)
            cost = measure([*program, "check"], options.cores, dict(environ), folder)
            expectation_counts.add(int(cost.last_line))
            runs.append({"round": number, "label": "checks", **costs(cost)})
            say(
                f"{number}/{options.pairs} wall {cost.wall_seconds:6.1f} s  cpu {cost.cpu_seconds:6.1f} s  "
                f"peak {cost.peak_bytes >> 20:5,} MiB"
            )
    return {
        "runs": runs,
        "entries": {"checks": "every expectation of the suites of raw events and usage events"},
        "event_count": options.events,
        "expectation_count": expectation_counts.pop(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    BENCHMARK.main(arguments, ("checks",), run)


if __name__ == "__main__":
    main()
