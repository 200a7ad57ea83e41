"""Publishing: data files first, then the manifest, then the one row of the control plane that makes them visible.

A step that is killed before that row leaves files that nobody reads. A step that runs again writes the same
files and finds its own row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.adapters.event_files import PartitionFile
from pipeline.adapters.parquet_records import count_records
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import Dataset
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import DataFile, Manifest, Receipt, canonical_json
from pipeline.steps.workspace import Workspace


def store_manifest(
    workspace: Workspace,
    dataset: Dataset,
    scope: str,
    revision: int,
    local_files: Sequence[tuple[Path, str]],
    pins: Mapping[str, Any],
) -> Manifest:
    """Put data files, each with its partition (an event date, or empty), and then their manifest into the lake.

    Nothing is visible yet: the manifest still has to be committed.
    """
    paths = [local for local, _ in local_files]
    with Warehouse(workspace.scratch) as warehouse:
        _, content_hash = warehouse.describe_file(dataset, paths)
    described = [PartitionFile(partition, local, count_records(local)) for local, partition in local_files]
    return store_files(workspace, dataset, scope, revision, described, content_hash, pins)


def store_files(
    workspace: Workspace,
    dataset: Dataset,
    scope: str,
    revision: int,
    files: Sequence[PartitionFile],
    content_hash: str,
    pins: Mapping[str, Any],
) -> Manifest:
    """Put data files whose rows are counted and hashed already, and then their manifest, into the lake.

    Files without a partition stay in the order given, which is that of their rows.
    """
    stored = []
    for file in files:
        directory = f"data/{dataset.name}" + (f"/event_date={file.partition}" if file.partition else "")
        ref = workspace.lake.put_file(file.path, directory, ".parquet")
        stored.append(DataFile(ref.path, ref.sha256, file.row_count, ref.byte_count, file.partition))
    if any(file.partition for file in stored):
        stored.sort()
    row_count = sum(file.row_count for file in files)
    return _store(workspace, Manifest(dataset.name, scope, revision, tuple(stored), row_count, content_hash, pins))


def publish_revision(
    workspace: Workspace,
    dataset: Dataset,
    scope: str,
    revision: int,
    local_files: Sequence[Path],
    pins: Mapping[str, Any],
    at: datetime,
) -> Receipt:
    """Publish one revision of a dataset. The same rows and pins again are a no-op, other ones are refused."""
    local_and_partition = [(local, "") for local in local_files]
    return workspace.control_plane.publish(
        store_manifest(workspace, dataset, scope, revision, local_and_partition, pins), at
    )


def publish_next(
    workspace: Workspace,
    dataset: Dataset,
    scope: str,
    local_files: Sequence[Path],
    pins: Mapping[str, Any],
    at: datetime,
) -> Receipt:
    """Publish the next revision of a dataset, or return the newest one if it has the same rows and pins.

    The files, one after the other, have the rows in the dataset's total order.
    """
    with Warehouse(workspace.scratch) as warehouse:
        _, content_hash = warehouse.describe_file(dataset, local_files)
    newest = workspace.control_plane.publication(dataset.name, scope)
    if newest is not None and _is_same(workspace, newest, content_hash, pins):
        return newest
    revision = 1 if newest is None else newest.revision + 1
    return publish_revision(workspace, dataset, scope, revision, local_files, pins, at)


def publish_document(
    workspace: Workspace, name: str, scope: str, content: Any, pins: Mapping[str, Any], at: datetime
) -> Receipt:
    """Publish a JSON value as the next revision of a document, or return the newest one if it is the same."""
    encoded = canonical_json(content)
    ref = workspace.lake.put_bytes(encoded, "documents", ".json")
    newest = workspace.control_plane.publication(name, scope)
    if newest is not None and _is_same(workspace, newest, ref.sha256, pins):
        return newest
    revision = 1 if newest is None else newest.revision + 1
    file = DataFile(ref.path, ref.sha256, 1, ref.byte_count)
    return workspace.control_plane.publish(
        _store(workspace, Manifest(name, scope, revision, (file,), 1, ref.sha256, pins)), at
    )


def read_document(workspace: Workspace, manifest_hash: str) -> Any:
    """Return the JSON value that a manifest of ``publish_document`` names, verified."""
    (document,) = read_manifest(workspace, manifest_hash).files
    return json.loads(workspace.lake.get_bytes(document.path))


def read_manifest(workspace: Workspace, manifest_hash: str) -> Manifest:
    """Return the manifest of that hash, verified."""
    return Manifest.from_bytes(workspace.lake.get_bytes(f"manifests/{manifest_hash}.json"))


def manifest_files(workspace: Workspace, manifest_hash: str) -> list[Path]:
    """Return verified local files of a manifest, in the manifest's order."""
    return [workspace.lake.local_file(file.path) for file in read_manifest(workspace, manifest_hash).files]


def dataset_files(
    workspace: Workspace, published: Receipt | Dataset | str, scope: str | None = None, revision: int | None = None
) -> list[Path]:
    """Return verified local files of a publication: of a receipt, or of a dataset's scope and revision (or newest).

    A publication that does not exist is refused; it is never the same as an empty one.
    """
    if isinstance(published, Receipt):
        return manifest_files(workspace, published.manifest_hash)
    name = published.name if isinstance(published, Dataset) else published
    if scope is None:
        raise TypeError("a dataset's files are those of a scope, such as window=2026-01-15")
    receipt = workspace.control_plane.publication(name, scope, revision)
    if receipt is None:
        which = "" if revision is None else f" revision {revision}"
        raise PublicationError(
            "publish.not_published",
            f"{name} {scope}{which} is not published",
            ["the step that writes it has not finished; run the steps of the window in their order"],
        )
    return manifest_files(workspace, receipt.manifest_hash)


def pin_file(workspace: Workspace, content: bytes) -> str:
    """Keep the bytes of an input in the lake and return their SHA-256, to be named in a manifest."""
    return workspace.lake.put_bytes(content, "pins", "").sha256


def _store(workspace: Workspace, manifest: Manifest) -> Manifest:
    workspace.lake.put_bytes(manifest.to_bytes(), "manifests", ".json")
    return manifest


def _is_same(workspace: Workspace, newest: Receipt, content_hash: str, pins: Mapping[str, Any]) -> bool:
    if newest.content_hash != content_hash:
        return False
    return canonical_json(read_manifest(workspace, newest.manifest_hash).pins) == canonical_json(dict(pins))
