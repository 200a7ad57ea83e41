"""The results of a window as tables, and what the issue of this step asks for."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.tables import MIB, RATIO_HEADER, Comparison, Section, footnote, peak_row, ratio_rows, table

SECTION = Section("window")

COMPARISONS = (
    Comparison("window", "ours / one DuckDB statement", "ours", "duckdb", "wall_seconds", 1.2),
    Comparison("window", "ours / one DuckDB statement", "ours", "duckdb", "cpu_seconds", 1.2),
    Comparison("window", "ours / one DuckDB statement, in order", "ours", "ordered", "wall_seconds", 1.2),
    Comparison("window", "ours / one DuckDB statement, in order", "ours", "ordered", "cpu_seconds", 1.2),
    Comparison("window", "ours / Polars streaming", "ours", "polars", "wall_seconds", 1.0),
    Comparison("window", "ours / Polars streaming", "ours", "polars", "cpu_seconds", 1.0),
    Comparison("window", "ours / chDB", "ours", "chdb", "wall_seconds", 1.0),
    Comparison("window", "ours / chDB", "ours", "chdb", "cpu_seconds", 1.0),
    Comparison("large", "ours / one DuckDB statement", "ours", "duckdb", "wall_seconds", 1.2),
    Comparison("large", "ours / one DuckDB statement", "ours", "duckdb", "cpu_seconds", 1.2),
    Comparison("large", "ours / one DuckDB statement, in order", "ours", "ordered", "wall_seconds", 1.2),
    Comparison("large", "ours / one DuckDB statement, in order", "ours", "ordered", "cpu_seconds", 1.2),
    Comparison("dedupe", "ours / rewriting with `row_number()`", "ours", "rewrite", "wall_seconds", 0.25),
    Comparison("dedupe", "ours / rewriting with `row_number()`", "ours", "rewrite", "cpu_seconds", 0.25),
    Comparison("dedupe_large", "ours / rewriting with `row_number()`", "ours", "rewrite", "wall_seconds", 0.25),
    Comparison("dedupe_large", "ours / rewriting with `row_number()`", "ours", "rewrite", "cpu_seconds", 0.25),
    Comparison("look_back", "with 48 h before the window / without", "ours", "plain", "wall_seconds", 2.5),
    Comparison("look_back", "with 48 h before the window / without", "ours", "plain", "cpu_seconds", 2.5),
    Comparison("memory", "five times the events", "ours", "fewer", "wall_seconds", 5.5),
    Comparison("memory", "five times the events", "ours", "fewer", "cpu_seconds", 5.5),
)
MEMORY_GOAL_BYTES = 2_200_000_000
MEANINGS = {
    "ours": "ours",
    "duckdb": "one DuckDB statement",
    "ordered": "one DuckDB statement, in order",
    "polars": "Polars, streaming",
    "chdb": "chDB",
    "rewrite": "DuckDB, `row_number()` rewrite",
    "plain": "ours, no look-back",
    "fewer": "ours, a fifth of the events",
}


def render(results: Mapping[str, Any]) -> str:
    """Return the tables of the results, in Markdown, scenario by scenario."""
    scenarios = results["scenarios"]
    rows = ratio_rows(COMPARISONS, scenarios)
    if "memory" in scenarios:
        peaks = [run["peak_bytes"] for run in scenarios["memory"]["runs"]]
        rows.append(peak_row("memory", "ours, highest peak", peaks, MEMORY_GOAL_BYTES))
    parts = [table(RATIO_HEADER, rows)] if rows else []
    parts += [_run_table(name, scenario) for name, scenario in scenarios.items()]
    return "\n\n".join(parts)


def _run_table(name: str, scenario: Mapping[str, Any]) -> str:
    rows = []
    for label, entry in scenario["entries"].items():
        runs = [run for run in scenario["runs"] if run["label"] == label]
        events, wall = scenario["events"][entry["lake"]], median(run["wall_seconds"] for run in runs)
        rows.append(
            (
                MEANINGS[label] + (f" (`{' + '.join(entry['steps'])}`)" if entry["steps"] else ""),
                f"{events:,}",
                f"{wall:.1f}",
                f"{median(run['cpu_seconds'] for run in runs):.1f}",
                f"{max(run['peak_bytes'] for run in runs) / MIB:,.0f}",
                f"{events / wall / 1e6:.2f}",
            )
        )
    header = ("program", "events of the window", "wall s", "CPU s", "peak MiB", "M events/s")
    return f"### Scenario `{name}`\n\n{table(header, rows)}\n\n{footnote(scenario)}"
