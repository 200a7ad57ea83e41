"""The results of the checks as a table, and what the issue of this step asks for."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.tables import MIB, Section, footnote, table

SECTION = Section("checks")
WALL_SECONDS_MAX, PEAK_MIB_MAX = 15, 2048


def render(results: Mapping[str, Any]) -> str:
    """Return the table of the results, in Markdown."""
    return "\n\n".join(_table(scenario) for scenario in results["scenarios"].values())


def _table(scenario: Mapping[str, Any]) -> str:
    runs = scenario["runs"]
    row = (
        "suites of raw events and usage events, Great Expectations imported",
        f"{scenario['event_count']:,}",
        str(scenario["expectation_count"]),
        f"{median(run['wall_seconds'] for run in runs):.1f}",
        f"{median(run['cpu_seconds'] for run in runs):.1f}",
        f"{max(run['peak_bytes'] for run in runs) / MIB:,.0f}",
        f"{WALL_SECONDS_MAX} s, {PEAK_MIB_MAX:,} MiB",
    )
    header = ("program", "rows", "expectations", "wall s", "CPU s", "peak MiB", "at most, for 5,000,000 rows")
    return f"{table(header, [row])}\n\n{footnote(scenario)}"
