"""Runs the scenarios of collect and prints their tables.

    python -m benchmarks.collect --events 10_000_000 --pairs 5
    python -m benchmarks.collect --scenarios memory --events 10_000_000 --render

Feeds are generated once into the cache. ``--render`` keeps the results in benchmarks/results/collect.json and writes
their tables into docs/benchmarks.md; a scenario that is not run keeps its earlier results.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.collect.scenarios import SCENARIOS, Harness
from benchmarks.collect.table import SECTION, render
from benchmarks.command import Benchmark, say

DEFAULT_SCENARIOS = ("mix", "small", "broken", "memory")
BENCHMARK = Benchmark(
    SECTION, __doc__.splitlines()[0], tuple(SCENARIOS), ("duckdb", "polars", "pyarrow", "isal"), render
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    BENCHMARK.main(
        arguments,
        DEFAULT_SCENARIOS,
        lambda name, options: Harness(options.cache.resolve(), options.cores, say).run(
            SCENARIOS[name], options.events, options.pairs
        ),
    )


if __name__ == "__main__":
    main()
