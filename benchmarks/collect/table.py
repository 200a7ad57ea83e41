"""The results of collect as tables, and what the issue of this step asks for."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.tables import MIB, RATIO_HEADER, Comparison, Section, footnote, peak_row, ratio_rows, table

SECTION = Section("collect")

COMPARISONS = (
    Comparison("mix", "ours without fetching / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5, "fetch"),
    Comparison("mix", "ours / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5),
    Comparison("mix", "ours / bare DuckDB", "ours", "duckdb", "wall_seconds", 1.5),
    Comparison("mix", "ours without fetching / Polars", "ours", "polars", "cpu_seconds", 1.0, "fetch"),
    Comparison("mix", "ours / Polars", "ours", "polars", "cpu_seconds", 1.0),
    Comparison("mix", "ours / Polars", "ours", "polars", "wall_seconds", 1.0),
    Comparison("small", "ours without fetching / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5, "fetch"),
    Comparison("small", "ours / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5),
    Comparison("small", "ours / bare DuckDB", "ours", "duckdb", "wall_seconds", 1.5),
    Comparison("broken", "1 % broken / none broken", "ours", "clean", "cpu_seconds", 1.5),
    Comparison("memory", "five times the events", "ours", "fewer", "peak_bytes", 1.2),
)
MEMORY_GOAL_BYTES = 10**9
MEANINGS = {
    "ours": "ours (`billing collect`)",
    "duckdb": "bare DuckDB",
    "polars": "Polars",
    "fetch": "only the download",
    "clean": "ours, no line broken",
    "fewer": "ours, a fifth of the events",
}


def render(results: Mapping[str, Any]) -> str:
    """Return the tables of the results, in Markdown, scenario by scenario."""
    parts = [_ratio_table(results["scenarios"])]
    parts += [_run_table(name, scenario) for name, scenario in results["scenarios"].items()]
    return "\n\n".join(parts)


def _ratio_table(scenarios: Mapping[str, Any]) -> str:
    rows = ratio_rows(COMPARISONS, scenarios)
    peaks = [run["peak_bytes"] for s in scenarios.values() for run in s["runs"] if _is_ours(s, run)]
    if peaks:
        rows.append(peak_row("all", "ours, highest peak of all runs", peaks, MEMORY_GOAL_BYTES))
    return table(RATIO_HEADER, rows)


def _is_ours(scenario: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    return bool(scenario["entries"][run["label"]]["contestant"] == "ours")


def _run_table(name: str, scenario: Mapping[str, Any]) -> str:
    rows = []
    for label, entry in scenario["entries"].items():
        runs = [run for run in scenario["runs"] if run["label"] == label]
        feed = scenario["feeds"][entry["feed"]]
        server = [run["server_cpu_seconds"] for run in runs if "server_cpu_seconds" in run]
        rows.append(
            (
                MEANINGS[label],
                f"{feed['totals']['lines']:,}",
                f"{feed['files']:,}",
                f"{feed['totals']['broken']:,}",
                f"{median(run['wall_seconds'] for run in runs):.1f}",
                f"{median(run['cpu_seconds'] for run in runs):.1f}",
                f"{median(server):.1f}" if server else "",
                f"{max(run['peak_bytes'] for run in runs) / MIB:,.0f}",
                f"{feed['totals']['lines'] / median(run['wall_seconds'] for run in runs) / 1e6:.2f}"
                if entry["contestant"] != "fetch"
                else "",
            )
        )
    header = ("program", "lines", "files", "broken", "wall s", "CPU s", "S3 server's CPU s", "peak MiB", "M lines/s")
    return f"### Scenario `{name}`\n\n{table(header, rows)}\n\n{footnote(scenario)}"
