"""Collect as a process: killed at any moment it publishes nothing and leaves nobody behind, and its memory is flat."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.adapters.decompress import zstd
from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.core.dataset import QUARANTINE, RAW_EVENTS
from pipeline.core.manifest import Manifest
from pipeline.steps.collect import collect
from pipeline.steps.publish import read_manifest
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import CONTRACT, write_project
from tests.fixtures_s3 import put_object
from tests.steps.s3_proxy import Proxy, proxy_of
from tests.steps.test_collect_property import event_line

pytestmark = pytest.mark.slow

RECEIVED_AT = datetime(2026, 1, 15, 13, tzinfo=UTC)
SECONDS_MAX = 60.0


@contextmanager
def collecting(folder: Path, workers: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``billing collect`` on a project; it is gone when the block ends."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "collect", "--project", str(folder)]
    environment = {**os.environ, "BILLING_WORKERS": str(workers)}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(is_so: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + SECONDS_MAX
    while not is_so():
        assert process.poll() is None, f"it ended with {process.returncode} before the moment came"
        assert time.monotonic() < give_up_at, "the moment did not come"
        time.sleep(0.001)


def finished(folder: Path, workers: int = 1) -> int:
    """Run ``billing collect`` to its end and return the most memory that it and its processes held, in bytes."""
    # Not what wait4 says: that counts the memory of this process, from before the other program was loaded.
    peak = 0
    with collecting(folder, workers) as process:
        while process.poll() is None:
            peak = max(peak, peak_of(process.pid))
            time.sleep(0.002)
    assert process.returncode == 0, (folder / "output").read_text()
    return peak


def peak_of(pid: int) -> int:
    """Return the most memory that a process has held so far, in bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def descendants(pid: int) -> set[int]:
    """Return the processes below one, and those below them."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child, *descendants(child)}
    return found


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def published(ws: Workspace) -> dict[str, list[bytes]]:
    """Return the bytes of every manifest that the control plane names."""
    found = ws.control_plane.collections_of(ws.control_plane.object_ids())
    return {name: [read_manifest(ws, one).to_bytes() for one in several] for name, several in found.items()}


def require_nothing_published(ws: Workspace) -> None:
    assert ws.control_plane.object_ids() == set()
    assert ws.control_plane.ledger() == []
    assert ws.control_plane.watermark_at() is None


@pytest.fixture
def proxy(s3_server: S3Endpoint) -> Iterator[Proxy]:
    with proxy_of(s3_server.url) as proxy:
        yield proxy


@pytest.fixture
def killed(tmp_path: Path, raw_bucket: ObjectStore, proxy: Proxy) -> Workspace:
    """A project that is about to be collected, and killed, through a proxy."""
    through_proxy = ObjectStore(raw_bucket.bucket, proxy.url)
    return open_workspace(write_project(tmp_path / "killed", through_proxy))


@pytest.fixture
def undisturbed(tmp_path: Path, raw_bucket: ObjectStore) -> Workspace:
    """The same project, which is collected without trouble."""
    return open_workspace(write_project(tmp_path / "undisturbed", raw_bucket))


def require_same_after_a_run_each(killed: Workspace, undisturbed: Workspace) -> None:
    require_nothing_published(killed)
    for ws in (killed, undisturbed):
        collect(ws, RECEIVED_AT + timedelta(days=1), lambda _: None)
    assert published(killed) == published(undisturbed)
    assert {name: len(several) for name, several in published(killed).items()} == {
        RAW_EVENTS.name: 1,
        QUARANTINE.name: 1,
    }


# kill -9 -------------------------------------------------------------------------------------------------------------


def test_killed_while_it_reads_it_leaves_no_process_and_a_run_after_it_publishes_the_same(
    killed: Workspace, undisturbed: Workspace, proxy: Proxy
) -> None:
    # Two batches, so that there are two processes: a long line is the fastest way to have many bytes.
    for name in ("a", "b", "c"):
        long_line = os.urandom(1) * (33 << 20)
        put_object(
            undisturbed.raw, f"usage/{name}.ndjson", event_line(1) + long_line + b"\n" + event_line(2), RECEIVED_AT
        )
    proxy.failures = {"usage/c.ndjson": ["hang"]}

    with collecting(killed.project.folder, workers=2) as process:
        wait_until(proxy.is_hanging.is_set, process)
        below = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(below) >= 1  # the process itself collects too
        give_up_at = time.monotonic() + 10
        while any(is_running(pid) for pid in below):
            assert time.monotonic() < give_up_at, "a process goes on although its parent is gone"
            time.sleep(0.01)

    assert not list((killed.project.folder / "lake").rglob("*.parquet"))
    require_same_after_a_run_each(killed, undisturbed)


def test_killed_between_data_and_manifest_it_publishes_nothing_and_a_run_after_it_the_same(
    killed: Workspace, undisturbed: Workspace
) -> None:
    # Many event dates are many files, so that the first of them is there long before the manifest.
    first = datetime(2024, 1, 1, 12, tzinfo=UTC)
    days = [(first + timedelta(days=day)).isoformat() for day in range(200)]
    lines = [event_line(number, time=day) for number, day in enumerate(days)]
    put_object(undisturbed.raw, "usage/a.ndjson", b"".join([*lines, b"torn\n"]), RECEIVED_AT)
    lake = killed.project.folder / "lake"

    with collecting(killed.project.folder) as process:
        wait_until(lambda: next(lake.glob("data/raw_events/*/*.parquet"), None), process)
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert 0 < len(list(lake.glob("data/raw_events/*/*.parquet"))) < 200
    assert not (lake / "manifests").exists()
    require_same_after_a_run_each(killed, undisturbed)


def test_killed_between_manifest_and_commit_it_publishes_nothing_and_a_run_after_it_the_same(
    killed: Workspace, undisturbed: Workspace
) -> None:
    put_object(undisturbed.raw, "usage/a.ndjson", event_line(1) + b"torn\n" + event_line(2), RECEIVED_AT)
    lake = killed.project.folder / "lake"

    with closing(sqlite3.connect(killed.project.folder / "control_plane.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can commit
        with collecting(killed.project.folder) as process:
            wait_until(lambda: len(list(lake.glob("manifests/*.json"))) == 2, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        other.execute("ROLLBACK")

    require_same_after_a_run_each(killed, undisturbed)


# Memory --------------------------------------------------------------------------------------------------------------

MEMORY_CONTRACT = CONTRACT + "[limits]\ndecompression_ratio_max = 1_000_000\n"


def peak_bytes(
    tmp_path: Path, raw: ObjectStore, content: bytes, contract: str = MEMORY_CONTRACT
) -> tuple[int, Workspace]:
    """Return the most memory that collecting one object takes."""
    put_object(raw, "usage/a.ndjson", content, RECEIVED_AT)
    ws = open_workspace(write_project(tmp_path, raw, {"sources/usage.toml": contract}))
    return finished(ws.project.folder), ws


def repeated(content: bytes, times: int) -> bytes:
    """Return a zstd object of the same bytes again and again, without having them all in memory."""
    compressor = zstd.ZstdCompressor(level=1)
    return b"".join([*(compressor.compress(content) for _ in range(times)), compressor.flush()])


def test_memory_does_not_grow_with_an_object(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    lines = b"".join(event_line(number) for number in range(20_000))

    small, _ = peak_bytes(tmp_path / "small", raw_bucket, repeated(lines, 8))
    large, ws = peak_bytes(tmp_path / "large", raw_bucket, repeated(lines, 32))

    [taken] = ws.control_plane.ledger()
    assert taken.raw_event_count == 640_000
    assert large < 1.2 * small
    assert large < 600 << 20


@pytest.mark.parametrize(
    ("content", "times", "contract", "expected"),
    [
        pytest.param(b"x" * (1 << 20), 400, MEMORY_CONTRACT, {"line_too_long": 1}, id="a line of 400 MB"),
        pytest.param(b"x" * (1 << 20), 400, CONTRACT, {"compression_ratio_too_high": 1}, id="a bomb"),
        pytest.param(b"torn\n" * 5_000, 12, MEMORY_CONTRACT, {"malformed_line": 60_000}, id="broken lines only"),
    ],
)
def test_hostile_input_leaves_memory_flat(
    tmp_path: Path, raw_bucket: ObjectStore, content: bytes, times: int, contract: str, expected: dict[str, int]
) -> None:
    small, _ = peak_bytes(tmp_path / "small", raw_bucket, event_line(1))

    large, ws = peak_bytes(tmp_path / "large", raw_bucket, repeated(content, times), contract)

    rows = [
        reason
        for one in published(ws)[QUARANTINE.name]
        for file in Manifest.from_bytes(one).files
        for reason in pq.ParquetFile(ws.lake.local_file(file.path)).read(["reason"])["reason"].to_pylist()
    ]
    assert Counter(rows) == expected
    assert large < small + (150 << 20)
