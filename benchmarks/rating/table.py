"""The results of rating as a table, and what the issue of this step asks for."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.tables import MIB, Section, footnote, table

SECTION = Section("rating")
SQL_SECONDS_MAX, SQL_CPU_SECONDS_MAX = 5.0, 10.0
MEANINGS = {
    "sql": "SQL rater: usage and terms to line items in order, written",
    "reference": "reference rater: the same usage, nothing compared",
    "both": "both, and every line compared",
}


def render(results: Mapping[str, Any]) -> str:
    """Return the table of the results, in Markdown."""
    return "\n\n".join(_table(scenario) for scenario in results["scenarios"].values())


def _table(scenario: Mapping[str, Any]) -> str:
    rows = []
    for label, meaning in MEANINGS.items():
        runs = [run for run in scenario["runs"] if run["label"] == label]
        wall = median(run["wall_seconds"] for run in runs)
        goal = f"{SQL_SECONDS_MAX:.0f} s, {SQL_CPU_SECONDS_MAX:.0f} s CPU" if label == "sql" else ""
        rows.append(
            (
                meaning,
                f"{scenario['usage_row_count']:,}",
                f"{scenario['line_count']:,}",
                f"{wall:.1f}",
                f"{median(run['cpu_seconds'] for run in runs):.1f}",
                f"{max(run['peak_bytes'] for run in runs) / MIB:,.0f}",
                goal,
            )
        )
    header = ("program", "rows of usage", "lines", "wall s", "CPU s", "peak MiB", "at most, for 4,000,000 rows")
    return f"{table(header, rows)}\n\n{footnote(scenario)}"
