"""Only the download: every object of the bucket into a file, with the pipeline's S3 client, one after the other.

The peers read local files, ours reads a bucket. What this costs is taken off ours where like is compared with like.
Only listing and downloading is counted, not the start of Python.

Run as ``python -m benchmarks.collect.fetch BUCKET FOLDER``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from pipeline.adapters.object_store import ObjectStore
from pipeline.settings import ENDPOINT_URL_VARIABLE


def main(bucket: str, folder: str) -> None:
    """Download every object, and print the CPU seconds it took as one line of JSON."""
    store = ObjectStore(bucket, os.environ[ENDPOINT_URL_VARIABLE])
    target = Path(folder) / "object"
    byte_count = 0
    before = _cpu_seconds()
    for listed in store.list_objects():
        with target.open("wb") as file:
            for chunk in store.read(listed):
                byte_count += file.write(chunk)
    sys.stdout.write(json.dumps({"cpu_seconds": _cpu_seconds() - before, "bytes": byte_count}) + "\n")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
