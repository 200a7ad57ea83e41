"""Results as Markdown: ratios of runs that were made side by side, tables, and the place in the document they stand in.

A ratio is taken round by round and shown as its median, with the smallest and the largest of the rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
MIB = 1 << 20
RATIO_HEADER = ("scenario", "compared", "of", "median (min–max)", "at most", "reached", "runs")
MEASURES = {"cpu_seconds": "CPU", "wall_seconds": "wall", "peak_bytes": "peak memory"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row: labels of the numerator and denominator; what the run ``left_out`` cost is taken off the first."""

    scenario: str
    sentence: str
    numerator: str
    denominator: str
    quantity: str  # a key of a run
    goal: float
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """The part of the document that one benchmark writes, between two markers."""

    name: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: written by `python -m benchmarks.{self.name} --render` -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"

    def write_into(self, document: Path, rendered: str) -> None:
        """Replace what stands between the two markers of the document."""
        text = document.read_text(encoding="utf-8")
        if text.count(self.begin) != 1 or text.count(self.end) != 1:
            raise RuntimeError(f"{document.name} needs the lines {self.begin!r} and {self.end!r} once each")
        before, _, rest = text.partition(self.begin)
        after = rest.partition(self.end)[2]
        document.write_text(f"{before}{self.begin}\n\n{rendered}\n\n{self.end}{after}", encoding="utf-8")

    def between_markers(self, text: str) -> str:
        """Return what stands between the two markers of a document."""
        found = re.search(f"{re.escape(self.begin)}\n\n(.*)\n\n{re.escape(self.end)}", text, re.DOTALL)
        return found[1] if found else ""


def ratios(comparison: Comparison, runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the ratio of each round."""
    by_round: dict[int, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        by_round.setdefault(run["round"], {})[run["label"]] = run
    found = []
    for run_of in by_round.values():
        cost = run_of[comparison.numerator][comparison.quantity]
        if comparison.left_out is not None:
            cost -= run_of[comparison.left_out][comparison.quantity]
        found.append(cost / run_of[comparison.denominator][comparison.quantity])
    return found


def ratio_rows(comparisons: Sequence[Comparison], scenarios: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row, below ``RATIO_HEADER``, of each comparison whose scenario was run."""
    rows: list[tuple[str, ...]] = []
    for comparison in comparisons:
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
                f"{comparison.goal:.4g}" if comparison.goal != int(comparison.goal) else f"{comparison.goal:.1f}",
                reached(middle <= comparison.goal),
                str(len(found)),
            )
        )
    return rows


def peak_row(scenario: str, sentence: str, peaks: Sequence[int], goal_bytes: int) -> tuple[str, ...]:
    """Return the row of the highest peak of memory of some runs."""
    highest, goal = f"**{max(peaks) / MIB:,.0f} MiB**", f"{goal_bytes / MIB:,.0f} MiB"
    return (
        scenario,
        sentence,
        MEASURES["peak_bytes"],
        highest,
        goal,
        reached(max(peaks) < goal_bytes),
        str(len(peaks)),
    )


def reached(is_reached: bool) -> str:
    return "yes" if is_reached else "**no**"


def footnote(scenario: Mapping[str, Any]) -> str:
    """Say how often, when and on what a scenario was measured, and by which command."""
    machine, versions = scenario["machine"], scenario["versions"]
    rounds = len(scenario["runs"]) // len(scenario["entries"])
    return (
        f"{f'Medians of {rounds} rounds, memory the largest.' if rounds > 1 else 'One round.'} "
        f"Measured {scenario['measured_on']} on {scenario['cores']} cores of {machine['cores']} "
        f"({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{', '.join(f'{package} {version}' for package, version in versions.items())}:\n"
        f"`{scenario['command']}`"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
