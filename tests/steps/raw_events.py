"""Builders of raw events: rows as collect leaves them, committed as one collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.adapters.event_hash import key_hashes, payload_hashes
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import RAW_EVENTS, Dataset
from pipeline.core.manifest import sha256_hex
from pipeline.core.revision import Collection, LedgerObject
from pipeline.core.window import ONE_DAY, BillingWindow, parse_window
from pipeline.steps.aggregate import find_revision
from pipeline.steps.inputs import view_usage_events
from pipeline.steps.publish import dataset_files, store_manifest
from pipeline.steps.workspace import Workspace

WINDOW: BillingWindow = parse_window("2026-01-15", ONE_DAY)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


COLLECTED_AT = instant("2026-01-16T07:00:00Z")
CUTOFF_AT = instant("2026-01-16T06:00:00Z")


def raw_event(**changed: Any) -> dict[str, Any]:
    """Return a raw event of the test project's first customer: noon of 2026-01-15, received five minutes later."""
    return {
        "object_id": "usage/a.ndjson@000000000001",
        "line_number": 1,
        "source": "api",
        "id": "req-1",
        "type": "request.completed",
        "subject": "customer-1",
        "event_at": instant("2026-01-15T12:00:00Z"),
        "received_at": instant("2026-01-15T12:05:00Z"),
        "quantity": None,
        "data": '{"input_tokens":"1000"}',
        **changed,
    }


def key_hash(source: str, event_id: str) -> int:
    """Return the hash of a key as collect stores it."""
    return int(key_hashes(pa.chunked_array([[source]]), pa.chunked_array([[event_id]]))[0])


def payload_hash(quantity: Decimal | None, data: str | None) -> int:
    """Return the hash of a quantity and data as collect stores it."""
    quantities, texts = pa.array([quantity], pa.decimal128(38, 9)), pa.array([data], pa.string())
    return int(payload_hashes(pa.chunked_array([quantities]), pa.chunked_array([texts]))[0])


def hashed(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with its hashes, unless it has its own."""
    return {
        "key_hash": key_hash(event["source"], event["id"]),
        "payload_hash": payload_hash(event["quantity"], event["data"]),
        **event,
    }


def numbered(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each event its own line and, unless it has one, its own id."""
    return [
        {**event, "line_number": number, "id": f"req-{number}" if event["id"] == "req-1" else event["id"]}
        for number, event in enumerate(events, start=1)
    ]


def commit_raw_events(
    workspace: Workspace,
    events: Sequence[dict[str, Any]],
    listed_at: datetime = COLLECTED_AT,
    received_at: datetime | None = None,
) -> None:
    """Commit the events as one collection listed at that instant; no event at all moves the watermark only.

    The objects were received then too, unless another instant is given.
    """
    events = [hashed(event) for event in events]
    folder = workspace.scratch / "committed"
    files = []
    for event_date in sorted({event["event_at"].date().isoformat() for event in events}):
        rows = [
            tuple(event[column] for column in RAW_EVENTS.column_names)
            for event in events
            if event["event_at"].date().isoformat() == event_date
        ]
        files.append((write_rows(RAW_EVENTS, rows, folder / f"{event_date}.parquet"), event_date))
    counts = Counter(event["object_id"] for event in events)
    objects = tuple(
        _ledger_object(object_id, count, received_at or listed_at) for object_id, count in sorted(counts.items())
    )
    manifests = []
    if files:
        scope = f"collection={sha256_hex(' '.join(counts).encode())}"
        manifests.append(store_manifest(workspace, RAW_EVENTS, scope, 1, files, {}))
    workspace.control_plane.commit_collection(Collection(listed_at, objects), manifests, listed_at)


def write_rows(dataset: Dataset, rows: Sequence[Sequence[Any]], to: Path) -> Path:
    with Warehouse(to.parent) as warehouse:
        warehouse.table_rows("rows_to_write", dataset.columns, rows)
        return warehouse.write_table("rows_to_write", to, dataset)


def published_rows(workspace: Workspace, dataset: Dataset, revision: int) -> list[dict[str, Any]]:
    """Return the rows that a revision of the window published, in their order."""
    files = dataset_files(workspace, dataset, f"window={WINDOW.window_id}", revision)
    with Warehouse(workspace.scratch) as warehouse:
        warehouse.view_files("published", dataset, files)
        return warehouse.connection.table("published").to_arrow_table().to_pylist()


def billed_rows(workspace: Workspace, revision: int) -> list[dict[str, Any]]:
    """Return the usage events of a revision of the window, in order of source and id."""
    found = find_revision(workspace, WINDOW.window_id, revision)
    with Warehouse(workspace.scratch) as warehouse:
        view_usage_events(warehouse, workspace, found)
        return warehouse.connection.table("usage_events").order("source, id").to_arrow_table().to_pylist()


def published_bytes(workspace: Workspace, dataset: Dataset, revision: int) -> list[bytes]:
    files = dataset_files(workspace, dataset, f"window={WINDOW.window_id}", revision)
    return [file.read_bytes() for file in files]


def _ledger_object(object_id: str, count: int, received_at: datetime) -> LedgerObject:
    key, version = object_id.split("@")
    return LedgerObject(
        object_id, key, version, count, sha256_hex(object_id.encode()), "usage", received_at, count, count, 0
    )
