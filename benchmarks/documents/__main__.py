"""Makes documents of line items, finalises them, renders them to pages and PDFs, and prints how long it took.

    python -m benchmarks.documents --invoices 100_000
    python -m benchmarks.documents --invoices 100_000 --scenarios html again --pairs 3 --render

The bundle of documents is made once into the cache. ``--render`` keeps the results in
benchmarks/results/documents.json and writes their tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import Benchmark, say
from benchmarks.documents.bundle import make_bundle
from benchmarks.documents.table import PDF_SHARE, SECTION, render
from benchmarks.measure import costs, measure, warm

SCENARIOS = ("drafts", "finalise", "html", "again", "pdf")
BENCHMARK = Benchmark(
    SECTION, __doc__.splitlines()[0], SCENARIOS, ("jinja2", "msgspec", "typst"), render, {"invoices": 100_000}
)


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one scenario so many times; files that are missing or too many end the benchmark."""
    if name in ("drafts", "finalise"):
        return _run_close(name, options)
    count = max(1, options.invoices // PDF_SHARE) if name == "pdf" else options.invoices
    bundle = options.cache.resolve() / f"documents-{options.invoices}"
    if not (bundle / "places.json").exists():
        say(f"makes {options.invoices:,} documents")
        make_bundle(bundle, options.invoices)
    warm(bundle)
    runs = []
    for number in range(options.pairs):
        with tempfile.TemporaryDirectory(dir=bundle) as folder:
            out = Path(folder) / "out"
            program = [sys.executable, "-m", "benchmarks.documents.ours", str(bundle), str(out)]
            command = [*program, "pdf" if name == "pdf" else "html", str(count), str(options.cores)]
            cost = measure(command, options.cores, dict(os.environ), Path(folder))
            expected = f"{count} 0"
            if name == "again":
                cost, expected = measure(command, options.cores, dict(os.environ), Path(folder)), f"0 {count}"
            if cost.last_line != expected:
                raise RuntimeError(f"{name}: expected {expected!r} files written and current, got {cost.last_line!r}")
            shutil.rmtree(out)
        runs.append({"label": "ours", "round": number, **costs(cost)})
        say(f"{name}: {count:,} in {cost.wall_seconds:.1f} s")
    return {"entries": {"ours": {}}, "invoices": count, "runs": runs}


def _run_close(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part of a close so many times; it measures itself, because the other part is in the same process."""
    folder = options.cache.resolve() / "close"
    program = [sys.executable, "-m", "benchmarks.documents.close", str(folder), str(options.invoices)]
    runs = []
    for number in range(options.pairs):
        with tempfile.TemporaryDirectory() as scratch:
            cost = measure([*program, str(options.cores)], options.cores, dict(os.environ), Path(scratch))
        part = json.loads(cost.last_line)[name]
        runs.append({"label": "ours", "round": number, **costs(cost), **part})
        say(f"{name}: {options.invoices:,} in {part['wall_seconds']:.1f} s")
    return {"entries": {"ours": {}}, "invoices": options.invoices, "runs": runs}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    BENCHMARK.main(arguments, SCENARIOS, run)


if __name__ == "__main__":
    main()
