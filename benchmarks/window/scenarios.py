"""Which contestants run on which lake, how their answers are compared, and what each run cost.

Runs of a scenario are interleaved (A B C, A B C, ...), so that a slow phase of the machine hits all of them. Inputs are
in the page cache. Usage rows of all contestants have to be the same; whoever drops duplicates has to leave as many
events.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from os import environ
from pathlib import Path
from typing import Any

from benchmarks.events import Feed
from benchmarks.measure import costs, measure, warm
from benchmarks.window.answers import (
    OUR_USAGE_COLUMNS,
    USAGE_COLUMNS,
    UsageAnswer,
    read_usage,
    require_same,
    row_count,
    window_event_count,
)
from benchmarks.window.lake import Lake, lake_of

LARGE_FACTOR = 5
LOOK_BACK_DAYS = 2
REWRITE = "duckdb_rewrite"

Say = Callable[[str], None]
Answer = UsageAnswer | int


@dataclass(frozen=True, slots=True)
class Entry:
    """One contestant on one lake; ``label`` names it in the results. Ours takes ``steps``, after ``before``."""

    label: str
    contestant: str
    lake: str
    steps: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    look_back: str = "0d"
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is run in each round; ``is_paired`` ones run as many rounds as pairs are asked for, others one."""

    name: str
    entries: tuple[Entry, ...]
    is_paired: bool = True


BOTH = ("deduplicate", "aggregate")
SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "window",
            (
                Entry("ours", "ours", "day", BOTH),
                Entry("duckdb", "duckdb_statement", "day"),
                Entry("ordered", "duckdb_statement", "day", arguments=("ordered",)),
                Entry("polars", "polars_stream", "day"),
                Entry("chdb", "chdb_statement", "day"),
            ),
        ),
        Scenario(
            "dedupe",
            (Entry("ours", "ours", "day", ("deduplicate",)), Entry("rewrite", REWRITE, "day")),
        ),
        Scenario("aggregate", (Entry("ours", "ours", "day", ("aggregate",), before=("deduplicate",)),)),
        Scenario(
            "look_back",
            (
                Entry("ours", "ours", "days", ("deduplicate",), look_back=f"{LOOK_BACK_DAYS}d"),
                Entry("plain", "ours", "days", ("deduplicate",)),
            ),
        ),
        Scenario(
            "large",
            (
                Entry("ours", "ours", "large", BOTH),
                Entry("duckdb", "duckdb_statement", "large"),
                Entry("ordered", "duckdb_statement", "large", arguments=("ordered",)),
            ),
            is_paired=False,
        ),
        Scenario(
            "dedupe_large",
            (Entry("ours", "ours", "large", ("deduplicate",)), Entry("rewrite", REWRITE, "large")),
            is_paired=False,
        ),
        Scenario(
            "memory", (Entry("ours", "ours", "large", BOTH), Entry("fewer", "ours", "day", BOTH)), is_paired=False
        ),
    )
}


def feeds(events: int) -> dict[str, Feed]:
    """Return the feeds behind the lakes: no broken and no late event, so that whole days are compared."""
    return {
        "day": Feed(events, broken=0.0, late=0.0),
        "days": Feed(events * (LOOK_BACK_DAYS + 1), days=LOOK_BACK_DAYS + 1, broken=0.0, late=0.0),
        "large": Feed(events * LARGE_FACTOR, broken=0.0, late=0.0),
    }


@dataclass(frozen=True, slots=True)
class Harness:
    """Where lakes are kept and runs are made, and on how many cores."""

    cache: Path
    cores: int
    say: Say

    def run(self, scenario: Scenario, events: int, pairs: int) -> dict[str, Any]:
        """Run a scenario and return its runs, in the order they were made, and how many events each lake has."""
        lakes = {
            name: lake_of(self.cache, name, feeds(events)[name], self.say)
            for name in sorted({entry.lake for entry in scenario.entries})
        }
        runs: list[dict[str, Any]] = []
        answers: dict[str, Answer] = {}
        rounds = pairs if scenario.is_paired else 1
        for number in range(1, rounds + 1):
            for entry in scenario.entries:
                run, answer = self._run(entry, lakes[entry.lake])
                require_same(entry.label, answers.setdefault(entry.lake, answer), answer)
                runs.append({"round": number, "label": entry.label, **run})
                self.say(
                    f"{scenario.name} {number}/{rounds} {entry.label:7} wall {run['wall_seconds']:6.1f} s  "
                    f"cpu {run['cpu_seconds']:6.1f} s  peak {run['peak_bytes'] >> 20:5,} MiB"
                )
        return {
            "runs": runs,
            "entries": {entry.label: asdict(entry) for entry in scenario.entries},
            "events": {name: window_event_count(lake.events, str(lake.billed_day)) for name, lake in lakes.items()},
        }

    def _run(self, entry: Entry, lake: Lake) -> tuple[dict[str, Any], Answer]:
        warm(Path(lake.events).parent)
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.cache) as scratch:
            folder = Path(scratch)
            if entry.contestant == "ours":
                return self._run_ours(entry, lake, folder)
            output, day = folder / "output.parquet", str(lake.billed_day)
            accounts = [] if entry.contestant == REWRITE else [str(lake.project / "accounts.csv")]
            program = [entry.contestant, lake.events, *accounts, day, str(output), str(self.cores), *entry.arguments]
            cost = self._measure(program, folder)
            answer = row_count([output]) if entry.contestant == REWRITE else read_usage([output], USAGE_COLUMNS)
            return cost, answer

    def _run_ours(self, entry: Entry, lake: Lake, folder: Path) -> tuple[dict[str, Any], Answer]:
        day = str(lake.billed_day)
        project = lake.copy_project(folder / "project", entry.look_back)
        if entry.before:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.window.ours", str(project), day, *entry.before], check=True
            )
        cost = self._measure(["ours", str(project), day, *entry.steps], folder)
        data = project / "lake" / "data"
        if "aggregate" in entry.steps:
            return cost, read_usage(data.glob("usage/**/*.parquet"), OUR_USAGE_COLUMNS)
        excluded = row_count(data.glob("excluded_events/**/*.parquet"))
        return cost, window_event_count(lake.events, day) - excluded

    def _measure(self, program: list[str], folder: Path) -> dict[str, Any]:
        name, *arguments = program
        command = [sys.executable, "-m", f"benchmarks.window.{name}", *arguments]
        return costs(measure(command, self.cores, dict(environ), folder))
