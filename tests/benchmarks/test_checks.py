"""The harness of the checks' benchmark: every expectation holds on its events, and the table says what is kept."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.checks.__main__ import BENCHMARK, run
from benchmarks.checks.ours import SUITES
from benchmarks.checks.table import SECTION, render
from benchmarks.tables import DOCUMENT
from pipeline.adapters.checks import load_suite


@pytest.mark.slow
def test_every_expectation_holds_on_the_events_that_are_measured(tmp_path: Path) -> None:
    result = run("checks", Namespace(events=20_000, pairs=1, cores=2, cache=tmp_path))

    assert result["expectation_count"] == sum(len(load_suite(dataset).expectations) for dataset in SUITES)
    assert not list(tmp_path.iterdir())


def test_the_document_shows_the_results_that_are_kept() -> None:
    shown = SECTION.between_markers(DOCUMENT.read_text(encoding="utf-8"))

    assert not BENCHMARK.results.exists() or shown == render(json.loads(BENCHMARK.results.read_text(encoding="utf-8")))
