"""One small night with everything in it, for the tests of the gates, the report and the status.

Window 2026-01-15, cut off at 2026-01-16T06:00Z. What is put in, and what has to come out:

    10 lines received this night, of four objects; 2 quarantined (one torn line, one empty object)
    8 events, 1 of them of the next window; 1 late one of this window comes in the next night
    8 raw events of the window: 3 billed, 2 copies of others (1 in conflict), 1 late, 1 without account, 1 unreadable
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import DATASETS, EXCLUDED_EVENTS, LINE_ITEMS, USAGE, USAGE_LEVELS, USAGE_VALUES, Dataset
from pipeline.core.manifest import Receipt
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.window import ONE_DAY, BillingWindow
from pipeline.steps.aggregate import aggregate
from pipeline.steps.collect import collect
from pipeline.steps.deduplicate import deduplicate, revision_pins
from pipeline.steps.publish import dataset_files, publish_next, publish_revision, read_manifest
from pipeline.steps.rate import rate
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import put_events, put_object, usage_event, write_project

START = datetime(2026, 1, 15, tzinfo=UTC)
WINDOW = BillingWindow(START, START + ONE_DAY)
CUTOFF = WINDOW.end + timedelta(hours=6)
AT = CUTOFF + timedelta(minutes=1)


def put_night(raw: ObjectStore) -> None:
    """Put the objects of the night, and the one that comes late, into the bucket."""
    put_events(
        raw,
        "usage/a.ndjson",
        [
            usage_event(id="a"),
            usage_event(id="b", subject="customer-2", data={"input_tokens": "0.5"}),
            usage_event(id="a"),
            usage_event(id="b", subject="customer-2", data={"input_tokens": 7}),
            usage_event(id="nobody", subject="customer-404"),
        ],
        START + timedelta(hours=13),
    )
    put_events(
        raw,
        "usage/b.ndjson",
        [
            usage_event(id="c", subject="customer-3", data={"input_tokens": 2_000_001}),
            usage_event(id="next-day", time="2026-01-16T01:00:00Z"),
            usage_event(id="unreadable", data={"input_tokens": "many"}),
        ],
        CUTOFF - timedelta(microseconds=1),
    )
    put_object(raw, "usage/c.ndjson", b'{"source": "api", "id": "torn', START + timedelta(hours=14))
    put_object(raw, "usage/d.ndjson", b"", START + timedelta(hours=15))
    put_events(raw, "usage/late.ndjson", [usage_event(id="late", data={"input_tokens": 40})], CUTOFF)


def computed_night(ws: Workspace) -> WindowRevision:
    """Return the revision of the night, computed up to the drafts; no gate has run yet."""
    put_night(ws.raw)
    collect(ws, AT, lambda _: None)
    return compute(ws)


@pytest.fixture(scope="session")
def computed_project(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Endpoint) -> Path:
    """The folder of a project with the computed night; a test works on its own copy."""
    raw = ObjectStore("computed-night", s3_server.url)
    raw.create_bucket()
    folder = write_project(tmp_path_factory.mktemp("night") / "project", raw)
    computed_night(open_workspace(folder))
    return folder


@pytest.fixture
def night(computed_project: Path, tmp_path: Path) -> Workspace:
    """An open copy of the project with the computed night."""
    return open_workspace(Path(shutil.copytree(computed_project, tmp_path / "night")))


def revision_of(ws: Workspace) -> WindowRevision:
    """Return the newest revision of the night's window."""
    revision = ws.control_plane.latest_revision(WINDOW.window_id)
    assert revision is not None
    return revision


def compute(ws: Workspace, at: datetime = AT, *, include_late: bool = False) -> WindowRevision:
    """Compute the window from what is collected, up to the drafts."""
    revision = deduplicate(ws, WINDOW, at, include_late=include_late)
    aggregate(ws, revision.window_id, revision.revision, at)
    rate(ws, revision.window_id, revision.revision, at)
    return revision


def forged_revision(ws: Workspace, revision: WindowRevision, queries: Mapping[str, str]) -> WindowRevision:
    """Return the next revision, published with rows that a step never made: each query is over its own dataset."""
    forged = ws.control_plane.open_revision(
        replace(revision, revision=revision.revision + 1, inputs_hash="f" * 64, state=RevisionState.CANDIDATE), AT
    )
    for dataset in (EXCLUDED_EVENTS, USAGE_VALUES, USAGE_LEVELS, USAGE):
        query = queries.get(dataset.name, f"SELECT * FROM {dataset.name}")
        files = dataset_files(ws, dataset, revision.scope, revision.revision)
        with TemporaryDirectory(dir=ws.scratch) as folder:
            forgery = forged_file(ws, dataset, files, query, Path(folder))
            publish_revision(ws, dataset, forged.scope, forged.revision, [forgery], revision_pins(forged), AT)
    assert set(queries) <= set(DATASETS)
    rate(ws, forged.window_id, forged.revision, AT)
    return forged


def forged_draft(ws: Workspace, period_id: str, query: str) -> Receipt:
    """Publish the next draft of a period with rows that rating never made, as if rated from the same usage."""
    scope = f"period={period_id}"
    draft = ws.control_plane.publication(LINE_ITEMS.name, scope)
    assert draft is not None
    pins = read_manifest(ws, draft.manifest_hash).pins
    with TemporaryDirectory(dir=ws.scratch) as folder:
        forgery = forged_file(ws, LINE_ITEMS, dataset_files(ws, draft), query, Path(folder))
        return publish_next(ws, LINE_ITEMS, scope, forgery, pins, AT)


def forged_file(ws: Workspace, dataset: Dataset, files: list[Path], query: str, folder: Path) -> Path:
    with Warehouse(ws.scratch) as warehouse:
        warehouse.view_files(dataset.name, dataset, files)
        casts = ", ".join(f"CAST({name} AS {sql_type}) AS {name}" for name, sql_type in dataset.columns)
        warehouse.connection.execute(f"CREATE TEMP TABLE forged_rows AS SELECT {casts} FROM ({query})")
        return warehouse.write_table("forged_rows", folder / "forged.parquet", dataset)
