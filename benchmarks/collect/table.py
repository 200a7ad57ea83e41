"""The results as tables: ratios of runs that were made side by side, and what the issue of this step asks for.

A ratio is taken round by round and shown as its median, with the smallest and the largest of the rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
BEGIN = "<!-- collect: written by `python -m benchmarks.collect --render` -->"
END = "<!-- collect: end -->"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row: ``label`` of the numerator and denominator; ``is_fetch_left_out`` takes the download off the first."""

    scenario: str
    sentence: str
    numerator: str
    denominator: str
    quantity: str  # a key of a run
    goal: float
    is_fetch_left_out: bool = False


COMPARISONS = (
    Comparison("mix", "ours without fetching / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5, True),
    Comparison("mix", "ours / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5),
    Comparison("mix", "ours / bare DuckDB", "ours", "duckdb", "wall_seconds", 1.5),
    Comparison("mix", "ours without fetching / Polars", "ours", "polars", "cpu_seconds", 1.0, True),
    Comparison("mix", "ours / Polars", "ours", "polars", "cpu_seconds", 1.0),
    Comparison("mix", "ours / Polars", "ours", "polars", "wall_seconds", 1.0),
    Comparison("small", "ours without fetching / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5, True),
    Comparison("small", "ours / bare DuckDB", "ours", "duckdb", "cpu_seconds", 1.5),
    Comparison("small", "ours / bare DuckDB", "ours", "duckdb", "wall_seconds", 1.5),
    Comparison("broken", "1 % broken / none broken", "ours", "clean", "cpu_seconds", 1.5),
    Comparison("memory", "five times the events", "ours", "fewer", "peak_bytes", 1.2),
)
MEASURES = {"cpu_seconds": "CPU", "wall_seconds": "wall", "peak_bytes": "peak memory"}
MEMORY_GOAL_BYTES = 10**9
MEANINGS = {
    "ours": "ours (`pipeline.steps.collect`)",
    "duckdb": "bare DuckDB",
    "polars": "Polars",
    "fetch": "only the download",
    "clean": "ours, no line broken",
    "fewer": "ours, a fifth of the events",
}


def ratios(comparison: Comparison, runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the ratio of each round."""
    by_round: dict[int, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        by_round.setdefault(run["round"], {})[run["label"]] = run
    found = []
    for run_of in by_round.values():
        cost = run_of[comparison.numerator][comparison.quantity]
        if comparison.is_fetch_left_out:
            cost -= run_of["fetch"][comparison.quantity]
        found.append(cost / run_of[comparison.denominator][comparison.quantity])
    return found


def render(results: Mapping[str, Any]) -> str:
    """Return the tables of the results, in Markdown, scenario by scenario."""
    parts = [_ratio_table(results["scenarios"])]
    parts += [_run_table(name, scenario) for name, scenario in results["scenarios"].items()]
    return "\n\n".join(parts)


def write_into(document: Path, rendered: str) -> None:
    """Replace what stands between the two markers of the document."""
    text = document.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise RuntimeError(f"{document.name} needs the lines {BEGIN!r} and {END!r} once each")
    before, _, rest = text.partition(BEGIN)
    document.write_text(f"{before}{BEGIN}\n\n{rendered}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def between_markers(text: str) -> str:
    """Return what stands between the two markers of a document."""
    found = re.search(f"{re.escape(BEGIN)}\n\n(.*)\n\n{re.escape(END)}", text, re.DOTALL)
    return found[1] if found else ""


def _ratio_table(scenarios: Mapping[str, Any]) -> str:
    rows = []
    for comparison in COMPARISONS:
        if comparison.scenario not in scenarios:
            continue
        found = ratios(comparison, scenarios[comparison.scenario]["runs"])
        middle = median(found)
        spread = f" ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else ""
        rows.append(
            (
                comparison.scenario,
                comparison.sentence,
                MEASURES[comparison.quantity],
                f"**{middle:.2f}**{spread}",
                f"{comparison.goal:.1f}",
                "yes" if middle <= comparison.goal else "**no**",
                str(len(found)),
            )
        )
    peaks = [run["peak_bytes"] for s in scenarios.values() for run in s["runs"] if _is_ours(s, run)]
    if peaks:
        rows.append(
            (
                "all",
                "ours, highest peak of all runs",
                "peak memory",
                f"**{max(peaks) / MIB:,.0f} MiB**",
                f"{MEMORY_GOAL_BYTES / MIB:,.0f} MiB",
                "yes" if max(peaks) < MEMORY_GOAL_BYTES else "**no**",
                str(len(peaks)),
            )
        )
    return _table(("scenario", "compared", "of", "median (min–max)", "at most", "reached", "runs"), rows)


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
    machine, versions = scenario["machine"], scenario["versions"]
    head = f"### Scenario `{name}`"
    table = _table(
        ("program", "lines", "files", "broken", "wall s", "CPU s", "S3 server's CPU s", "peak MiB", "M lines/s"), rows
    )
    rounds = len(scenario["runs"]) // len(scenario["entries"])
    foot = (
        f"{f'Medians of {rounds} rounds, memory the largest.' if rounds > 1 else 'One round.'} "
        f"Measured {scenario['measured_on']} on {scenario['cores']} cores of {machine['cores']} "
        f"({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{', '.join(f'{package} {version}' for package, version in versions.items())}:\n"
        f"`{scenario['command']}`"
    )
    return f"{head}\n\n{table}\n\n{foot}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
