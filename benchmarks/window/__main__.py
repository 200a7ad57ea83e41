"""Runs the scenarios of a billing window and prints their tables.

    python -m benchmarks.window --events 10_000_000 --pairs 5
    python -m benchmarks.window --scenarios memory --events 10_000_000 --render

Lakes are made once into the cache, by the pipeline's own collect. ``--render`` keeps the results in
benchmarks/results/window.json and writes their tables into docs/benchmarks.md; a scenario that is not run keeps its
earlier results.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.command import Benchmark, say
from benchmarks.window.scenarios import SCENARIOS, Harness
from benchmarks.window.table import SECTION, render

BENCHMARK = Benchmark(SECTION, __doc__.splitlines()[0], tuple(SCENARIOS), ("duckdb", "polars", "chdb"), render)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    BENCHMARK.main(
        arguments,
        tuple(SCENARIOS),
        lambda name, options: Harness(options.cache.resolve(), options.cores, say).run(
            SCENARIOS[name], options.events, options.pairs
        ),
    )


if __name__ == "__main__":
    main()
