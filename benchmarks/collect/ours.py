"""The pipeline's own ``billing collect``, on a project whose bucket is at the S3 endpoint.

Run as ``python -m benchmarks.collect.ours PROJECT``.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main(project: str) -> None:
    """Collect everything in the bucket, and print what was taken as one line of JSON."""
    command = [sys.executable, "-m", "pipeline", "collect", "--project", project, "--json"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    sys.stdout.write(json.dumps(json.loads(printed)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
