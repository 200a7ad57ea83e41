"""What collecting costs: CPU time and bytes, by million events.

It depends on the machine and is never the same twice, so it is no dataset and in no manifest: one line of a file for
each collection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

from pipeline.adapters.process_cost import CpuClock
from pipeline.core.sli import CostObjective, Indicator, MeasuredWindow, Measurement, ServiceLevel, service_levels
from pipeline.steps.collect import CollectResult, collect
from pipeline.steps.workspace import Workspace

COSTS_FILE = "costs.jsonl"
MILLION = 1_000_000


def collect_at_cost(ws: Workspace, at: datetime, say: Callable[[str], None]) -> CollectResult:
    """Collect as ``collect`` does, and keep what it cost."""
    clock = CpuClock()
    collected = collect(ws, at, say)
    record_cost(ws, collected, clock.seconds(), at)
    return collected


def record_cost(ws: Workspace, collected: CollectResult, cpu_seconds: Decimal, at: datetime) -> None:
    """Keep what a collection cost; one that found nothing new is left out."""
    if not collected.new_objects:
        return
    line = {
        "at": at.isoformat(),
        "events": collected.raw_events,
        "bytes": collected.byte_count,
        "cpu_seconds": f"{cpu_seconds:f}",
    }
    ws.out.mkdir(parents=True, exist_ok=True)
    with (ws.out / COSTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def cost_level(ws: Workspace) -> ServiceLevel | None:
    """Return the cost of the newest collection, with its history; None before the first one."""
    settings = ws.project.settings.sli
    measured = [_measured(line, settings.cost_to_collect) for line in _lines(ws)]
    if not measured:
        return None
    return service_levels(measured[-1], measured[:-1], settings)[0]


def _lines(ws: Workspace) -> Iterator[dict[str, Any]]:
    path = ws.out / COSTS_FILE
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # the last line of a process that was killed
                continue


def _measured(line: dict[str, Any], objective: CostObjective) -> MeasuredWindow:
    cpu_seconds, events = Decimal(line["cpu_seconds"]), line["events"]
    figures = {"cpu_seconds": cpu_seconds, "bytes": Decimal(line["bytes"]), "events": Decimal(events)}
    if events:
        figures["cpu_seconds_per_million_events"] = _per_million(cpu_seconds, events)
        figures["bytes_per_million_events"] = _per_million(Decimal(line["bytes"]), events)
    is_large = events >= objective.events_min
    is_good = is_large and figures["cpu_seconds_per_million_events"] <= objective.cpu_seconds_max
    note = "" if is_large else f"fewer than {objective.events_min:,} events were collected"
    measurement = Measurement(Indicator.COST_TO_COLLECT, int(is_good), int(is_large), figures, note)
    return MeasuredWindow(datetime.fromisoformat(line["at"]), {measurement.indicator: measurement})


def _per_million(cost: Decimal, events: int) -> Decimal:
    with localcontext() as context:
        context.prec = 40
        return (cost * MILLION / events).quantize(Decimal("0.001"), ROUND_HALF_UP)
