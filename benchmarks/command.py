"""What every benchmark's command does: run scenarios, keep their results, write their tables into the document."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.tables import DOCUMENT, Section

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGE = Path(__file__).resolve().parents[1] / "pipeline"

Say = Callable[[str], None]
Run = Callable[[str, argparse.Namespace], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: its scenarios in the order they are shown, which of them run unasked, and how they are shown."""

    section: Section
    description: str
    scenarios: Sequence[str]
    packages: Sequence[str]
    render: Callable[[Mapping[str, Any]], str]
    sizes: Mapping[str, int] = field(default_factory=lambda: {"events": 10_000_000})

    @property
    def results(self) -> Path:
        return RESULTS / f"{self.section.name}.json"

    def main(self, arguments: Sequence[str] | None, default_scenarios: Sequence[str], run: Run) -> None:
        """Run what the command line asks for: ``run`` is given a scenario's name and the options."""
        program = f"benchmarks.{self.section.name}"
        parser = argparse.ArgumentParser(prog=f"python -m {program}", description=self.description)
        for size, default in self.sizes.items():
            parser.add_argument(f"--{size}", type=lambda text: int(text.replace("_", "")), default=default)
        parser.add_argument("--pairs", type=int, default=5, help="interleaved rounds of each scenario but memory")
        parser.add_argument("--scenarios", nargs="+", choices=list(self.scenarios), default=list(default_scenarios))
        parser.add_argument("--cores", type=int, default=2, help="cores that each program may use")
        parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "usage-benchmarks")
        parser.add_argument("--render", action="store_true", help="keep the results and write docs/benchmarks.md")
        options = parser.parse_args(arguments)
        compileall.compile_dir(PACKAGE, quiet=2)  # as an installer does, and as the other contestants are
        results: dict[str, Any] = {"scenarios": {}}
        for name in options.scenarios:
            results["scenarios"][name] = {
                "command": shlex.join(["python", "-m", program, *_shown(arguments if arguments else sys.argv[1:])]),
                "measured_on": datetime.now(UTC).date().isoformat(),
                "cores": options.cores,
                "machine": machine(),
                "versions": {
                    "Python": platform.python_version(),
                    **{package: version(package) for package in self.packages},
                },
                **run(name, options),
            }
            if options.render:
                self.keep(results)
        sys.stdout.write(self.render(results) + "\n")

    def keep(self, results: Mapping[str, Any]) -> None:
        """Put the scenarios into the committed results, and the tables of all of them into the document."""
        kept = json.loads(self.results.read_text(encoding="utf-8")) if self.results.exists() else {"scenarios": {}}
        merged = {**kept["scenarios"], **results["scenarios"]}
        kept = {"scenarios": {name: merged[name] for name in self.scenarios if name in merged}}
        RESULTS.mkdir(exist_ok=True)
        self.results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        self.section.write_into(DOCUMENT, self.render(kept))


def say(sentence: str) -> None:
    """Tell whoever waits what was done."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def machine() -> dict[str, Any]:
    """Return what this machine is, without its name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": names[0] if names else platform.machine(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
    }


def _shown(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without the cache, which is a folder of one machine."""
    shown = list(arguments)
    if "--cache" in shown:
        place = shown.index("--cache")
        del shown[place : place + 2]
    return [argument for argument in shown if not argument.startswith("--cache=")]
