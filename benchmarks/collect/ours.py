"""The pipeline's own ``billing collect``, on a project whose bucket is at the S3 endpoint.

Run as ``python -m benchmarks.collect.ours PROJECT``.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout


def main(project: str) -> None:
    """Collect everything in the bucket, and print what was taken as one line of JSON."""
    from pipeline import cli

    sys.argv = ["billing", "collect", "--project", project, "--json"]
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            cli.main()
    finally:
        sys.stdout.write(json.dumps(json.loads(printed.getvalue())) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
