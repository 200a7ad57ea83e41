"""The harness of the collect benchmark: what a run costs is counted whole, a wrong answer fails, and tables say so."""

from __future__ import annotations

import json
import os
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks.collect.__main__ import BENCHMARK
from benchmarks.collect.scenarios import SCENARIOS, Harness, check_events, feeds
from benchmarks.collect.table import COMPARISONS, SECTION, render
from benchmarks.measure import Cost, measure
from benchmarks.tables import DOCUMENT, ratios

BURN = "import time\nwhile time.process_time() < 0.5: pass\n"
HOLD = "import time\nheld = bytearray(b'x') * (64 << 20)\n"


def cost_of(script: str, folder: Path) -> Cost:
    return measure([sys.executable, "-c", script], 1, dict(os.environ), folder)


# ---- what a run costs ----


def test_cpu_of_a_process_that_outlives_its_parent_is_counted(tmp_path: Path) -> None:
    child = f"os.setsid()\nif os.fork() == 0: exec({BURN!r})\nos._exit(0)"
    orphan = f"import os\nif os.fork() == 0: exec({child!r})"

    cost = cost_of(orphan, tmp_path)

    assert 0.45 < cost.cpu_seconds < 1.5


def test_a_page_that_two_processes_share_counts_once(tmp_path: Path) -> None:
    both = f"{HOLD}import os\nchild = os.fork()\ntime.sleep(0.5)\nif child: os.waitpid(child, 0)"

    cost = cost_of(both, tmp_path)

    assert 64 << 20 <= cost.peak_bytes < 110 << 20


def test_pages_of_each_process_are_added(tmp_path: Path) -> None:
    each = f"import os\nchild = os.fork()\n{HOLD}time.sleep(0.5)\nif child: os.waitpid(child, 0)"

    assert 128 << 20 <= cost_of(each, tmp_path).peak_bytes < 200 << 20


def test_the_last_line_that_a_program_prints_is_its_answer(tmp_path: Path) -> None:
    assert cost_of("print('progress'); print('answer')", tmp_path).last_line == "answer"


def test_a_program_that_fails_has_no_cost_but_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3(.|\n)*no disk"):
        cost_of("import sys; print('no disk', file=sys.stderr); sys.exit(3)", tmp_path)


# ---- wrong answers ----


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({}, None),
        ({"lines": 3}, "events: expected 2, got 1"),
        ({"quantity": "1.500001"}, "the sum of the quantities: expected 1.500001, got 1.500000000"),
        ({"milliseconds": 1_772_323_200_001}, "the sum of the times"),
    ],
)
def test_an_answer_that_does_not_add_up_is_refused(
    changed: dict[str, Any], finding: str | None, tmp_path: Path
) -> None:
    expected = {"lines": 2, "broken": 1, "quantity": "1.5", "milliseconds": 1_772_323_200_000, **changed}
    file = tmp_path / "events.parquet"
    duckdb.sql("SELECT 1.5::DECIMAL(38,9) AS quantity, TIMESTAMPTZ '2026-03-01T00:00:00Z' AS time").write_parquet(
        str(file)
    )

    if finding is None:
        check_events("sample", [file], "time", expected)
    else:
        with pytest.raises(RuntimeError, match="its time does not count") as refused:
            check_events("sample", [file], "time", expected)
        assert finding in str(refused.value)


# ---- whole scenarios ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mix", "broken"])
def test_a_scenario_runs_every_contestant_in_turn_and_their_answers_agree(name: str, tmp_path: Path) -> None:
    said: list[str] = []

    result = Harness(tmp_path, 2, said.append).run(SCENARIOS[name], events=2_000, pairs=1)

    labels = [entry.label for entry in SCENARIOS[name].entries]
    assert [run["label"] for run in result["runs"]] == labels
    assert all(run["wall_seconds"] > 0 and run["cpu_seconds"] > 0 and run["peak_bytes"] > 0 for run in result["runs"])
    assert result["runs"][0]["server_cpu_seconds"] > 0
    assert Decimal(result["feeds"]["clean"]["totals"]["broken"]) == 0
    assert sum("generating" in sentence for sentence in said) == 2


def test_the_feeds_are_what_the_issue_asks_for() -> None:
    by_name = feeds(10_000_000)

    assert {name: feed.events for name, feed in by_name.items()} == {
        "mix": 10_000_000,
        "clean": 10_000_000,
        "broken": 10_000_000,
        "large": 50_000_000,
        "small": 1_000_000,
    }
    assert (by_name["clean"].broken, by_name["broken"].broken) == (0.0, 0.01)
    assert by_name["small"].file_count == 1_000
    assert {entry.feed for scenario in SCENARIOS.values() for entry in scenario.entries} == set(by_name)


# ---- tables ----


def run(number: int, label: str, cpu: float, wall: float = 1.0, peak: int = 1 << 20) -> dict[str, Any]:
    return {"round": number, "label": label, "cpu_seconds": cpu, "wall_seconds": wall, "peak_bytes": peak}


RUNS = [
    *(run(1, "ours", 13.0), run(1, "duckdb", 10.0), run(1, "polars", 26.0), run(1, "fetch", 1.0)),
    *(run(2, "ours", 21.0), run(2, "duckdb", 10.0), run(2, "polars", 28.0), run(2, "fetch", 3.0)),
    *(run(3, "ours", 17.0), run(3, "duckdb", 10.0), run(3, "polars", 34.0), run(3, "fetch", 3.0)),
]


def results(runs: list[dict[str, Any]]) -> dict[str, Any]:
    feed = {"files": 1, "totals": {"lines": 100, "broken": 1}}
    entries = [
        ("ours", "ours", "mix"),
        ("duckdb", "duckdb_bare", "mix"),
        ("polars", "polars_scan", "clean"),
        ("fetch", "fetch", "mix"),
    ]
    mix = {
        "command": "python -m benchmarks.collect",
        "measured_on": "2026-01-01",
        "cores": 2,
        "machine": {"cores": 4, "processor": "sample", "memory_gib": 8},
        "versions": {"duckdb": "2.0.0"},
        "entries": {
            label: {"label": label, "contestant": contestant, "feed": feed} for label, contestant, feed in entries
        },
        "feeds": {"mix": feed, "clean": feed},
        "runs": runs,
    }
    return {"scenarios": {"mix": mix}}


def test_a_ratio_is_taken_within_a_round_and_the_download_is_left_out_where_it_says_so() -> None:
    without_fetch, whole = COMPARISONS[0], COMPARISONS[1]

    assert ratios(whole, RUNS) == [1.3, 2.1, 1.7]
    assert ratios(without_fetch, RUNS) == [1.2, 1.8, 1.4]


def test_the_table_shows_median_and_spread_and_whether_the_goal_is_reached() -> None:
    rendered = render(results(RUNS))

    assert "| mix | ours without fetching / bare DuckDB | CPU | **1.40** (1.20–1.80) | 1.5 | yes | 3 |" in rendered
    assert "| mix | ours / bare DuckDB | CPU | **1.70** (1.30–2.10) | 1.5 | **no** | 3 |" in rendered
    assert "Medians of 3 rounds" in rendered


def test_the_tables_replace_what_stands_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    before = document.read_text(encoding="utf-8")

    SECTION.write_into(document, "a table")

    after = document.read_text(encoding="utf-8")
    assert SECTION.between_markers(after) == "a table"
    assert after.replace("a table", SECTION.between_markers(before)) == before


def test_the_document_shows_the_committed_results() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")

    assert SECTION.between_markers(document) == render(json.loads(BENCHMARK.results.read_text(encoding="utf-8")))
