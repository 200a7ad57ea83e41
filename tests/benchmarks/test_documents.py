"""The benchmark of documents: the same bundle each time, and a table of what was measured."""

from pathlib import Path

import pytest

from benchmarks.documents.__main__ import BENCHMARK
from benchmarks.documents.bundle import make_bundle
from benchmarks.documents.ours import main
from benchmarks.documents.table import SECTION, render
from benchmarks.tables import DOCUMENT


def test_the_bundle_is_the_same_each_time_and_every_document_of_it_is_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_bundle(tmp_path / "first", 12), make_bundle(tmp_path / "second", 12)

    assert (first / "documents.jsonl").read_bytes() == (second / "documents.jsonl").read_bytes()
    main(str(first), str(tmp_path / "out"), "html", "12", "1")
    assert capsys.readouterr().out == "12 0\n"
    assert len(list((tmp_path / "out").rglob("*.html"))) == 12


def test_the_table_holds_the_goal_against_as_many_invoices_as_were_rendered() -> None:
    run = {"label": "ours", "round": 0, "wall_seconds": 2.0, "cpu_seconds": 4.0, "peak_bytes": 1 << 20}
    facts = {"machine": {"cores": 2, "processor": "x", "memory_gib": 1}, "versions": {}, "measured_on": "d", "cores": 2}
    scenario = {**facts, "command": "c", "entries": {"ours": {}}, "invoices": 10_000, "runs": [run]}

    assert "| pages | 10,000 | 2.0 | 4.0 | 1 | 5,000 | 1.5 | **no** |" in render({"scenarios": {"html": scenario}})
    assert "| 1.5 | yes |" in render({"scenarios": {"html": {**scenario, "runs": [{**run, "wall_seconds": 1.5}]}}})


def test_the_document_has_the_place_for_the_tables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert text.count(SECTION.begin) == text.count(SECTION.end) == 1
    assert BENCHMARK.results.name == "documents.json"
