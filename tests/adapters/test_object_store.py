"""The object store and the S3 server, against each other: a real server, no stand-in."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.adapters.object_store import ListedObject, ObjectStore, objects_of
from pipeline.adapters.s3_server import S3Endpoint, serve_s3
from pipeline.core.errors import InputError, NotReadyError
from tests.fixtures_s3 import put_object

RECEIVED_AT = datetime(2026, 1, 15, 23, 59, 59, 123_000, tzinfo=UTC)


def listed(store: ObjectStore, key: str) -> ListedObject:
    [found] = [found for found in store.list_objects() if found.key == key]
    return found


def test_listing_names_key_etag_size_and_receipt_time_in_utc(raw_bucket: ObjectStore) -> None:
    put_object(raw_bucket, "usage/a b+ü.ndjson", b"{}\n", RECEIVED_AT)

    found = list(raw_bucket.list_objects())

    md5 = hashlib.md5(b"{}\n").hexdigest()
    assert found == [ListedObject("usage/a b+ü.ndjson", md5, 3, RECEIVED_AT)]
    assert found[0].last_modified.utcoffset() == timedelta(0)


def test_listing_goes_on_after_the_first_thousand_objects(raw_bucket: ObjectStore) -> None:
    keys = [f"many/{number:04d}" for number in range(1_001)]
    for key in keys:
        raw_bucket.put_bytes(key, b"x")

    assert [found.key for found in raw_bucket.list_objects("many/")] == keys
    assert list(raw_bucket.list_objects("few/")) == []


def test_a_download_is_the_listed_object_and_names_its_sha256(raw_bucket: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    raw_bucket.put_bytes("big", content)

    digest = raw_bucket.download(listed(raw_bucket, "big"), tmp_path / "big")

    assert (tmp_path / "big").read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()


def test_a_large_file_sent_in_parts_has_one_version_in_listing_and_download(
    raw_bucket: ObjectStore, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate((64 << 20) + 1)
    raw_bucket.put_file("large", source)

    digest = raw_bucket.download(listed(raw_bucket, "large"), tmp_path / "copy")

    assert digest == hashlib.file_digest(source.open("rb"), "sha256").hexdigest()


def test_an_object_replaced_after_the_listing_is_refused_and_leaves_no_file(
    raw_bucket: ObjectStore, tmp_path: Path
) -> None:
    raw_bucket.put_bytes("a", b"first")
    before = listed(raw_bucket, "a")
    raw_bucket.put_bytes("a", b"other")

    with pytest.raises(NotReadyError, match="replaced after it was listed"):
        raw_bucket.download(before, tmp_path / "a")

    assert not (tmp_path / "a").exists()


def test_an_object_shorter_than_listed_is_refused(raw_bucket: ObjectStore, tmp_path: Path) -> None:
    raw_bucket.put_bytes("a", b"12345")
    found = listed(raw_bucket, "a")
    longer = ListedObject(found.key, found.version, 6, found.last_modified)

    with pytest.raises(NotReadyError, match="expected 6 bytes, got 5"):
        raw_bucket.download(longer, tmp_path / "a")


def test_an_object_that_is_not_there_does_not_exist_and_cannot_be_read(raw_bucket: ObjectStore) -> None:
    raw_bucket.put_bytes("a", b"1")

    assert raw_bucket.exists("a")
    assert not raw_bucket.exists("b")
    with pytest.raises(NotReadyError) as refusal:
        raw_bucket.get_bytes("b")
    assert refusal.value.code == "object_store.no_such_object"


def test_creating_a_bucket_twice_keeps_what_is_in_it(raw_bucket: ObjectStore) -> None:
    raw_bucket.put_bytes("a", b"1")

    raw_bucket.create_bucket()

    assert raw_bucket.get_bytes("a") == b"1"


def test_folder_markers_are_not_objects_but_empty_files_are() -> None:
    page = [
        {"Key": key, "Size": size, "ETag": '"e"', "LastModified": RECEIVED_AT}
        for key, size in (("folder/", 0), ("folder/empty", 0), ("odd/", 1))
    ]

    assert [found.key for found in objects_of(page)] == ["folder/empty", "odd/"]


def test_a_missing_bucket_is_an_input_error_that_names_bucket_and_endpoint(s3_server: S3Endpoint) -> None:
    store = ObjectStore("no-such-bucket", s3_server.url)

    with pytest.raises(InputError) as refusal:
        list(store.list_objects())

    assert refusal.value.code == "object_store.no_such_bucket"
    assert "no-such-bucket" in str(refusal.value)
    assert s3_server.url in str(refusal.value)


def test_wrong_credentials_are_an_input_error(raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-server")
    store = ObjectStore(raw_bucket.bucket, raw_bucket.endpoint_url)

    with pytest.raises(InputError) as refusal:
        list(store.list_objects())

    assert refusal.value.code == "object_store.access_denied"


def test_missing_credentials_are_an_input_error(
    raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = ObjectStore(raw_bucket.bucket, raw_bucket.endpoint_url)

    with pytest.raises(InputError) as refusal:
        list(store.list_objects())

    assert refusal.value.code == "object_store.no_credentials"


def test_an_endpoint_that_does_not_answer_is_worth_a_retry(s3_server: S3Endpoint) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = ObjectStore("raw", f"http://127.0.0.1:{unused.getsockname()[1]}")

        with pytest.raises(NotReadyError) as refusal:
            list(store.list_objects())

    assert refusal.value.code == "object_store.unavailable"


def test_a_proxy_in_the_environment_is_not_asked_for_loopback(
    raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    assert not ObjectStore(raw_bucket.bucket, raw_bucket.endpoint_url).exists("a")


def test_the_server_stops_when_the_block_ends_also_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), serve_s3(tmp_path / "served") as endpoint:
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(endpoint.url)
        raise ZeroDivisionError

    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(endpoint.url)


def test_the_server_stops_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from pipeline.adapters.s3_server import serve_s3
with serve_s3(Path(sys.argv[1])) as endpoint:
    print(endpoint.url, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        host, port = starter.stdout.readline().strip().removeprefix("http://").split(":")
        socket.create_connection((host, int(port))).close()

        starter.kill()

        for _ in range(500):
            try:
                socket.create_connection((host, int(port))).close()
            except ConnectionRefusedError:
                return
            time.sleep(0.02)
    raise AssertionError("the server is still there ten seconds after its process was killed")


def test_objects_and_their_receipt_times_outlive_the_server(
    tmp_path: Path, s3_server: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for turn in range(2):
        with serve_s3(tmp_path / "served") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)
            store = ObjectStore("kept", endpoint.url)
            if turn == 0:
                store.create_bucket()
                put_object(store, "a", b"1", RECEIVED_AT)
            seen.append(list(store.list_objects()))

    assert seen[0] == seen[1]


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        with pytest.raises(NotReadyError, match="did not start"), serve_s3(tmp_path, taken.getsockname()[1]):
            pass
