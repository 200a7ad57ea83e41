"""Collect, whatever the bucket holds: a line ends in one place, and what is published depends on the bytes alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.adapters import decompress, record_blocks
from pipeline.adapters.decompress import zstd
from pipeline.adapters.object_store import ListedObject, ObjectStore
from pipeline.adapters.s3_server import S3Endpoint
from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.dataset import QUARANTINE, RAW_EVENTS
from pipeline.core.errors import NotReadyError
from pipeline.core.json_sequence import JsonSequence
from pipeline.core.manifest import Manifest, canonical_json, sha256_hex
from pipeline.core.record import LongLine, RawEvent, RecordParser, Rejection, is_comment, read_header, split_lines
from pipeline.steps import collect as collect_step
from pipeline.steps import collect_batch, collect_workers
from pipeline.steps.collect import collect, object_id_of
from pipeline.steps.collect_batch import BatchResult, BatchTask
from pipeline.steps.publish import read_manifest
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import usage_event, write_project
from tests.fixtures_s3 import put_object
from tests.steps.s3_proxy import Proxy, proxy_of

RECEIVED_AT = datetime(2026, 1, 15, 13, tzinfo=UTC)
LISTED_AT = datetime(2026, 1, 16, 6, tzinfo=UTC)
LINE_BYTES_MAX = 2_048

EVENT_OF_CSV = """
[event]
id = { derive = "object_and_line" }
source = { constant = "trace" }
type = { constant = "request.completed" }
subject = { field = "account" }
time = { field = "at", time_zone = "UTC" }
quantity = { field = "units", type = "decimal", minimum = 0 }
"""
SOURCES = {
    "sources/usage.toml": f"""
name = "usage"
version = "1"
prefix = "lines/"
format = "ndjson"
event_types = ["request.completed"]
limits = {{ line_bytes_max = {LINE_BYTES_MAX} }}

[event.data]
input_tokens = {{ field = "data.input_tokens", type = "decimal", minimum = 0 }}
""",
    "sources/sequence.toml": f"""
name = "sequence"
version = "1"
prefix = "values/"
format = "json"
limits = {{ line_bytes_max = {LINE_BYTES_MAX} }}
""",
    "sources/trace.toml": f"""
name = "trace"
version = "1"
prefix = "csv/"
format = "csv"
limits = {{ line_bytes_max = {LINE_BYTES_MAX} }}
{EVENT_OF_CSV}
""",
    "sources/access.toml": f"""
name = "access"
version = "1"
prefix = "access/"
format = "csv"
delimiter = "\\t"
quoted = false
comment = "#"
header = "fields_comment"
null_text = "-"
received = "event_time"
limits = {{ line_bytes_max = {LINE_BYTES_MAX} }}
{EVENT_OF_CSV}
""",
    "sources/typed.toml": """
name = "typed"
version = "1"
prefix = "typed/"
format = "ndjson"
event_types = ["accepted"]
unknown_fields = "ignore"

[event]
type = { object_key = 'typed/(\\w+)' }
""",
}
FOLDERS = ("lines", "values", "csv", "access")
NUMBERS = count()
# Each example puts and collects several objects, which takes a while.
PROPERTY = settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def silent(_: str) -> None:
    pass


def event_line(number: int, **changed: Any) -> bytes:
    fields = {
        "id": f"req-{number}",
        "time": f"2026-01-{10 + number % 4}T12:00:{number % 60:02d}.{number:06d}Z",
        "data": {"input_tokens": number if number % 3 else f"{number}.5"},
    }
    event = usage_event(**fields | changed)
    return json.dumps(event).encode() + b"\n"


def csv_line(number: int, delimiter: bytes) -> bytes:
    fields = [b"2026-01-%d 12:00:00.%06d" % (10 + number % 4, number), b"customer-%d" % (number % 5), b"%d.25" % number]
    return delimiter.join(fields) + b"\n"


def good_content(folder: str, line_count: int) -> bytes:
    if folder == "csv":
        return b"at,account,units\n" + b"".join(csv_line(number, b",") for number in range(line_count))
    if folder == "access":
        head = b"#Version: 1.0\n#Fields: at\taccount\tunits\n"
        return head + b"".join(csv_line(number, b"\t") for number in range(line_count))
    return b"".join(event_line(number) for number in range(line_count))


def contract_of(ws: Workspace, key: str) -> SourceContract:
    return next(contract for contract in ws.project.contracts if contract.covers(key))


def put(ws: Workspace, key: str, content: bytes) -> str:
    """Put an object and return its id."""
    put_object(ws.raw, key, content, RECEIVED_AT)
    return object_id_of(ListedObject(key, hashlib.md5(content).hexdigest(), len(content), RECEIVED_AT))


def manifests(ws: Workspace, object_ids: Sequence[str]) -> dict[str, list[Manifest]]:
    found = ws.control_plane.collections_of(object_ids)
    return {
        dataset.name: [read_manifest(ws, one) for one in found.get(dataset.name, [])]
        for dataset in (RAW_EVENTS, QUARANTINE)
    }


def rows_of(ws: Workspace, found: Sequence[Manifest]) -> list[dict[str, Any]]:
    paths = [ws.lake.local_file(file.path) for manifest in found for file in manifest.files]
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.fixture
def wide_workspace(tmp_path: Path, raw_bucket: ObjectStore) -> Workspace:
    """The test project with a feed of each text format."""
    return open_workspace(write_project(tmp_path / "project", raw_bucket, SOURCES))


# Every line, once ----------------------------------------------------------------------------------------------------


def record_numbers(contract: SourceContract, content: bytes) -> set[int] | None:
    """Return the number of every record of an object, found in the simplest way; None if its header is wrong."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if contract.format is FileFormat.JSON:
        sequence = JsonSequence()
        starts, _, _ = sequence.cut(np.frombuffer(content, np.uint8), is_last=True)
        return set(range(1, len(starts) + 1 + sequence.is_array_open))  # a missing bracket is a record of its own
    lines = list(split_lines([content], contract.limits.line_bytes_max))
    found = read_header(contract, lines)
    if isinstance(found, Rejection):
        return None
    return {number for number, line in lines if number > found[0] and not is_comment(contract, line)}


def require_conservation(ws: Workspace, contents: Mapping[str, bytes | None]) -> Counter[str]:
    """Collect, and hold every object of ``contents``, by id, against its decompressed bytes (None: it has none).

    Returns how many objects were taken line by line, and how many as a whole.
    """
    result = collect(ws, LISTED_AT, silent)
    assert result.pending == {}
    found = manifests(ws, list(contents))
    raw_events, quarantine = rows_of(ws, found[RAW_EVENTS.name]), rows_of(ws, found[QUARANTINE.name])
    ledger = {taken.object_id: taken for taken in ws.control_plane.ledger(contents)}
    assert ledger.keys() == contents.keys()
    assert result.raw_events == len(raw_events) == sum(taken.raw_event_count for taken in ledger.values())
    assert result.quarantined == len(quarantine) == sum(taken.quarantine_count for taken in ledger.values())
    seen: Counter[str] = Counter()
    for object_id, content in contents.items():
        taken = ledger[object_id]
        assert taken.line_count == taken.raw_event_count + taken.quarantine_count
        events = Counter(row["line_number"] for row in raw_events if row["object_id"] == object_id)
        refused = Counter(row["line_number"] for row in quarantine if row["object_id"] == object_id)
        assert (events.total(), refused.total()) == (taken.raw_event_count, taken.quarantine_count)
        if refused.keys() == {0}:
            assert (events.total(), refused.total()) == (0, 1)
            seen["as a whole"] += 1
            continue
        assert content is not None, "an object that cannot be read to its end has no event"
        assert events + refused == Counter(record_numbers(contract_of(ws, taken.key), content))
        for row in quarantine:
            if row["object_id"] == object_id:
                start = row["byte_offset"]
                whole = content[start : start + row["raw_bytes"]]
                assert whole.startswith(row["raw"])
                assert hashlib.sha256(whole).hexdigest() == row["raw_sha256"]
        seen["line by line"] += 1
    return seen


class Wrapped(NamedTuple):
    """The bytes of an object, what they are once decompressed (None: they cannot be), and whether they surely can."""

    stored: bytes
    content: bytes | None
    is_whole: bool


def wrapped(content: bytes, kind: str, place: int) -> Wrapped:
    """Return an object of that content; ``place`` is where it is cut, in parts of a thousand."""
    middle = len(content) * place // 1_000
    match kind:
        case "plain":
            return Wrapped(content, content, True)
        case "with a byte order mark":
            return Wrapped(b"\xef\xbb\xbf" + content, b"\xef\xbb\xbf" + content, True)
        case "gzip":
            return Wrapped(gzip.compress(content, 1, mtime=0), content, True)
        case "gzip of members and padding":
            members = gzip.compress(content[:middle], 1, mtime=0) + gzip.compress(content[middle:], 9, mtime=0)
            return Wrapped(members + bytes(place % 7), content, True)
        case "zstd":
            return Wrapped(zstd.compress(content, 3), content, True)
        case "zstd of frames":
            skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
            return Wrapped(skippable + zstd.compress(content[:middle]) + zstd.compress(content[middle:]), content, True)
        case "truncated gzip":
            stored = gzip.compress(content, 1, mtime=0)
            return Wrapped(stored[: 3 + (len(stored) - 4) * place // 1_000], None, False)
        case "truncated zstd":
            stored = zstd.compress(content, 3)
            return Wrapped(stored[: 4 + (len(stored) - 5) * place // 1_000], None, False)
    corrupt = bytearray(gzip.compress(content, 1, mtime=0))
    corrupt[len(corrupt) * place // 1_001] ^= 0x55
    # A changed time stamp in its header changes nothing else.
    return Wrapped(bytes(corrupt), content, False)


KINDS = (
    *("plain", "with a byte order mark", "gzip", "gzip of members and padding", "zstd", "zstd of frames"),
    *("truncated gzip", "truncated zstd", "corrupt gzip"),
)
ANY_BYTES = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [
            *(
                b"\n",
                b"\r\n",
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b'"',
                b"\\",
                b"\x00",
                b"\xff",
                b"#Fields: at\taccount\tunits\n",
                b"# x\n",
            ),
            *(
                event_line(1),
                event_line(2)[:-1],
                event_line(3)[:40],
                csv_line(1, b","),
                csv_line(2, b"\t"),
                b"at,account,units\n",
            ),
            *(b"x" * 3_000, b" " * 3_000, b"\xc2\x85", b"null", b"\t", b"1,2,3\n", b'"a\nb"'),
        ]
    ),
    max_size=12,
).map(b"".join)
OBJECTS = st.lists(
    st.tuples(
        st.sampled_from(FOLDERS), ANY_BYTES, st.sampled_from(KINDS), st.integers(0, 1_000), st.sampled_from([0, 40])
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def shared_workspace(s3_server: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One project for the many objects of the properties; each example looks at its own objects only."""
    store = ObjectStore("raw-for-properties", s3_server.url)
    store.create_bucket()
    return open_workspace(write_project(tmp_path_factory.mktemp("properties"), store, SOURCES))


@PROPERTY
@given(OBJECTS, st.sampled_from([300, 20_000, 16 << 20]))
def test_every_line_of_any_bytes_is_in_one_place(
    shared_workspace: Workspace, objects: list[tuple[str, bytes, str, int, int]], block_bytes: int
) -> None:
    contents: dict[str, bytes | None] = {}
    whole = 0
    for folder, noise, kind, place, line_count in objects:
        made = wrapped(good_content(folder, line_count) + noise if line_count else noise, kind, place)
        object_id = put(shared_workspace, f"{folder}/{next(NUMBERS)}", made.stored)
        # An array that is never closed is a broken object, and so is a list of columns that changes.
        whole += made.is_whole and line_count > 0 and folder in ("lines", "csv")
        contents[object_id] = made.content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_blocks, "BLOCK_BYTES", block_bytes)
        seen = require_conservation(shared_workspace, contents)

    assert seen["line by line"] >= whole


MUTATED_FILES = st.lists(
    st.tuples(
        st.sampled_from(FOLDERS),
        st.lists(
            st.tuples(
                st.integers(0, 999), st.sampled_from(["replace", "insert", "delete"]), st.binary(min_size=1, max_size=3)
            ),
            min_size=1,
            max_size=8,
        ),
        st.sampled_from(["plain", "gzip", "zstd"]),
    ),
    min_size=2,
    max_size=8,
)


@PROPERTY
@given(MUTATED_FILES)
def test_every_line_of_a_mutated_file_is_in_one_place(
    shared_workspace: Workspace, files: list[tuple[str, list[tuple[int, str, bytes]], str]]
) -> None:
    contents: dict[str, bytes | None] = {}
    for folder, changes, kind in files:
        content = bytearray(good_content(folder, 100))
        first = content.rindex(b"#") if folder == "access" else 0
        first = content.index(b"\n", first) + 1
        for part, change, piece in changes:
            place = first + (len(content) - first) * part // 1_000
            content[place : place + (len(piece) if change != "insert" else 0)] = b"" if change == "delete" else piece
        made = wrapped(bytes(content), kind, 0)
        contents[put(shared_workspace, f"{folder}/{next(NUMBERS)}", made.stored)] = made.content

    require_conservation(shared_workspace, contents)

    for taken in shared_workspace.control_plane.ledger(contents):
        assert taken.raw_event_count >= 80 or (
            taken.key.startswith(("values/", "access/")) and taken.raw_event_count == 0
        )


def test_the_type_in_the_key_is_checked_for_each_object(wide_workspace: Workspace) -> None:
    lines = b"".join(event_line(number) for number in range(100))
    put(wide_workspace, "typed/accepted/1", lines)
    put(wide_workspace, "typed/other/1", lines)
    put(wide_workspace, "typed/accepted/2", lines)

    result = collect(wide_workspace, LISTED_AT, silent)

    assert (result.raw_events, result.by_reason) == (200, {"unknown_event_type": 100})


# The same whatever happens -------------------------------------------------------------------------------------------


class ShuffledListing(ObjectStore):
    """The same bucket, listed in an order that no server promises not to have."""

    def list_objects(self, prefix: str = "") -> Iterator[ListedObject]:
        listed = list(super().list_objects(prefix))
        random.Random(len(listed)).shuffle(listed)
        return iter(listed)


def put_many(ws: Workspace, object_count: int = 24, line_count: int = 600) -> list[str]:
    object_ids = []
    for number in range(object_count):
        folder = FOLDERS[number % len(FOLDERS)]
        content = good_content(folder, line_count + number) + b"torn\n" * number
        stored = wrapped(content, KINDS[number % len(KINDS)], 700).stored
        object_ids.append(put(ws, f"{folder}/{number}", stored))
    return object_ids


def test_the_order_of_the_listing_and_the_number_of_processes_change_no_byte(
    tmp_path: Path, raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[int, int]] = []

    def counted(batches: Sequence[BatchTask], store: ObjectStore, worker_count: int) -> Iterator[BatchResult]:
        used.append((len(batches), worker_count))
        return collect_workers.collect_batches(batches, store, worker_count)

    monkeypatch.setattr(collect_step, "collect_batches", counted)
    monkeypatch.setattr(collect_step, "BATCH_BYTES", 100_000)
    monkeypatch.setattr(collect_step, "PARALLEL_BYTES", 0)
    found = []
    for workers, store in (("1", raw_bucket), ("2", ShuffledListing(raw_bucket.bucket, raw_bucket.endpoint_url))):
        monkeypatch.setenv("BILLING_WORKERS", workers)
        ws = replace(open_workspace(write_project(tmp_path / workers, raw_bucket, SOURCES)), raw=store)
        object_ids = put_many(ws)
        collect(ws, LISTED_AT, silent)
        found.append({name: [one.to_bytes() for one in several] for name, several in manifests(ws, object_ids).items()})

    [(batch_count, worker_count)] = used
    assert (batch_count > 3, worker_count) == (True, 2)
    assert found[0] == found[1]
    assert all(len(several) == 1 for several in found[0].values())


def test_how_the_batches_are_cut_does_not_change_the_content(
    tmp_path: Path, raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    for batch_bytes, block_bytes in ((1, 16 << 20), (100_000, 1_000), (32 << 20, 50_000)):
        monkeypatch.setattr(collect_step, "BATCH_BYTES", batch_bytes)
        monkeypatch.setattr(record_blocks, "BLOCK_BYTES", block_bytes)
        ws = open_workspace(write_project(tmp_path / f"{batch_bytes}", raw_bucket, SOURCES))
        object_ids = put_many(ws, 12, 200)
        collect(ws, LISTED_AT, silent)
        [manifest] = manifests(ws, object_ids)[RAW_EVENTS.name]
        hashes.add((manifest.content_hash, manifest.row_count))

    assert len(hashes) == 1


def streams_of(name: str, values: Sequence[Any]) -> list[bytes]:
    """Return a column as the content hash reads it, written again from its description."""
    if name == "quantity":
        scaled = [int((value or Decimal(0)).scaleb(9)) for value in values]
        valid = bytes(value is not None for value in values)
        return [valid, b"".join(number.to_bytes(16, "little", signed=True) for number in scaled)]
    if name == "line_number":
        return [b"".join(number.to_bytes(8, "little", signed=True) for number in values)]
    if name in ("event_at", "received_at"):
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        microseconds = [(value - epoch) // timedelta(microseconds=1) for value in values]
        return [b"".join(number.to_bytes(8, "little", signed=True) for number in microseconds)]
    encoded = [value.encode() for value in values]
    return [b"".join(len(text).to_bytes(4, "little") for text in encoded), b"".join(encoded)]


def test_the_content_hash_is_that_of_the_published_rows(wide_workspace: Workspace) -> None:
    object_ids = put_many(wide_workspace, 12, 200)

    collect(wide_workspace, LISTED_AT, silent)

    [manifest] = manifests(wide_workspace, object_ids)[RAW_EVENTS.name]
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows_of(wide_workspace, [manifest]):
        rows[row["object_id"], row["event_at"].date().isoformat()].append(row)
    contents = []
    for (object_id, day), found in rows.items():
        assert [row["line_number"] for row in found] == sorted(row["line_number"] for row in found)
        names = [name for name in RAW_EVENTS.column_names if name not in ("object_id", "key_hash", "payload_hash")]
        streams = [stream for name in names for stream in streams_of(name, [row[name] for row in found])]
        digests = b"".join(hashlib.sha256(stream).digest() for stream in streams)
        contents.append([object_id, day, len(found), sha256_hex(digests)])
    columns = [[name, sql_type] for name, sql_type in RAW_EVENTS.columns]
    assert len(contents) > 20
    assert manifest.content_hash == sha256_hex(canonical_json([RAW_EVENTS.name, columns, sorted(contents)]))


# One bad object ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["truncated gzip", "truncated zstd", "corrupt gzip"])
def test_an_object_that_breaks_late_leaves_its_neighbours_as_without_it(
    tmp_path: Path, raw_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(record_blocks, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(decompress, "CHUNK_BYTES", 1 << 16)
    random_ids = random.Random(1)
    long = b"".join(event_line(number, subject=random_ids.randbytes(8).hex()) for number in range(8_000))
    broken = wrapped(long, kind, 950).stored
    workspaces = [open_workspace(write_project(tmp_path / name, raw_bucket, SOURCES)) for name in ("without", "with")]
    for number in (1, 3):
        put(workspaces[0], f"lines/{number}", good_content("lines", 500))
    collect(workspaces[0], LISTED_AT, silent)
    broken_id = put(workspaces[1], "lines/2", broken)

    result = collect(workspaces[1], LISTED_AT, silent)

    assert (result.raw_events, result.quarantined) == (1_000, 1)
    found = [manifests(ws, sorted(ws.control_plane.object_ids())) for ws in workspaces]
    assert rows_of(workspaces[0], found[0][RAW_EVENTS.name]) == rows_of(workspaces[1], found[1][RAW_EVENTS.name])
    [row] = rows_of(workspaces[1], found[1][QUARANTINE.name])
    assert (row["object_id"], row["line_number"], row["raw_bytes"]) == (broken_id, 0, len(broken))


def test_many_objects_that_break_in_many_ways_cost_few_passes(
    wide_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    run = collect_batch._Batch.run

    def counted(batch: collect_batch._Batch, pending: Mapping[str, str]) -> BatchResult:
        passes.append(len(batch._fetched))
        return run(batch, pending)

    monkeypatch.setattr(collect_batch._Batch, "run", counted)
    for number in range(12):
        put(wide_workspace, f"lines/{number:02d}", good_content("lines", 3))
        put(wide_workspace, f"lines/{number:02d}-cut", gzip.compress(good_content("lines", 3))[:-9])
        put(wide_workspace, f"access/{number:02d}", good_content("access", 2) + b"#Fields: at\taccount\tother\n")

    result = collect(wide_workspace, LISTED_AT, silent)

    assert (result.raw_events, result.by_reason, result.pending) == (
        36,
        {"truncated_object": 12, "wrong_header": 12},
        {},
    )
    assert len([count for count in passes if count > 1]) == 3


@pytest.mark.parametrize("places", [[0], [5], [9], [0, 5, 9]])
def test_an_object_that_makes_the_parser_fail_is_pending_and_stops_no_other(
    wide_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, places: list[int]
) -> None:
    parse = RecordParser.parse

    def fail(
        parser: RecordParser, line_number: int, line: bytes | LongLine, number: int | None = None
    ) -> RawEvent | Rejection:
        if isinstance(line, bytes) and b"poison" in line:
            raise ZeroDivisionError("a defect")
        return parse(parser, line_number, line, number)

    monkeypatch.setattr(RecordParser, "parse", fail)
    for number in range(10):
        poison = b"poison\n" if number in places else b"torn\n"
        put(wide_workspace, f"lines/{number}", good_content("lines", 100) + poison)

    result = collect(wide_workspace, LISTED_AT, silent)

    assert (result.raw_events, result.quarantined) == (100 * (10 - len(places)), 10 - len(places))
    assert list(result.pending) == [f"lines/{number}" for number in places]
    sentence = "reading line 101 of it failed with ZeroDivisionError: a defect"
    assert list(result.pending.values()) == [sentence] * len(places)
    assert wide_workspace.control_plane.watermark_at() == RECEIVED_AT


# Names and numbers of objects ----------------------------------------------------------------------------------------

ODD_NAMES = [
    *(
        "a b",
        " a",
        "a ",
        "ü/ö",
        "日本",
        "\U0001f600",
        "e\u0301",
        "+",
        "a+b",
        "%",
        "%41",
        "%2F",
        "%%",
        "@",
        "a@b@c",
        "'",
        '"',
        "`",
    ),
    *(
        "?",
        "?a=b",
        "#",
        "a#b",
        "&",
        "&amp;",
        "<a>",
        ";",
        "=",
        "a=b,c",
        ",",
        "*",
        "[a]",
        "{a}",
        "|",
        "~",
        "!",
        "$HOME",
        "$(a)",
        ":",
    ),
    *(
        "a:b",
        "\\",
        "a\\b",
        "\t",
        "\n",
        "a\nb",
        "\r",
        "\x7f",
        "\u0085",
        "-",
        "--help",
        ".a",
        "a.",
        "...",
        "a/.b/c",
        "event_date=2026-01-15/a",
    ),
]


def test_the_name_of_an_object_may_hold_any_character(wide_workspace: Workspace) -> None:
    keys = [f"lines/{number}-{name}" for number, name in enumerate(ODD_NAMES)]
    contents: dict[str, bytes | None] = {}
    for number, key in enumerate(keys):
        content = event_line(number)
        contents[put(wide_workspace, key, content)] = content

    assert require_conservation(wide_workspace, contents)["line by line"] == len(keys)

    ledger = wide_workspace.control_plane.ledger()
    assert sorted(taken.key for taken in ledger) == sorted(keys)
    assert collect(wide_workspace, LISTED_AT + timedelta(hours=1), silent).new_objects == 0


def test_more_objects_than_a_page_of_the_listing_holds_are_all_collected(wide_workspace: Workspace) -> None:
    numbers = range(1_050)
    with ThreadPoolExecutor(8) as pool:
        object_ids = list(pool.map(lambda number: put(wide_workspace, f"lines/{number}", event_line(number)), numbers))

    result = collect(wide_workspace, LISTED_AT, silent)

    assert (result.new_objects, result.raw_events) == (1_050, 1_050)
    assert wide_workspace.control_plane.object_ids() == set(object_ids)


# Transient errors ----------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(s3_server: S3Endpoint) -> Iterator[Proxy]:
    with proxy_of(s3_server.url) as proxy:
        yield proxy


def test_a_transient_error_is_retried_and_a_lasting_one_leaves_its_object_pending(
    wide_workspace: Workspace, proxy: Proxy
) -> None:
    ws = replace(wide_workspace, raw=ObjectStore(wide_workspace.raw.bucket, proxy.url))
    failures = {"a": [], "b": ["error"], "c": ["drop", "error"], "d": ["drop"] * 4, "e": ["cut"]}
    for number, name in enumerate(failures):
        put_object(wide_workspace.raw, f"lines/{name}", event_line(number), RECEIVED_AT + timedelta(minutes=number))
    proxy.failures = {f"lines/{name}": list(several) for name, several in failures.items()}

    result = collect(ws, LISTED_AT, silent)

    assert (result.raw_events, sorted(result.pending)) == (3, ["lines/d", "lines/e"])
    assert [proxy.requests[f"lines/{name}"] for name in failures] == [1, 2, 3, 4, 1]
    assert ws.control_plane.watermark_at() == RECEIVED_AT + timedelta(minutes=3)

    again = collect(ws, LISTED_AT + timedelta(hours=1), silent)

    assert (again.raw_events, again.pending) == (2, {})
    assert ws.control_plane.watermark_at() == LISTED_AT + timedelta(hours=1)
    assert len(rows_of(ws, manifests(ws, sorted(ws.control_plane.object_ids()))[RAW_EVENTS.name])) == 5


def test_a_bucket_that_answers_no_listing_is_not_ready_and_nothing_is_recorded(
    wide_workspace: Workspace, proxy: Proxy
) -> None:
    ws = replace(wide_workspace, raw=ObjectStore(wide_workspace.raw.bucket, proxy.url))
    put(wide_workspace, "lines/a", event_line(1))
    proxy.failures = {"": ["error"] * 4}

    with pytest.raises(NotReadyError):
        collect(ws, LISTED_AT, silent)

    assert ws.control_plane.watermark_at() is None
    assert collect(ws, LISTED_AT, silent).raw_events == 1
