"""Results depend neither on the time zone, nor on the locale, nor on the hash seed of the machine (P1)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ObjectStore
from tests.fixtures_project import put_events, usage_event, write_project

PLACES = (
    {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "2"},
)
DAYS_OF_THE_RUNS = [f"{datetime.now(UTC) + timedelta(days=day):%Y-%m-%d}" for day in (0, 1)]  # events are of another
INSTANT_OF_A_RUN = re.compile(rf"({'|'.join(DAYS_OF_THE_RUNS)})[T ]\d\d:\d\d:\d\d(\.\d{{6}})?".encode())


def billing(folder: Path, place: dict[str, str], *arguments: str) -> str:
    environment = {**os.environ, **place}
    command = [sys.executable, "-m", "pipeline", *arguments, "--project", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def published_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file of the lake and every page, except what is kept about when, who, and at what cost.

    The report says when its revision was decided, which here is the time of the run: it is compared without.
    """
    published = {}
    for root in ("lake", "out"):
        for path in sorted((folder / root).rglob("*")):
            if not path.is_file() or path.name in ("metrics.prom", "openlineage.jsonl", "costs.jsonl"):
                continue
            name, content = str(path.relative_to(folder)), path.read_bytes()
            if b'"dataset":"report_facts"' in content:  # its manifest names the instants by hash
                continue
            without = INSTANT_OF_A_RUN.sub(b"", content)
            published[name if without == content else f"{path.parent.name}/*{path.suffix}"] = without
    return published


@pytest.mark.slow
def test_two_machines_in_other_time_zones_and_locales_publish_the_same_bytes(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    put_events(
        raw_bucket,
        "usage/a.ndjson",
        [
            usage_event(id=f"req-{n}", subject=f"customer-{1 + n % 3}", data={"input_tokens": f"{n}.5"})
            for n in range(200)
        ]
        + [usage_event(id="req-1", data={"input_tokens": 9}), usage_event(id="nobody", subject="customer-9")],
        datetime(2026, 1, 15, 13, tzinfo=UTC),
    )
    folders = [write_project(tmp_path / f"place-{number}" / "project", raw_bucket) for number in range(len(PLACES))]

    for folder, place in zip(folders, PLACES, strict=True):
        billing(folder, place, "collect")
        billing(folder, place, "run", "--window", "2026-01-15")

    first, second = (published_bytes(folder) for folder in folders)
    assert len(first) > 10
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []
