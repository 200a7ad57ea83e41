"""The results of rendering as a table, and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.tables import MIB, Section, footnote, reached, table

SECTION = Section("documents")
PDF_SHARE = 50  # a fiftieth of the invoices is enough to know how fast PDFs are made
GOAL_SECONDS, GOAL_INVOICES = {"drafts": 60, "html": 15}, 100_000
MEANINGS = {
    "drafts": "documents as data, of ten lines each",
    "finalise": "numbered, stored and recorded, in one transaction",
    "html": "pages",
    "again": "pages, when all are there already",
    "pdf": "PDFs",
}
HEADER = ("what", "invoices", "wall s", "CPU s", "peak MiB", "invoices/s", "at most s", "reached")


def render(results: Mapping[str, Any]) -> str:
    """Return the table of the results, in Markdown; the goal is for the number of invoices that was rendered."""
    rows = []
    for name, scenario in results["scenarios"].items():
        runs, count = scenario["runs"], scenario["invoices"]
        wall = median(run["wall_seconds"] for run in runs)
        goal = GOAL_SECONDS[name] * count / GOAL_INVOICES if name in GOAL_SECONDS else None
        rows.append(
            (
                MEANINGS[name],
                f"{count:,}",
                f"{wall:.1f}",
                f"{median(run['cpu_seconds'] for run in runs):.1f}",
                f"{max(run['peak_bytes'] for run in runs) / MIB:,.0f}",
                f"{count / wall:,.0f}",
                "" if goal is None else f"{goal:.4g}",
                "" if goal is None else reached(wall <= goal),
            )
        )
    notes = list(dict.fromkeys(footnote(scenario) for scenario in results["scenarios"].values()))
    return "\n\n".join([table(HEADER, rows), *notes])
