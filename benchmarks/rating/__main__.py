"""Runs rating and prints its table.

    python -m benchmarks.rating --accounts 100_000 --skus 40 --render

Usage is made before anything is measured. ``--render`` keeps the results in benchmarks/results/rating.json and writes
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

from benchmarks.command import Benchmark, say
from benchmarks.measure import costs, measure, warm
from benchmarks.rating.table import MEANINGS, SECTION, render

SIZES = {"accounts": 100_000, "skus": 40}
BENCHMARK = Benchmark(SECTION, __doc__.splitlines()[0], ("rating",), ("duckdb", "pyarrow"), render, SIZES)


def run(_name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run each part as often as pairs are asked for; all of them come to the same number of lines."""
    options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rating-", dir=options.cache) as scratch:
        folder = Path(scratch).resolve()
        program = [
            sys.executable,
            "-m",
            "benchmarks.rating.ours",
            str(folder),
            str(options.accounts),
            str(options.skus),
        ]
        subprocess.run([*program, "prepare"], check=True, stdout=subprocess.DEVNULL)
        runs: list[dict[str, Any]] = []
        line_counts = set()
        for number in range(1, options.pairs + 1):
            for label in MEANINGS:
                warm(folder)
                cost = measure([*program, label], options.cores, dict(environ), folder)
                line_counts.add(int(cost.last_line))
                runs.append({"round": number, "label": label, **costs(cost)})
                say(
                    f"{number}/{options.pairs} {label:9} wall {cost.wall_seconds:6.1f} s  "
                    f"cpu {cost.cpu_seconds:6.1f} s  peak {cost.peak_bytes >> 20:5,} MiB"
                )
    if len(line_counts) != 1:
        raise RuntimeError(f"the raters come to different numbers of lines: {sorted(line_counts)}")
    return {
        "runs": runs,
        "entries": dict(MEANINGS),
        "usage_row_count": options.accounts * options.skus,
        "line_count": line_counts.pop(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    BENCHMARK.main(arguments, ("rating",), run)


if __name__ == "__main__":
    main()
