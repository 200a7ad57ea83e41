"""Publishing: data, then manifest, then the row that makes them visible; and what a reader is given back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.control_plane import ControlPlane
from pipeline.adapters.lake import LocalLake
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import USAGE
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import Manifest, Receipt, sha256_hex
from pipeline.steps.publish import (
    dataset_files,
    manifest_files,
    pin_file,
    publish_document,
    publish_next,
    publish_revision,
    read_manifest,
    store_manifest,
)
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import write_project

AT = datetime(2026, 1, 16, 7, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
SCOPE = "window=2026-01-15"
PINS = {"meters": sha256_hex(b"meters.toml")}


def usage_file(workspace: Workspace, *quantities: str, compression: str = "zstd") -> Path:
    """Write a file of `usage` with one row per quantity."""
    rows = [
        (
            "acct-1",
            "requests",
            "{}",
            AT + timedelta(hours=hour),
            "sum",
            number,
            number,
            "requests",
            1,
            81985529216486895,
        )
        for hour, number in enumerate(Decimal(quantity) for quantity in quantities)
    ]
    path = workspace.scratch / f"usage-{'-'.join(quantities)}-{compression}.parquet"
    with Warehouse(workspace.scratch) as warehouse:
        warehouse.table_rows("usage", USAGE.columns, rows)
        warehouse.write_table("usage", path, USAGE)
        if compression != "zstd":
            relation = warehouse.connection.read_parquet(str(path))
            relation.write_parquet(str(path), compression=compression)
    return path


def publish(workspace: Workspace, *quantities: str, revision: int = 1, pins: Any = PINS) -> Receipt:
    return publish_revision(workspace, USAGE, SCOPE, revision, [usage_file(workspace, *quantities)], pins, AT)


def lake_files(workspace: Workspace) -> list[Path]:
    lake = workspace.project.folder / "lake"
    return sorted(path for path in lake.rglob("*") if path.is_file())


def test_a_published_revision_can_be_read_from_its_receipt_or_its_name(workspace: Workspace) -> None:
    receipt = publish(workspace, "1", "2")

    [from_receipt] = dataset_files(workspace, receipt)
    assert [from_receipt] == dataset_files(workspace, USAGE, SCOPE, 1) == dataset_files(workspace, "usage", SCOPE)
    with Warehouse(workspace.scratch) as warehouse:
        assert warehouse.describe_file(USAGE, [from_receipt]) == (2, receipt.content_hash)


def test_the_manifest_names_each_file_by_hash_with_its_rows_and_the_pins(workspace: Workspace) -> None:
    manifest = read_manifest(workspace, publish(workspace, "1", "2").manifest_hash)

    [file] = manifest.files
    content = (workspace.project.folder / "lake" / file.path).read_bytes()
    assert (file.sha256, file.byte_count, file.row_count) == (sha256_hex(content), len(content), 2)
    assert file.path == f"data/usage/{file.sha256}.parquet"
    assert (manifest.row_count, manifest.pins) == (2, PINS)


def test_files_of_a_partitioned_dataset_lie_under_their_event_date(workspace: Workspace) -> None:
    files = [(usage_file(workspace, "1"), "2026-01-15"), (usage_file(workspace, "2", "3"), "2026-01-16")]

    manifest = store_manifest(workspace, USAGE, "collection=abc", 1, files, {})

    assert manifest.row_count == 3
    assert {(file.partition, file.row_count) for file in manifest.files} == {("2026-01-15", 1), ("2026-01-16", 2)}
    assert all(file.path.startswith(f"data/usage/event_date={file.partition}/") for file in manifest.files)


def test_publishing_the_same_again_writes_no_byte_and_no_row(workspace: Workspace) -> None:
    first = publish(workspace, "1")
    files = {path: path.stat().st_mtime_ns for path in lake_files(workspace)}
    audit_log = workspace.control_plane.audit_log()

    assert publish(workspace, "1") == first
    assert {path: path.stat().st_mtime_ns for path in lake_files(workspace)} == files
    assert workspace.control_plane.audit_log() == audit_log


def test_other_rows_for_a_published_revision_are_refused_and_the_published_ones_stand(workspace: Workspace) -> None:
    first = publish(workspace, "1")

    with pytest.raises(PublicationError, match=r"publish\.revision_exists.*other content"):
        publish(workspace, "2")

    assert workspace.control_plane.publication("usage", SCOPE, 1) == first


def test_a_revision_without_files_is_published_and_is_not_the_same_as_no_revision(workspace: Workspace) -> None:
    receipt = publish_revision(workspace, USAGE, SCOPE, 1, [], PINS, AT)

    assert receipt.row_count == 0
    assert dataset_files(workspace, USAGE, SCOPE, 1) == []
    with pytest.raises(PublicationError, match=r"publish\.not_published: usage window=2026-01-15 revision 2 "):
        dataset_files(workspace, USAGE, SCOPE, 2)


def test_a_step_killed_before_its_row_leaves_nothing_that_a_reader_finds(workspace: Workspace) -> None:
    store_manifest(workspace, USAGE, SCOPE, 1, [(usage_file(workspace, "1"), "")], PINS)

    assert workspace.control_plane.publication("usage", SCOPE) is None
    assert publish(workspace, "1").revision == 1


def test_the_row_is_written_only_when_data_and_manifest_are_in_the_lake(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_at_commit: list[bool] = []
    commit = ControlPlane.publish

    def look_and_commit(control_plane: ControlPlane, manifest: Manifest, at: datetime) -> Receipt:
        found_at_commit.append(bool(manifest_files(workspace, manifest.manifest_hash)))
        return commit(control_plane, manifest, at)

    monkeypatch.setattr(ControlPlane, "publish", look_and_commit)
    publish(workspace, "1")

    assert found_at_commit == [True]


def test_the_manifest_is_written_after_the_data_it_names(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(lake: LocalLake, local: Path, directory: str, suffix: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(LocalLake, "put_file", disk_full)
    with pytest.raises(OSError, match="disk full"):
        publish(workspace, "1")

    assert lake_files(workspace) == []


def test_a_flipped_byte_of_a_published_file_is_never_read(workspace: Workspace) -> None:
    receipt = publish(workspace, "1")
    [local] = dataset_files(workspace, receipt)
    content = bytearray(local.read_bytes())
    content[len(content) // 2] ^= 1
    local.write_bytes(content)

    with pytest.raises(PublicationError, match=rf"lake\.content_changed: data/usage/{local.name} "):
        dataset_files(workspace, receipt)


def test_the_next_revision_is_the_newest_one_again_while_rows_and_pins_are_the_same(workspace: Workspace) -> None:
    scope = "period=2026-01"
    first = publish_next(workspace, USAGE, scope, [usage_file(workspace, "1")], PINS, AT)
    again = publish_next(workspace, USAGE, scope, [usage_file(workspace, "1")], PINS, LATER)
    other_rows = publish_next(workspace, USAGE, scope, [usage_file(workspace, "2")], PINS, LATER)
    other_pins = publish_next(workspace, USAGE, scope, [usage_file(workspace, "2")], {"meters": "other"}, LATER)
    first_rows_again = publish_next(workspace, USAGE, scope, [usage_file(workspace, "1")], PINS, LATER)

    assert again == first
    assert [r.revision for r in (first, other_rows, other_pins, first_rows_again)] == [1, 2, 3, 4]


def test_rows_written_by_another_compression_are_the_same_rows(workspace: Workspace) -> None:
    first = publish_next(workspace, USAGE, SCOPE, [usage_file(workspace, "1", "2")], PINS, AT)

    assert (
        publish_next(workspace, USAGE, SCOPE, [usage_file(workspace, "1", "2", compression="gzip")], PINS, AT) == first
    )


def test_a_document_is_published_once_per_content(workspace: Workspace) -> None:
    first = publish_document(workspace, "check_results", SCOPE, {"passed": 7}, PINS, AT)
    again = publish_document(workspace, "check_results", SCOPE, {"passed": 7}, PINS, LATER)
    changed = publish_document(workspace, "check_results", SCOPE, {"passed": 6}, PINS, LATER)

    assert again == first
    assert changed.revision == 2
    [document] = dataset_files(workspace, "check_results", SCOPE, 1)
    assert json.loads(document.read_bytes()) == {"passed": 7}


def test_a_pinned_input_can_be_read_by_its_hash(workspace: Workspace) -> None:
    content = workspace.project.files["meters.toml"]

    sha256 = pin_file(workspace, content)

    assert workspace.lake.get_bytes(f"pins/{sha256}") == content


def test_the_same_publication_has_the_same_manifest_in_every_project(
    workspace: Workspace, project_folder: Path, tmp_path: Path
) -> None:
    elsewhere = open_workspace(write_project(tmp_path / "elsewhere", workspace.raw))

    assert publish(elsewhere, "1").manifest_hash == publish(workspace, "1").manifest_hash
