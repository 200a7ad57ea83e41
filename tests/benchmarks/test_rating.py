"""The harness of the rating benchmark: both raters come to the same lines, and the table says what is kept."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.rating.__main__ import BENCHMARK, run
from benchmarks.rating.table import MEANINGS, SECTION, render
from benchmarks.tables import DOCUMENT


@pytest.mark.slow
def test_every_part_runs_and_comes_to_the_same_lines(tmp_path: Path) -> None:
    result = run("rating", Namespace(accounts=20, skus=5, pairs=1, cores=2, cache=tmp_path))

    assert [one["label"] for one in result["runs"]] == list(MEANINGS)
    assert result["usage_row_count"] == 100
    assert 100 <= result["line_count"] <= 400
    assert not list(tmp_path.iterdir())


def test_the_document_shows_the_results_that_are_kept() -> None:
    shown = SECTION.between_markers(DOCUMENT.read_text(encoding="utf-8"))

    assert not BENCHMARK.results.exists() or shown == render(json.loads(BENCHMARK.results.read_text(encoding="utf-8")))
