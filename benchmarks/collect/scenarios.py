"""Which contestants run on which feed, how their answers are checked, and what each run cost.

Runs of a scenario are interleaved (A B C, A B C, ...), so that a slow phase of the machine hits all of them. Inputs are
in the page cache. After each run the events, the sum of their quantities and of their times are compared with what
the generator wrote: a fast wrong answer fails.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.events import Feed
from benchmarks.generate import DEFAULT_MIX, SUMMARY, generate, parse_mix
from benchmarks.layouts import BUCKET, LAYOUTS
from benchmarks.measure import Cost, costs, measure, warm
from pipeline.adapters.s3_server import S3Endpoint, serve_s3
from pipeline.settings import ENDPOINT_URL_VARIABLE

BENCHMARKS = Path(__file__).resolve().parent.parent
PROJECT = BENCHMARKS / "project"
SMALL_FILES = 1_000
LARGE_FACTOR = 5
_DISK_BYTES_PER_EVENT = 400  # of the feed, and of a run: the download, staged rows without compression, the lake
_INHERITED_AWS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One contestant on one feed; ``label`` names it in the results."""

    label: str
    contestant: str
    feed: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is run in each round; ``is_paired`` ones run as many rounds as pairs are asked for, others one."""

    name: str
    entries: tuple[Entry, ...]
    is_paired: bool = True


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "mix",
            (
                Entry("ours", "ours", "mix"),
                Entry("duckdb", "duckdb_bare", "mix"),
                Entry("polars", "polars_scan", "clean"),
                Entry("fetch", "fetch", "mix"),
            ),
        ),
        Scenario(
            "small",
            (
                Entry("ours", "ours", "small"),
                Entry("duckdb", "duckdb_bare", "small"),
                Entry("fetch", "fetch", "small"),
            ),
        ),
        Scenario("broken", (Entry("ours", "ours", "broken"), Entry("clean", "ours", "clean"))),
        Scenario("memory", (Entry("ours", "ours", "large"), Entry("fewer", "ours", "mix")), is_paired=False),
    )
}


def feeds(events: int) -> dict[str, Feed]:
    """Return the feeds that the scenarios read."""
    mix = Feed(events)
    return {
        "mix": mix,
        "clean": replace(mix, broken=0.0),
        "broken": replace(mix, broken=0.01),
        "large": replace(mix, events=events * LARGE_FACTOR),
        "small": replace(mix, events=SMALL_FILES * 1_000, lines_per_file=1_000),
    }


@dataclass(frozen=True, slots=True)
class Harness:
    """Where feeds are kept and runs are made, and on how many cores."""

    cache: Path
    cores: int
    say: Say

    def run(self, scenario: Scenario, events: int, pairs: int) -> dict[str, Any]:
        """Run a scenario and return its runs, in the order they were made, and its feeds."""
        folders = {name: self._feed(name, feeds(events)[name]) for name in _feeds_of(scenario)}
        runs: list[dict[str, Any]] = []
        rounds = pairs if scenario.is_paired else 1
        for number in range(1, rounds + 1):
            for entry in scenario.entries:
                run = self._run(entry, folders[entry.feed])
                runs.append({"round": number, "label": entry.label, **run})
                self.say(
                    f"{scenario.name} {number}/{rounds} {entry.label:7} wall {run['wall_seconds']:6.1f} s  "
                    f"cpu {run['cpu_seconds']:6.1f} s  peak {run['peak_bytes'] >> 20:5,} MiB"
                )
        return {
            "runs": runs,
            "entries": {entry.label: asdict(entry) for entry in scenario.entries},
            "feeds": {name: json.loads((folder / SUMMARY).read_text()) for name, folder in folders.items()},
        }

    def _feed(self, name: str, feed: Feed) -> Path:
        """Return the folder of a feed, generated on first use; one of other arguments or other code is redone."""
        folder = self.cache / f"{name}-{feed.events}"
        wanted = {"feed": asdict(feed), "generator": generator_hash()}
        if (folder / SUMMARY).is_file():
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
            if {key: summary.get(key) for key in wanted} == wanted:
                return folder
        shutil.rmtree(folder, ignore_errors=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        needed, free = feed.events * _DISK_BYTES_PER_EVENT, shutil.disk_usage(self.cache).free
        if free < needed:
            raise RuntimeError(f"{feed.events:,} events need about {needed:,} bytes in {self.cache}, {free:,} are free")
        self.say(f"generating {name}: {feed.events:,} events")
        generate(feed, LAYOUTS["cloudevents"], parse_mix(DEFAULT_MIX), folder, os.cpu_count() or 1)
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        (folder / SUMMARY).write_text(json.dumps({**summary, **wanted}, indent=2) + "\n", encoding="utf-8")
        return folder

    def _run(self, entry: Entry, feed: Path) -> dict[str, Any]:
        warm(feed / BUCKET)
        expected = json.loads((feed / SUMMARY).read_text(encoding="utf-8"))["totals"]
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.cache) as scratch:
            folder = Path(scratch)
            match entry.contestant:
                case "ours":
                    return self._run_ours(feed, folder, expected)
                case "fetch":
                    with serve_s3(feed) as endpoint:
                        cost = self._measure(["fetch", BUCKET, str(folder)], folder, endpoint)
                    return {**costs(cost), "cpu_seconds": json.loads(cost.last_line)["cpu_seconds"]}
                case contestant:
                    output = folder / "events.parquet"
                    cost = self._measure([contestant, str(feed / BUCKET), str(output), str(self.cores)], folder)
                    check_events(entry.label, [output], "time", expected)
                    return costs(cost)

    def _run_ours(self, feed: Path, folder: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
        project = Path(shutil.copytree(PROJECT, folder / "project"))
        with serve_s3(feed) as endpoint:
            cost = self._measure(["ours", str(project)], folder, endpoint)
            server_cpu_seconds = _server_cpu_seconds()
        answer = json.loads(cost.last_line)
        if answer["pending"] or answer["unclaimed_keys"]:
            raise RuntimeError(f"ours left objects behind: {answer}")
        _require_equal("ours", "quarantined lines", expected["broken"], answer["quarantined"])
        _require_equal("ours", "lines", expected["lines"], answer["raw_events"] + answer["quarantined"])
        data = project / "lake" / "data"
        check_events("ours", data.glob("raw_events/**/*.parquet"), "event_at", expected)
        if expected["broken"]:
            _require_equal(
                "ours", "rows of quarantine", expected["broken"], _row_count(data.glob("quarantine/**/*.parquet"))
            )
        return {**costs(cost), "server_cpu_seconds": server_cpu_seconds}

    def _measure(self, program: list[str], folder: Path, endpoint: S3Endpoint | None = None) -> Cost:
        environment = {name: value for name, value in os.environ.items() if name not in _INHERITED_AWS}
        if endpoint is not None:
            environment |= endpoint.environment() | {ENDPOINT_URL_VARIABLE: endpoint.url}
        name, *arguments = program
        command = [sys.executable, "-m", f"benchmarks.collect.{name}", *arguments]
        return measure(command, self.cores, environment, folder)


def check_events(label: str, files: Iterable[Path], time_column: str, expected: Mapping[str, Any]) -> None:
    """Refuse an answer whose events, quantities or times do not add up to what the generator wrote."""
    paths = [str(path) for path in files]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            f"SELECT count(*), sum(quantity), sum(epoch_ms({time_column})) FROM read_parquet(?)",  # noqa: S608
            [paths],
        ).fetchone()
    if found is None:
        raise RuntimeError(f"{label} has no events")
    count, quantity, milliseconds = found
    _require_equal(label, "events", expected["lines"] - expected["broken"], count)
    _require_equal(label, "the sum of the quantities", Decimal(expected["quantity"]), quantity)
    _require_equal(label, "the sum of the times", expected["milliseconds"], milliseconds)


def generator_hash() -> str:
    """Return a hash of the code that makes feeds: a cached feed of other code is not used."""
    modules = ("random_numbers", "events", "layouts", "generate")
    return sha256(b"".join((BENCHMARKS / f"{name}.py").read_bytes() for name in modules)).hexdigest()


def _feeds_of(scenario: Scenario) -> list[str]:
    return sorted({entry.feed for entry in scenario.entries})


def _row_count(files: Iterable[Path]) -> int:
    with duckdb.connect() as connection:
        row = connection.execute("SELECT count(*) FROM read_parquet(?)", [[str(path) for path in files]]).fetchone()
    return int(row[0]) if row else 0


def _require_equal(label: str, what: str, expected: Any, actual: Any) -> None:
    if expected != actual:
        raise RuntimeError(f"{label} is wrong: {what}: expected {expected}, got {actual}; its time does not count")


def _server_cpu_seconds() -> float:
    """Return the CPU seconds of the S3 server, a child of this process."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            stat = Path(f"/proc/{child}/stat").read_text(encoding="ascii")
            if "(rclone)" in stat:
                fields = stat.rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
