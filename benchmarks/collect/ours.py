"""The pipeline's own collect step, as ``billing collect`` runs it, on a project whose bucket is at the S3 endpoint.

Run as ``python -m benchmarks.collect.ours PROJECT``.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path


def main(project: str) -> None:
    """Collect everything in the bucket, and print what was taken as one line of JSON."""
    # Here and not above: the processes that collect import this module too.
    from pipeline.steps.collect import collect
    from pipeline.steps.workspace import open_workspace

    result = collect(open_workspace(Path(project)), datetime.now(UTC), lambda _: None)
    answer = {
        "objects": result.new_objects,
        "raw_events": result.raw_events,
        "quarantined": result.quarantined,
        "pending": list(result.pending.values())[:3],
        "unclaimed": len(result.unclaimed_keys),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
