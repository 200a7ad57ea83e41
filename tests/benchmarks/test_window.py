"""The harness of the window benchmark: every contestant answers the same, a wrong answer fails, tables say what is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks.tables import DOCUMENT
from benchmarks.window.__main__ import BENCHMARK
from benchmarks.window.answers import USAGE_COLUMNS, UsageAnswer, read_usage, require_same
from benchmarks.window.lake import SUMMARY, lake_of
from benchmarks.window.scenarios import SCENARIOS, Harness, feeds
from benchmarks.window.table import COMPARISONS, MEANINGS, SECTION, render

EVENTS = 20_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def usage_answer(folder: Path, rows: str) -> UsageAnswer:
    path = folder / "usage.parquet"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"COPY (SELECT account_id, sku, region, TIMESTAMPTZ '2026-03-01 00:00:00Z' AS grain_start, quantity, "
            f"event_count FROM (VALUES {rows}) AS usage (account_id, sku, region, quantity, event_count)) TO '{path}'"
        )
    return read_usage([path], USAGE_COLUMNS)


# ---- runs ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["window", "dedupe", "aggregate", "look_back"])
def test_a_scenario_runs_every_contestant_and_their_answers_agree(name: str, cache: Path) -> None:
    said: list[str] = []

    result = Harness(cache, 2, said.append).run(SCENARIOS[name], events=EVENTS, pairs=1)

    assert [run["label"] for run in result["runs"]] == [entry.label for entry in SCENARIOS[name].entries]
    assert all(run["wall_seconds"] > 0 and run["cpu_seconds"] > 0 and run["peak_bytes"] > 0 for run in result["runs"])
    assert all(0.95 * EVENTS < events <= EVENTS for events in result["events"].values())


@pytest.mark.slow
def test_a_lake_is_made_once_and_again_when_its_feed_is_another(cache: Path) -> None:
    said: list[str] = []
    feed = feeds(EVENTS)["day"]
    first = lake_of(cache, "day", feed, lambda _: None)
    summary = (first.folder / SUMMARY).read_text(encoding="utf-8")

    assert lake_of(cache, "day", feed, said.append) == first
    assert said == []

    (first.folder / SUMMARY).write_text(summary.replace('"seed": 1', '"seed": 2'), encoding="utf-8")
    lake_of(cache, "day", feed, said.append)
    assert len(said) == 1


def test_a_scenario_has_a_meaning_for_each_label_and_a_lake_for_each_entry() -> None:
    entries = [entry for scenario in SCENARIOS.values() for entry in scenario.entries]

    assert {entry.label for entry in entries} == set(MEANINGS)
    assert {entry.lake for entry in entries} == set(feeds(1))
    labels = {name: {entry.label for entry in scenario.entries} for name, scenario in SCENARIOS.items()}
    assert all({one.numerator, one.denominator} <= labels[one.scenario] for one in COMPARISONS)


def test_the_feeds_are_what_the_issue_asks_for() -> None:
    by_name = feeds(10_000_000)

    assert {name: feed.events for name, feed in by_name.items()} == {
        "day": 10_000_000,
        "days": 30_000_000,
        "large": 50_000_000,
    }
    assert all((feed.duplicates, feed.accounts) == (0.02, 100_000) for feed in by_name.values())


# ---- answers ----


def test_usage_in_another_order_is_the_same_answer(tmp_path: Path) -> None:
    first = usage_answer(tmp_path, "('a', 'x', 'eu', 1.5, 1), ('b', 'x', 'eu', 2, 3)")
    second = usage_answer(tmp_path, "('b', 'x', 'eu', 2, 3), ('a', 'x', 'eu', 1.5, 1)")

    require_same("ours", first, second)

    assert first.events == 4


@pytest.mark.parametrize(
    "rows",
    [
        "('a', 'x', 'eu', 1.5, 1)",
        "('a', 'x', 'eu', 1.5, 1), ('b', 'x', 'eu', 2.000000001, 3)",
        "('a', 'x', 'eu', 1.5, 1), ('b', 'x', 'eu', 2, 4)",
        "('a', 'x', 'eu', 2, 3), ('b', 'x', 'eu', 1.5, 1)",
        "('a', 'x', 'us', 1.5, 1), ('b', 'x', 'eu', 2, 3)",
    ],
)
def test_other_usage_is_refused(tmp_path: Path, rows: str) -> None:
    expected = usage_answer(tmp_path, "('a', 'x', 'eu', 1.5, 1), ('b', 'x', 'eu', 2, 3)")

    with pytest.raises(RuntimeError, match="polars made other usage"):
        require_same("polars", expected, usage_answer(tmp_path, rows))


def test_whoever_leaves_another_number_of_events_is_refused() -> None:
    with pytest.raises(RuntimeError, match="rewrite left 9 events, expected 10"):
        require_same("rewrite", 10, 9)


# ---- tables ----


def results(ours: float, peak: int) -> dict[str, Any]:
    def run(label: str, seconds: float) -> dict[str, Any]:
        return {"round": 1, "label": label, "cpu_seconds": seconds, "wall_seconds": seconds, "peak_bytes": peak}

    entries = {"ours": ["deduplicate"], "fewer": ["deduplicate"]}
    memory = {
        "command": "python -m benchmarks.window",
        "measured_on": "2026-01-01",
        "cores": 2,
        "machine": {"cores": 4, "processor": "sample", "memory_gib": 8},
        "versions": {"duckdb": "2.0.0"},
        "entries": {label: {"lake": "day", "steps": steps} for label, steps in entries.items()},
        "events": {"day": 1_000_000},
        "runs": [run("ours", ours), run("fewer", 10.0)],
    }
    return {"scenarios": {"memory": memory}}


def test_the_table_says_whether_a_goal_is_reached() -> None:
    reached, missed = render(results(55.0, 2_199_000_000)), render(results(55.1, 2_201_000_000))

    assert "| memory | five times the events | wall | **5.50** | 5.5 | yes | 1 |" in reached
    assert "| memory | five times the events | wall | **5.51** | 5.5 | **no** | 1 |" in missed
    assert "| 2,098 MiB | yes | 2 |" in reached
    assert "| 2,098 MiB | **no** | 2 |" in missed


def test_the_document_shows_the_committed_results() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")

    assert SECTION.between_markers(document) == render(json.loads(BENCHMARK.results.read_text(encoding="utf-8")))
