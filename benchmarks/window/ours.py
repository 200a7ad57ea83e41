"""The pipeline's own steps of a window, as ``billing run`` takes them: ``deduplicate``, ``aggregate``.

Run as ``python -m benchmarks.window.ours PROJECT DAY STEP [STEP]``.
"""

from __future__ import annotations

import gc
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.core.window import BillingWindow
from pipeline.settings import GARBAGE_THRESHOLD
from pipeline.steps.aggregate import aggregate
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.workspace import open_workspace


def main(project: str, day: str, *steps: str) -> None:
    """Take the steps, in the order given; ``aggregate`` alone is of the newest revision."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    workspace = open_workspace(Path(project))
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    window, at = BillingWindow(start, start + timedelta(days=1)), datetime.now(UTC)
    for step in steps:
        if step == "deduplicate":
            deduplicate(workspace, window, at)
        elif step == "aggregate":
            revision = workspace.control_plane.latest_revision(window.window_id)
            if revision is None:
                raise RuntimeError(f"window {window.window_id} has no revision; deduplicate opens one")
            aggregate(workspace, window.window_id, revision.revision, at)
        else:
            raise ValueError(f"{step!r} is no step; expected deduplicate or aggregate")


if __name__ == "__main__":
    main(*sys.argv[1:])
