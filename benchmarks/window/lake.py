"""The billing project that the contestants read: a feed, collected by the pipeline itself, made once and kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.events import FIRST_INSTANT, Feed
from benchmarks.generate import DEFAULT_MIX, generate, parse_mix
from benchmarks.layouts import LAYOUTS
from pipeline.adapters.s3_server import serve_s3
from pipeline.settings import ENDPOINT_URL_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = "lake.json"
ACCOUNT_HEADER = "account_id,name,currency,time_zone,plan,valid_from,valid_to,external_references"
_DISK_BYTES_PER_EVENT = 500  # of the feed, which goes when it is collected, and of what collecting it takes
_WRITTEN_BY = ("benchmarks/*.py", "benchmarks/project/**/*.*", "pipeline/core/dataset.py", "pipeline/**/versions/*.py")
_INHERITED_AWS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@dataclass(frozen=True, slots=True)
class Lake:
    """A project with collected events; ``billed_day`` is the last day of the feed."""

    folder: Path
    feed: Feed

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def billed_day(self) -> date:
        return date.fromordinal(FIRST_INSTANT.date().toordinal() + self.feed.days - 1)

    @property
    def events(self) -> str:
        """Return the pattern of the collected files of the billed day."""
        return str(self.project / "lake" / "data" / "raw_events" / f"event_date={self.billed_day}" / "*.parquet")

    def copy_project(self, to: Path, look_back: str) -> Path:
        """Make a project of its own on the same collected files, looking back as far as given."""
        shutil.copytree(self.project, to, copy_function=_link_data)
        settings = to / "billing.toml"
        with_look_back = settings.read_text(encoding="utf-8").replace(
            "[window]", f'[window]\nlook_back = "{look_back}"'
        )
        settings.write_text(with_look_back, encoding="utf-8")
        return to


def lake_of(cache: Path, name: str, feed: Feed, say: Callable[[str], None]) -> Lake:
    """Return a lake of the cache, made on first use; one of other arguments or other code is made again."""
    lake = Lake(cache / f"window-{name}-{feed.events}", feed)
    wanted = {"feed": asdict(feed), "written_by": _code_hash()}
    summary = lake.folder / SUMMARY
    if summary.is_file() and json.loads(summary.read_text(encoding="utf-8")) == wanted:
        return lake
    shutil.rmtree(lake.folder, ignore_errors=True)
    lake.folder.mkdir(parents=True)
    needed, free = feed.events * _DISK_BYTES_PER_EVENT, shutil.disk_usage(cache).free
    if free < needed:
        raise RuntimeError(f"{feed.events:,} events need about {needed:,} bytes in {cache}, {free:,} are free")
    say(f"generating and collecting {name}: {feed.events:,} events")
    bucket = lake.folder / "feed"
    generate(feed, LAYOUTS["cloudevents"], parse_mix(DEFAULT_MIX), bucket, os.cpu_count() or 1)
    shutil.copytree(ROOT / "benchmarks" / "project", lake.project)
    rows = [
        f"acct-{number:06d},Customer {number},USD,UTC,standard,2026-01-01T00:00:00Z,,acct_{number:06d}"
        for number in range(1, feed.accounts + 1)
    ]
    (lake.project / "accounts.csv").write_text("\n".join([ACCOUNT_HEADER, *rows, ""]), encoding="utf-8")
    _collect(lake.project, bucket)
    shutil.rmtree(bucket)
    summary.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    return lake


def _collect(project: Path, bucket: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _INHERITED_AWS}
    with serve_s3(bucket) as endpoint:
        environment |= endpoint.environment() | {ENDPOINT_URL_VARIABLE: endpoint.url}
        command = [sys.executable, "-m", "benchmarks.collect.ours", str(project)]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"collecting the feed failed:\n{done.stdout}{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    if answer["quarantined"] or answer["pending"] or answer["unclaimed_keys"]:
        raise RuntimeError(f"the feed was not collected as a whole: {answer}")


def _link_data(source: str, target: str) -> None:
    """Link what no run writes to: data files are named by their hash."""
    if "/lake/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _code_hash() -> str:
    paths = sorted({path for pattern in _WRITTEN_BY for path in ROOT.glob(pattern) if path.is_file()})
    return sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
