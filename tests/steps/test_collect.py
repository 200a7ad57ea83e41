"""Collect: every line of every new object is a raw event or a quarantined line, once, whatever happens."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.block_parser import Block, Bytes
from pipeline.adapters.decompress import zstd as zstd_library
from pipeline.adapters.object_store import ListedObject, ObjectStore
from pipeline.core.dataset import QUARANTINE, RAW_EVENTS, Dataset
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.manifest import Manifest, canonical_json, sha256_hex
from pipeline.core.reason import QuarantineReason
from pipeline.steps.collect import CollectResult, collect, object_id_of
from pipeline.steps.publish import dataset_files, read_manifest
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import put_events, usage_event, write_project
from tests.fixtures_s3 import put_object
from tests.steps.raw_events import key_hash, payload_hash

RECEIVED_AT = datetime(2026, 1, 15, 13, tzinfo=UTC)
LISTED_AT = datetime(2026, 1, 16, 6, tzinfo=UTC)

CSV_CONTRACT = """
name = "trace"
version = "1"
prefix = "trace/"
suffixes = [".csv"]
format = "csv"
received = "event_time"

[event]
id = { derive = "object_and_line" }
source = { constant = "trace" }
type = { constant = "inference" }
subject = { object_key = '(\\w+)\\.csv$' }
time = { field = "TIMESTAMP", time_zone = "UTC" }
quantity = { field = "ContextTokens", type = "decimal", minimum = 0 }

[event.data]
generated_tokens = { field = "GeneratedTokens", type = "decimal", minimum = 0 }
"""

TIGHT_CONTRACT = """
name = "tight"
version = "1"
prefix = "tight/"
format = "ndjson"

[limits]
line_bytes_max = 1024
object_bytes_max = 4096
quarantined_raw_bytes_max = 16

[event.data]
input_tokens = { field = "data.input_tokens", type = "decimal", minimum = 0 }
"""


def line(**changed: Any) -> bytes:
    return json.dumps(usage_event(**changed)).encode() + b"\n"


def silent(_: str) -> None:
    pass


def put(ws: Workspace, key: str, content: bytes, received_at: datetime = RECEIVED_AT) -> str:
    """Put an object and return its id."""
    put_object(ws.raw, key, content, received_at)
    [listed] = [listed for listed in ws.raw.list_objects(key) if listed.key == key]
    return object_id_of(listed)


def manifests(ws: Workspace, dataset: Dataset) -> list[Manifest]:
    object_ids = ws.control_plane.object_ids()
    return [read_manifest(ws, found) for found in ws.control_plane.collections_of(object_ids)[dataset.name]]


def rows(ws: Workspace, dataset: Dataset) -> list[dict[str, Any]]:
    """Return every collected row of a dataset, file by file, in the order they are written."""
    return [
        row
        for manifest in manifests(ws, dataset)
        for path in dataset_files(ws, dataset, manifest.scope)
        for row in pq.ParquetFile(path).read().to_pylist()
    ]


def quarantined(ws: Workspace) -> list[tuple[str, int, str]]:
    return [(row["object_id"].split("@")[0], row["line_number"], row["reason"]) for row in rows(ws, QUARANTINE)]


@pytest.fixture
def wide_workspace(tmp_path: Path, raw_bucket: ObjectStore) -> Workspace:
    """The test project with a CSV feed and a feed of tight limits added."""
    extra = {"sources/trace.toml": CSV_CONTRACT, "sources/tight.toml": TIGHT_CONTRACT}
    return open_workspace(write_project(tmp_path / "wide", raw_bucket, extra))


# What is read --------------------------------------------------------------------------------------------------------


def test_a_line_becomes_a_raw_event_with_its_object_line_and_receipt_time(workspace: Workspace) -> None:
    object_id = put(workspace, "usage/a.ndjson", b"\n" + line(id="a") + line(id="b", time="2026-01-14T23:59:59Z"))

    result = collect(workspace, LISTED_AT, silent)

    byte_count = len(b"\n" + line(id="a") + line(id="b", time="2026-01-14T23:59:59Z"))
    assert result == CollectResult(1, 2, 0, byte_count, by_reason={}, unclaimed_keys=(), pending={})
    second, first = rows(workspace, RAW_EVENTS)
    assert first == {
        "object_id": object_id,
        "line_number": 2,
        "source": "api",
        "id": "a",
        "type": "request.completed",
        "subject": "customer-1",
        "event_at": datetime(2026, 1, 15, 12, tzinfo=UTC),
        "received_at": RECEIVED_AT,
        "quantity": None,
        "data": '{"input_tokens":"1000"}',
        "key_hash": key_hash("api", "a"),
        "payload_hash": payload_hash(None, '{"input_tokens":"1000"}'),
    }
    assert (second["id"], second["line_number"]) == ("b", 3)


def test_there_is_one_file_per_event_date_and_each_names_its_date(workspace: Workspace) -> None:
    days = ["2026-01-14", "2026-01-15", "2026-01-16"]
    for name in ("b", "a"):
        put(workspace, f"usage/{name}.ndjson", b"".join(line(id=name + day, time=f"{day}T12:00:00Z") for day in days))

    collect(workspace, LISTED_AT, silent)

    [manifest] = manifests(workspace, RAW_EVENTS)
    assert sorted((file.partition, file.row_count) for file in manifest.files) == [(day, 2) for day in days]
    for file in manifest.files:
        table = pq.ParquetFile(workspace.lake.local_file(file.path)).read()
        assert {str(moment.as_py().date()) for moment in table["event_at"]} == {file.partition}
        assert file.path.startswith(f"data/raw_events/event_date={file.partition}/")
        assert [row["object_id"].split("@")[0] for row in table.to_pylist()] == ["usage/a.ndjson", "usage/b.ndjson"]


def test_a_csv_file_is_read_through_its_contract(wide_workspace: Workspace) -> None:
    header = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    content = header + b"2023-11-16 18:17:03.9799600,4808,10\r\n\r\n2023-11-16 18:17:04.0319600,3180,8"
    object_id = put(wide_workspace, "trace/Trace_code.csv", content)

    collect(wide_workspace, LISTED_AT, silent)

    found = rows(wide_workspace, RAW_EVENTS)
    assert [row["id"] for row in found] == [f"{object_id}:2", f"{object_id}:4"]
    assert found[0]["subject"] == "Trace_code"
    assert found[0]["event_at"] == found[0]["received_at"] == datetime(2023, 11, 16, 18, 17, 3, 979_960, tzinfo=UTC)
    assert [row["quantity"] for row in found] == [Decimal(4808), Decimal(3180)]
    assert [row["data"] for row in found] == ['{"generated_tokens":"10"}', '{"generated_tokens":"8"}']
    [taken] = wide_workspace.control_plane.ledger()
    assert (taken.line_count, taken.received_at) == (2, RECEIVED_AT)


def test_every_quantity_that_fits_the_column_is_stored_exactly_however_it_is_written(wide_workspace: Workspace) -> None:
    largest = "99999999999999999999999999999.999999999"
    written = [f"{largest}0", "0E+50", "1e-9", "1.5000000000000", "007"]
    lines = [f"2023-11-16 18:17:03,{quantity},0\n" for quantity in written]
    put(wide_workspace, "trace/a.csv", "".join(["TIMESTAMP,ContextTokens,GeneratedTokens\n", *lines]).encode())

    result = collect(wide_workspace, LISTED_AT, silent)

    assert (result.raw_events, result.pending) == (5, {})
    expected = [largest, "0", "0.000000001", "1.5", "7"]
    assert [row["quantity"] for row in rows(wide_workspace, RAW_EVENTS)] == [Decimal(text) for text in expected]


def zstd(content: bytes) -> bytes:
    return zstd_library.compress(content)


@pytest.mark.parametrize("key", ["usage/a.ndjson", "usage/a.ndjson.gz", "usage/a.ndjson.zst"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def test_the_compression_is_what_is_inside_whatever_the_name_says(
    workspace: Workspace, key: str, compress: Callable[[bytes], bytes]
) -> None:
    content = compress(b"\xef\xbb\xbf" + line(id="a") + line(id="b"))
    put(workspace, key, content)

    result = collect(workspace, LISTED_AT, silent)

    assert (result.raw_events, result.quarantined) == (2, 0)
    [taken] = workspace.control_plane.ledger()
    assert (taken.sha256, taken.byte_count) == (hashlib.sha256(content).hexdigest(), len(content))


# What is quarantined -------------------------------------------------------------------------------------------------

BAD_LINES = {
    "truncated": (line()[:60], QuarantineReason.MALFORMED_LINE),
    "wrong type": (line(id=7), QuarantineReason.WRONG_TYPE),
    "missing field": (line(subject=None), QuarantineReason.MISSING_FIELD),
    "unknown field": (line(colour="red"), QuarantineReason.UNKNOWN_FIELD),
    "time without zone": (line(time="2026-01-15T12:00:00"), QuarantineReason.INVALID_TIME),
    "other event type": (line(type="request.started"), QuarantineReason.UNKNOWN_EVENT_TYPE),
    "not UTF-8": (b'{"id":"\xff"}', QuarantineReason.INVALID_ENCODING),
    "repeated key": (b'{"id":"a","id":"b"}', QuarantineReason.DUPLICATE_JSON_KEY),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_quarantined_with_its_reason_and_its_neighbours_are_not(workspace: Workspace, name: str) -> None:
    bad, reason = BAD_LINES[name]
    bad = bad.rstrip(b"\n")
    object_id = put(workspace, "usage/a.ndjson", line(id="a") + bad + b"\n" + line(id="b"))

    result = collect(workspace, LISTED_AT, silent)

    assert (result.raw_events, result.by_reason) == (2, {reason.value: 1})
    assert [row["line_number"] for row in rows(workspace, RAW_EVENTS)] == [1, 3]
    [row] = rows(workspace, QUARANTINE)
    assert {**row, "message": ""} == {
        "object_id": object_id,
        "line_number": 2,
        "byte_offset": len(line(id="a")),
        "contract": "usage",
        "received_at": RECEIVED_AT,
        "reason": reason.value,
        "message": "",
        "raw": bad,
        "raw_bytes": len(bad),
        "raw_sha256": hashlib.sha256(bad).hexdigest(),
    }
    [taken] = workspace.control_plane.ledger()
    assert (taken.line_count, taken.raw_event_count, taken.quarantine_count) == (3, 2, 1)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('"NaN"', "not_a_number"),
        ('"1,5"', "invalid_quantity"),
        ('"-1"', "below_minimum"),
        ('"0.0000000001"', "number_too_large"),
    ],
)
def test_a_quantity_that_cannot_be_read_is_quarantined_and_never_zero(
    wide_workspace: Workspace, written: str, reason: str
) -> None:
    put(wide_workspace, "tight/a", line(id="a") + line(id="b").replace(b"1000", written.encode()))

    collect(wide_workspace, LISTED_AT, silent)

    assert quarantined(wide_workspace) == [("tight/a", 2, reason)]
    assert [row["id"] for row in rows(wide_workspace, RAW_EVENTS)] == ["a"]


def parquet_file() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"]}), sink)
    return sink.getvalue()


BAD_OBJECTS = {
    "empty": (b"", QuarantineReason.EMPTY_OBJECT),
    "blank lines only": (b"\n \r\n\n", QuarantineReason.EMPTY_OBJECT),
    "empty gzip": (gzip.compress(b""), QuarantineReason.EMPTY_OBJECT),
    "gzip that ends early": (gzip.compress(line(id="a") * 9)[:-9], QuarantineReason.TRUNCATED_OBJECT),
    "zstd that ends early": (zstd(line(id="a") * 9)[:-3], QuarantineReason.TRUNCATED_OBJECT),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", QuarantineReason.UNREADABLE_OBJECT),
    "a Parquet file": (parquet_file(), QuarantineReason.UNREADABLE_OBJECT),
    "corrupt gzip": (gzip.compress(line())[:-8] + b"12345678", QuarantineReason.UNREADABLE_OBJECT),
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_a_bad_object_is_one_quarantined_line_and_the_others_are_collected(workspace: Workspace, name: str) -> None:
    content, reason = BAD_OBJECTS[name]
    put(workspace, "usage/bad.ndjson", content)
    put(workspace, "usage/good.ndjson", line())

    result = collect(workspace, LISTED_AT, silent)

    assert (result.new_objects, result.raw_events, result.by_reason) == (2, 1, {reason.value: 1})
    [row] = rows(workspace, QUARANTINE)
    assert (row["line_number"], row["raw"], row["raw_bytes"]) == (0, content[:4096], len(content))
    assert row["raw_sha256"] == hashlib.sha256(content).hexdigest()
    assert [taken.line_count for taken in workspace.control_plane.ledger()] == [1, 1]


def test_no_line_of_a_gzip_that_ends_early_is_an_event(workspace: Workspace) -> None:
    content = b"".join(line(id=os.urandom(16).hex()) for _ in range(20_000))
    put(workspace, "usage/a.ndjson.gz", gzip.compress(content)[:-1000])

    result = collect(workspace, LISTED_AT, silent)

    assert (result.raw_events, result.quarantined) == (0, 1)
    assert rows(workspace, RAW_EVENTS) == []


def test_a_csv_without_a_needed_column_is_quarantined_as_a_whole(wide_workspace: Workspace) -> None:
    put(wide_workspace, "trace/a.csv", b"TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,1\n2023-11-16 18:17:04,2\n")
    put(wide_workspace, "trace/b.csv", b"TIMESTAMP,ContextTokens,GeneratedTokens\n")

    collect(wide_workspace, LISTED_AT, silent)

    assert quarantined(wide_workspace) == [("trace/a.csv", 0, "wrong_header")]
    assert [taken.line_count for taken in wide_workspace.control_plane.ledger()] == [1, 0]


def test_limits_of_the_contract_quarantine_what_crosses_them_and_keep_its_first_bytes(
    wide_workspace: Workspace,
) -> None:
    long_line = line(id="x" * 1024)
    put(wide_workspace, "tight/long", long_line + line(id="a"))
    put(wide_workspace, "tight/stored", b"x" * 4097)
    put(wide_workspace, "tight/unpacked", gzip.compress(line(id="a") * 100))

    collect(wide_workspace, LISTED_AT, silent)

    assert quarantined(wide_workspace) == [
        ("tight/long", 1, "line_too_long"),
        ("tight/stored", 0, "object_too_large"),
        ("tight/unpacked", 0, "object_too_large"),
    ]
    first, second, _ = rows(wide_workspace, QUARANTINE)
    assert (first["raw"], first["raw_bytes"]) == (long_line[:16], len(long_line) - 1)
    assert first["raw_sha256"] == hashlib.sha256(long_line[:-1]).hexdigest()
    assert second["message"] == "4,097 bytes, accepted 4,096 (limits.object_bytes_max)", (
        "refused by the listed size, before it takes any disk"
    )
    assert (second["raw"], second["raw_sha256"]) == (b"x" * 16, hashlib.sha256(b"x" * 4097).hexdigest())
    assert [row["id"] for row in rows(wide_workspace, RAW_EVENTS)] == ["a"]


# Which objects -------------------------------------------------------------------------------------------------------


def test_collecting_again_collects_nothing_and_moves_the_watermark(workspace: Workspace) -> None:
    put(workspace, "usage/a.ndjson", line())
    collect(workspace, LISTED_AT, silent)
    before = (manifests(workspace, RAW_EVENTS), workspace.control_plane.ledger())

    result = collect(workspace, LISTED_AT + timedelta(hours=1), silent)

    assert result == CollectResult(0, 0, 0, 0, by_reason={}, unclaimed_keys=(), pending={})
    assert (manifests(workspace, RAW_EVENTS), workspace.control_plane.ledger()) == before
    assert workspace.control_plane.watermark_at() == LISTED_AT + timedelta(hours=1)


def test_an_object_that_is_replaced_is_collected_again_as_another_version(workspace: Workspace) -> None:
    first = put(workspace, "usage/a.ndjson", line(id="a"))
    collect(workspace, LISTED_AT, silent)
    second = put(workspace, "usage/a.ndjson", line(id="a") + line(id="b"))

    result = collect(workspace, LISTED_AT + timedelta(hours=1), silent)

    assert first != second
    assert (result.new_objects, result.raw_events) == (1, 2)
    assert workspace.control_plane.object_ids() == {first, second}


def test_keys_without_a_contract_are_named_and_left_alone(workspace: Workspace) -> None:
    put(workspace, "other/b.txt", b"?")
    put(workspace, "usage/a.csv", b"?")

    result = collect(workspace, LISTED_AT, silent)

    assert (result.new_objects, result.unclaimed_keys) == (0, ("other/b.txt", "usage/a.csv"))


def test_a_key_under_two_contracts_stops_before_any_work(workspace: Workspace) -> None:
    [contract] = workspace.project.contracts
    narrower = contract.model_copy(update={"name": "narrower", "prefix": "usage/a"})
    overlapping = replace(workspace, project=replace(workspace.project, contracts=(contract, narrower)))
    put(workspace, "usage/a.ndjson", line())
    put(workspace, "usage/b.ndjson", line())

    with pytest.raises(InputError) as refusal:
        collect(overlapping, LISTED_AT, silent)

    assert refusal.value.code == "collect.contracts_overlap"
    assert "usage/a.ndjson: usage, narrower" in str(refusal.value)
    assert workspace.control_plane.object_ids() == set()


def test_a_raw_bucket_that_does_not_exist_is_a_clear_error(workspace: Workspace) -> None:
    elsewhere = replace(workspace, raw=ObjectStore("no-such-bucket", workspace.raw.endpoint_url))

    with pytest.raises(InputError, match="'no-such-bucket' does not exist"):
        collect(elsewhere, LISTED_AT, silent)


# The same whatever happens -------------------------------------------------------------------------------------------


class ReversedListing(ObjectStore):
    """The same bucket, listed backwards, as no server promises not to."""

    def list_objects(self, prefix: str = "") -> Iterator[ListedObject]:
        return iter(sorted(super().list_objects(prefix), reverse=True))


def test_the_order_of_the_listing_changes_no_byte(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    contents = []
    for name, store in (
        ("forwards", raw_bucket),
        ("backwards", ReversedListing(raw_bucket.bucket, raw_bucket.endpoint_url)),
    ):
        workspace = replace(open_workspace(write_project(tmp_path / name, raw_bucket)), raw=store)
        for key in ("z", "a", "m-1", "m"):
            put(workspace, f"usage/{key}.ndjson", line(id=key) + b"torn\n" + line(id=key, time="2026-01-14T01:00:00Z"))
        collect(workspace, LISTED_AT, silent)
        contents.append([manifests(workspace, dataset) for dataset in (RAW_EVENTS, QUARANTINE)])

    assert contents[0] == contents[1]
    assert all(manifest.files for dataset in contents[0] for manifest in dataset)


def test_a_large_object_is_one_ordered_file_per_event_date(workspace: Workspace) -> None:
    count = 120_000
    days = ["2026-01-14", "2026-01-15", "2026-01-15", "2026-01-15"]
    content = b"".join(line(id=f"{number}", time=f"{days[number % 4]}T12:00:00Z") for number in range(count))
    put(workspace, "usage/a.ndjson.gz", gzip.compress(content, 1))

    collect(workspace, LISTED_AT, silent)

    [manifest] = manifests(workspace, RAW_EVENTS)
    parquets = {file.partition: pq.ParquetFile(workspace.lake.local_file(file.path)) for file in manifest.files}
    assert set(parquets) == {"2026-01-14", "2026-01-15"}
    assert all(parquet.num_row_groups > 1 for parquet in parquets.values())
    numbers = {day: parquet.read(["line_number"])["line_number"].to_pylist() for day, parquet in parquets.items()}
    assert numbers["2026-01-14"] == list(range(1, count + 1, 4))
    assert numbers["2026-01-15"] == [number for number in range(1, count + 1) if number % 4 != 1]


class LosingObjects(ObjectStore):
    """The same bucket, in which some objects are gone between the listing and the download."""

    lost: Sequence[str] = ()

    def read(self, listed: ListedObject) -> Iterator[bytes]:
        if listed.key in self.lost:
            self._client.delete_object(Bucket=self.bucket, Key=listed.key)
        return super().read(listed)


def test_an_object_that_cannot_be_fetched_stays_pending_and_stops_the_watermark_before_it(workspace: Workspace) -> None:
    store = LosingObjects(workspace.raw.bucket, workspace.raw.endpoint_url)
    store.lost = ("usage/b.ndjson",)
    put(workspace, "usage/a.ndjson", line(id="a"))
    put(workspace, "usage/b.ndjson", line(id="b"), RECEIVED_AT + timedelta(minutes=1))
    put(workspace, "usage/c.ndjson", line(id="c"))
    said: list[str] = []

    result = collect(replace(workspace, raw=store), LISTED_AT, said.append)

    assert (result.new_objects, result.raw_events) == (2, 2)
    assert list(result.pending) == ["usage/b.ndjson"]
    assert any("usage/b.ndjson is pending" in sentence for sentence in said)
    assert workspace.control_plane.watermark_at() == RECEIVED_AT + timedelta(minutes=1)

    store.lost = ()
    put(workspace, "usage/b.ndjson", line(id="b"), RECEIVED_AT + timedelta(minutes=1))
    again = collect(workspace, LISTED_AT, silent)

    assert (again.new_objects, again.pending) == (1, {})
    assert workspace.control_plane.watermark_at() == LISTED_AT
    assert sorted(row["id"] for row in rows(workspace, RAW_EVENTS)) == ["a", "b", "c"]


def test_an_object_whose_counts_do_not_tie_is_left_out_and_does_not_stop_the_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Block.of_lines

    def lose_a_line(content: Bytes, byte_count: int) -> Block:
        block = cut(content, byte_count)
        return block.only(np.array([b"miscounted" not in block.record(row) for row in range(len(block))]))

    monkeypatch.setattr(Block, "of_lines", lose_a_line)
    put(workspace, "usage/a.ndjson", line(id="a"))
    put(workspace, "usage/b.ndjson", line(id="miscounted"))
    put(workspace, "usage/c.ndjson", line(id="c"))

    result = collect(workspace, LISTED_AT, silent)

    assert (result.new_objects, list(result.pending)) == (2, ["usage/b.ndjson"])
    assert "it has 1 lines, of which 0 were cut" in result.pending["usage/b.ndjson"]
    assert [row["id"] for row in rows(workspace, RAW_EVENTS)] == ["a", "c"]


class RacedBucket(ObjectStore):
    """The same bucket; while it is being listed, another run collects what is there."""

    overtake: Callable[[], object] | None = None

    def list_objects(self, prefix: str = "") -> Iterator[ListedObject]:
        listed = list(super().list_objects(prefix))
        overtake, self.overtake = self.overtake, None
        if overtake is not None:
            overtake()
        return iter(listed)


def test_a_run_that_loses_the_race_lists_again_and_takes_what_is_left(workspace: Workspace) -> None:
    store = RacedBucket(workspace.raw.bucket, workspace.raw.endpoint_url)
    put(workspace, "usage/a.ndjson", line(id="a"))

    def overtake() -> None:
        collect(workspace, LISTED_AT - timedelta(minutes=1), silent)
        put(workspace, "usage/b.ndjson", line(id="b"))

    store.overtake = overtake
    said: list[str] = []

    result = collect(replace(workspace, raw=store), LISTED_AT, said.append)

    assert (result.new_objects, result.raw_events) == (1, 1)
    assert any("listing again" in sentence for sentence in said)
    assert [row["id"] for row in rows(workspace, RAW_EVENTS)].count("a") == 1
    assert sorted(row["id"] for row in rows(workspace, RAW_EVENTS)) == ["a", "b"]


def test_a_killed_run_leaves_no_event_and_the_next_run_publishes_the_same(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    class KilledError(BaseException):
        pass

    def kill(sentence: str) -> None:
        raise KilledError(sentence)

    killed = open_workspace(write_project(tmp_path / "killed", raw_bucket))
    other = open_workspace(write_project(tmp_path / "other", raw_bucket))
    put_events(raw_bucket, "usage/a.ndjson", [usage_event(), usage_event(id="b")], RECEIVED_AT)
    put_events(raw_bucket, "usage/b.ndjson", [usage_event(id="c")], RECEIVED_AT)

    with pytest.raises(KilledError):
        collect(killed, LISTED_AT, kill)

    assert killed.control_plane.object_ids() == set()
    assert list(killed.scratch.iterdir()) == []
    collect(killed, LISTED_AT, silent)
    collect(other, LISTED_AT, silent)
    assert manifests(killed, RAW_EVENTS) == manifests(other, RAW_EVENTS)


def test_lines_of_all_objects_tie_with_the_rows_that_are_published(wide_workspace: Workspace) -> None:
    for number in range(5):
        put(wide_workspace, f"usage/{number}.ndjson", (line(id=f"{number}") + b"torn\n\n") * number)
        put(wide_workspace, f"tight/{number}", line(id=f"{number}") * number + b"\xff")

    result = collect(wide_workspace, LISTED_AT, silent)

    ledger = wide_workspace.control_plane.ledger()
    assert sum(taken.line_count for taken in ledger) == result.raw_events + result.quarantined == 36
    for dataset, count in ((RAW_EVENTS, result.raw_events), (QUARANTINE, result.quarantined)):
        assert len(rows(wide_workspace, dataset)) == sum(
            found.row_count for found in manifests(wide_workspace, dataset)
        )
        assert len(rows(wide_workspace, dataset)) == count
    assert sum(result.by_reason.values()) == result.quarantined


def test_the_manifests_pin_the_objects_and_the_contracts_by_hash(workspace: Workspace) -> None:
    object_id = put(workspace, "usage/a.ndjson", line())

    collect(workspace, LISTED_AT, silent)

    [manifest] = manifests(workspace, RAW_EVENTS)
    [taken] = workspace.control_plane.ledger()
    pinned = json.loads(workspace.lake.get_bytes(f"pins/{manifest.pins['objects']}"))
    assert pinned == [{"object_id": object_id, "sha256": taken.sha256, "received_at": "2026-01-15T13:00:00+00:00"}]
    contract = workspace.project.files["sources/usage.toml"]
    assert manifest.pins["contracts"] == {"sources/usage.toml": sha256_hex(contract)}
    assert workspace.lake.get_bytes(f"pins/{sha256_hex(contract)}") == contract
    assert manifest.scope == f"collection={sha256_hex(canonical_json([object_id]))}"


def test_an_unreachable_bucket_is_worth_a_retry_and_records_nothing(workspace: Workspace) -> None:
    nowhere = replace(workspace, raw=ObjectStore(workspace.raw.bucket, "http://127.0.0.1:9"))

    with pytest.raises(NotReadyError):
        collect(nowhere, LISTED_AT, silent)

    assert workspace.control_plane.watermark_at() is None


def test_a_torn_record_in_an_array_on_one_line_takes_no_record_before_it(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    contract = 'name = "arrays"\nversion = "1"\nprefix = "arrays/"\nformat = "json"\n'
    ws = open_workspace(write_project(tmp_path / "project", raw_bucket, {"sources/arrays.toml": contract}))
    good = json.dumps(usage_event(id="a"))
    torn = json.dumps(usage_event(id="b"))[:40]
    put(ws, "arrays/one-line", f"[{good},{torn},{json.dumps(usage_event(id='c'))}]".encode())

    result = collect(ws, LISTED_AT, silent)

    assert [row["id"] for row in rows(ws, RAW_EVENTS)] == ["a"]
    assert result.by_reason == {"malformed_line": 2}
    broken, missing_end = rows(ws, QUARANTINE)
    assert (broken["line_number"], broken["byte_offset"], broken["raw"][:40]) == (2, len(good) + 2, torn.encode())
    assert (missing_end["line_number"], missing_end["raw_bytes"], missing_end["message"]) == (
        3,
        0,
        "the JSON array has no closing bracket",
    )
