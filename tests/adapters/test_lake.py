"""The lake keeps bytes under their hash, locally and behind a real S3 server, and never returns other ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.adapters.lake import Lake, LocalLake, S3Lake, open_lake
from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import sha256_hex
from pipeline.core.project import LakeSettings, ProjectSettings, RawSettings, SellerSettings, WindowSettings

CONTENT = b"one row of usage"
PATH = f"data/usage/{sha256_hex(CONTENT)}.parquet"


@pytest.fixture(params=["local", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "local":
        return LocalLake(tmp_path / "lake")
    return S3Lake(request.getfixturevalue("raw_bucket"), "the/lake/", tmp_path / "staging")


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_bytes_are_kept_under_their_hash(lake: Lake) -> None:
    ref = lake.put_bytes(CONTENT, "data/usage", ".parquet")

    assert (ref.path, ref.sha256, ref.byte_count) == (PATH, sha256_hex(CONTENT), len(CONTENT))
    assert lake.get_bytes(ref.path) == CONTENT
    assert lake.local_file(ref.path).read_bytes() == CONTENT


def test_a_file_and_its_bytes_have_the_same_path(lake: Lake, tmp_path: Path) -> None:
    local = tmp_path / "usage.parquet"
    local.write_bytes(CONTENT)

    assert lake.put_file(local, "data/usage", ".parquet") == lake.put_bytes(CONTENT, "data/usage", ".parquet")
    assert local.read_bytes() == CONTENT


def test_a_partition_is_a_folder_and_a_suffix_may_be_empty(lake: Lake) -> None:
    partitioned = lake.put_bytes(CONTENT, "data/raw_events/event_date=2026-01-15", ".parquet")
    pinned = lake.put_bytes(CONTENT, "pins", "")

    assert lake.get_bytes(partitioned.path) == lake.get_bytes(pinned.path) == CONTENT


def test_a_file_that_is_not_there_is_named(lake: Lake) -> None:
    with pytest.raises(PublicationError, match=rf"lake\.file_missing: {PATH} "):
        lake.get_bytes(PATH)


@pytest.mark.parametrize("path", ["../secret", f"../{PATH}", "data/usage/latest.parquet", f"/{PATH}", "data/.."])
def test_a_path_that_does_not_name_a_hash_below_the_root_is_refused(lake: Lake, path: str) -> None:
    with pytest.raises(ValueError, match="a path of the lake"):
        lake.local_file(path)


def test_a_flipped_byte_in_a_local_lake_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    lake = LocalLake(tmp_path)
    ref = lake.put_bytes(CONTENT, "data/usage", ".parquet")
    (tmp_path / ref.path).write_bytes(b"X" + CONTENT[1:])

    for read in (lake.get_bytes, lake.local_file):
        with pytest.raises(PublicationError, match=rf"lake\.content_changed: {ref.path} "):
            read(ref.path)


def test_storing_the_bytes_again_mends_a_file_that_was_changed(tmp_path: Path) -> None:
    lake = LocalLake(tmp_path)
    ref = lake.put_bytes(CONTENT, "data/usage", ".parquet")
    (tmp_path / ref.path).write_bytes(b"")

    lake.put_bytes(CONTENT, "data/usage", ".parquet")

    assert lake.get_bytes(ref.path) == CONTENT


def test_storing_the_same_bytes_again_changes_no_file(tmp_path: Path) -> None:
    lake = LocalLake(tmp_path)
    ref = lake.put_bytes(CONTENT, "data/usage", ".parquet")
    written_at = (tmp_path / ref.path).stat().st_mtime_ns

    lake.put_bytes(CONTENT, "data/usage", ".parquet")

    assert (tmp_path / ref.path).stat().st_mtime_ns == written_at
    assert files_below(tmp_path) == [ref.path]


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    lake = LocalLake(tmp_path / "lake")

    with pytest.raises(IsADirectoryError):
        lake.put_file(tmp_path, "data/usage", ".parquet")
    with pytest.raises(ValueError, match="a path of the lake"):
        lake.put_bytes(CONTENT, "data/usage", "/../../escaped")

    assert files_below(tmp_path) == []


def test_a_flipped_byte_in_the_bucket_is_refused_with_the_name_of_the_file(
    raw_bucket: ObjectStore, tmp_path: Path
) -> None:
    ref = S3Lake(raw_bucket, "lake", tmp_path / "staging").put_bytes(CONTENT, "data/usage", ".parquet")
    raw_bucket.put_bytes(f"lake/{ref.path}", b"X" + CONTENT[1:])

    elsewhere = S3Lake(raw_bucket, "lake", tmp_path / "other staging")
    with pytest.raises(PublicationError, match=rf"lake\.content_changed: {ref.path} "):
        elsewhere.local_file(ref.path)

    assert files_below(tmp_path / "other staging") == []


def test_a_flipped_byte_in_the_staging_folder_is_fetched_again(raw_bucket: ObjectStore, tmp_path: Path) -> None:
    lake = S3Lake(raw_bucket, "lake", tmp_path / "staging")
    ref = lake.put_bytes(CONTENT, "data/usage", ".parquet")
    lake.local_file(ref.path).write_bytes(b"X" + CONTENT[1:])

    assert lake.get_bytes(ref.path) == CONTENT


def test_another_machine_reads_what_this_one_wrote(raw_bucket: ObjectStore, tmp_path: Path) -> None:
    ref = S3Lake(raw_bucket, "lake", tmp_path / "here").put_bytes(CONTENT, "data/usage", ".parquet")

    assert S3Lake(raw_bucket, "lake", tmp_path / "there").get_bytes(ref.path) == CONTENT
    assert [listed.key for listed in raw_bucket.list_objects()] == [f"lake/{ref.path}"]


def test_an_upload_that_was_cut_off_is_mended_by_storing_again(raw_bucket: ObjectStore, tmp_path: Path) -> None:
    lake = S3Lake(raw_bucket, "", tmp_path / "staging")
    ref = lake.put_bytes(CONTENT, "data/usage", ".parquet")
    raw_bucket.put_bytes(ref.path, CONTENT[:3])

    lake.put_bytes(CONTENT, "data/usage", ".parquet")

    assert raw_bucket.get_bytes(ref.path) == CONTENT


def test_the_url_of_the_lake_says_where_it_is(tmp_path: Path) -> None:
    def opened(url: str) -> Lake:
        settings = ProjectSettings(
            name="test",
            window=WindowSettings.model_validate({"first_window": "2026-01-01"}),
            raw=RawSettings(bucket="raw-usage"),
            lake=LakeSettings(url=url),
            seller=SellerSettings(legal_entity="Test Ltd", number_series="TEST"),
        )
        return open_lake(settings, tmp_path, "http://127.0.0.1:9", tmp_path / "staging")

    ref = opened("my-lake").put_bytes(CONTENT, "pins", "")

    assert files_below(tmp_path) == [f"my-lake/{ref.path}"]
    assert isinstance(opened("s3://bucket/prefix"), S3Lake)


def test_a_lake_for_an_audit_reads_what_is_kept_and_refuses_to_write(lake: Lake, tmp_path: Path) -> None:
    ref = lake.put_bytes(CONTENT, "data/usage", ".parquet")
    audited = lake.read_only(tmp_path / "of the audit")

    assert audited.get_bytes(ref.path) == CONTENT
    assert audited.local_file(ref.path).read_bytes() == CONTENT
    with pytest.raises(PermissionError):
        audited.put_bytes(b"other", "data/usage", ".parquet")
    with pytest.raises(PermissionError):
        audited.put_file(audited.local_file(ref.path), "data/usage", ".parquet")
