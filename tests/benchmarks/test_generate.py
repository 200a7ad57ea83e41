"""The generator of the benchmarks: the same arguments make the same bytes, and every layout is what it says."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.events import SKUS, Feed
from benchmarks.generate import SUMMARY, file_bytes, generate, main, parse_mix
from benchmarks.layouts import BUCKET, LAYOUTS, Compression, Damage
from pipeline.adapters.project_files import load_project

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FEED = Feed(events=700, lines_per_file=100, accounts=50, broken=0.0)
BROKEN = replace(FEED, broken=0.3)
MIX = parse_mix("gz=6,zst=3,plain=1")
PROJECT = Path(__file__).resolve().parents[2] / "benchmarks" / "project"
SUBJECTS = (
    "subject",
    "external_subscription_id",
    "stripe_customer_id",
    "external_customer_id",
    "customer_id",
    "x-host-header",
)
QUANTITIES = ("quantity", "value", "sc-bytes")
JSON_LAYOUTS = sorted(LAYOUTS.keys() - {"csv", "cloudfront", "parquet"})


def text_of(path: Path) -> bytes:
    """Return the bytes of a file before compression, told apart as a reader would."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    return zstd.decompress(content) if content.startswith(b"\x28\xb5\x2f\xfd") else content


def records_of(layout: str, content: bytes) -> list[dict[str, Any]]:
    """Return the records of a file, read by the standard library or pyarrow; numbers keep their digits."""
    if layout == "parquet":
        return pq.read_table(io.BytesIO(content)).to_pylist()
    if layout == "csv":
        assert content.startswith(b"\xef\xbb\xbf")
        return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=";"))
    if layout == "cloudfront":
        version, fields, *rows = content.decode().splitlines()
        assert version == "#Version: 1.0"
        names = fields.removeprefix("#Fields: ").split(" ")
        return [dict(zip(names, row.split("\t"), strict=True)) for row in rows]
    if layout == "json_array":
        return json.loads(content, parse_float=Decimal)
    if layout == "firehose":
        return list(concatenated(content.decode()))
    return [json.loads(line, parse_float=Decimal) for line in content.splitlines()]


def concatenated(text: str) -> Iterator[dict[str, Any]]:
    assert "\n" not in text
    decoder, place = json.JSONDecoder(parse_float=Decimal), 0
    while place < len(text):
        record, place = decoder.raw_decode(text, place)
        yield record


def id_of(record: dict[str, Any]) -> str:
    names = ("id", "transaction_id", "identifier", "idempotency_key", "event_id", "x-edge-request-id")
    (found,) = [record[name] for name in names if name in record]
    return str(found)[-36:]


def files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_arguments_make_the_same_bytes_on_any_machine() -> None:
    text, _ = file_bytes(Feed(events=700, lines_per_file=100, broken=0.1), LAYOUTS["cloudevents"], 3)

    assert sha256(text).hexdigest() == "b67a5cf553372e2a9aa9295e4771683e048d4e78080abe96ab1f73a1ae9715dc"


def test_another_number_of_workers_and_another_order_make_the_same_bytes(tmp_path: Path) -> None:
    layout = LAYOUTS["cloudevents"]

    alone = generate(BROKEN, layout, MIX, tmp_path / "alone", workers=1)
    together = generate(BROKEN, layout, MIX, tmp_path / "together", workers=2)
    backwards = [sha256(file_bytes(BROKEN, layout, file)[0]).hexdigest() for file in reversed(range(7))]

    assert len(alone) == 7
    assert [file.sha256 for file in together] == [file.sha256 for file in alone]
    assert backwards[::-1] == [file.sha256 for file in alone]
    assert (tmp_path / "alone" / SUMMARY).read_bytes() == (tmp_path / "together" / SUMMARY).read_bytes()


def test_another_seed_makes_other_events() -> None:
    layout = LAYOUTS["cloudevents"]

    ids = {id_of(record) for record in records_of("cloudevents", file_bytes(FEED, layout, 0)[0])}
    others = {id_of(record) for record in records_of("cloudevents", file_bytes(replace(FEED, seed=2), layout, 0)[0])}

    assert ids.isdisjoint(others)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_holds_the_same_events_in_the_same_order(layout: str, tmp_path: Path) -> None:
    written = generate(FEED, LAYOUTS[layout], MIX, tmp_path, workers=1)

    paths = files_below(tmp_path / BUCKET)
    records = [records_of(layout, text_of(paths[file.key])) for file in written]
    expected, _ = file_bytes(FEED, LAYOUTS["cloudevents"], 2)

    assert [len(of_file) for of_file in records] == [100] * 7
    assert [id_of(record) for record in records[2]] == [id_of(record) for record in records_of("cloudevents", expected)]
    assert json.loads((tmp_path / SUMMARY).read_text())["totals"]["lines"] == 700


@pytest.mark.parametrize("layout", [*JSON_LAYOUTS, "parquet", "csv"])
def test_quantities_add_up_to_what_the_summary_says(layout: str) -> None:
    text, totals = file_bytes(FEED, LAYOUTS[layout], 0)

    quantities = []
    for record in records_of(layout, text):
        fields = {**record, **record.get("properties", {}), **record.get("payload", {}), **record.get("data", {})}
        quantities.append(Decimal(fields[one_of(fields, QUANTITIES)]))

    assert sum(quantities) == totals.quantity
    assert totals.quantity > 0


def test_times_add_up_to_what_the_summary_says() -> None:
    text, totals = file_bytes(replace(FEED, late=0.1), LAYOUTS["cloudevents"], 0)

    records = records_of("cloudevents", text)
    times = [datetime.fromisoformat(record["time"]) for record in records]

    assert sum(int(time.timestamp() * 1000 + 0.5) for time in times) == totals.milliseconds
    assert {time.utcoffset() for time in times} > {timedelta(0)}
    assert min(times) < datetime.fromisoformat("2026-02-28T22:00:00Z")


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_damaged_records_are_as_many_as_the_summary_says(layout: str) -> None:
    text, totals = file_bytes(replace(BROKEN, lines_per_file=700), LAYOUTS[layout], 0)
    expected = {
        Damage.ANY: {"truncated", "no record", "no subject", "quantity", "quantity is no number", "time"},
        Damage.FIELDS: {"no subject", "quantity", "quantity is no number", "time"},
        Damage.NO_SUBJECT: {"no subject"},
    }[LAYOUTS[layout].damage]

    found = damages(layout, text)

    assert len(found) == 700
    assert len([damage for damage in found if damage]) == totals.broken > 100
    assert set(found) == {None, *expected}


def damages(layout: str, text: bytes) -> list[str | None]:
    """Return what is wrong with each record, by a reading of its own."""
    if LAYOUTS[layout].damage is not Damage.ANY:
        return [damage_of(record) for record in records_of(layout, text)]
    lines = text.splitlines()
    first = {"csv": 1, "cloudfront": 2}.get(layout, 0)
    found = []
    for line in lines[first:]:
        if line == b"ERROR upstream timeout":
            found.append("no record")
            continue
        try:
            (record,) = records_of(layout, b"\n".join([*lines[:first], line]))
        except ValueError:
            found.append("truncated")
        else:
            found.append("truncated" if None in record.values() else damage_of(record))
    return found


def damage_of(record: dict[str, Any]) -> str | None:
    fields = {**record, **record.get("properties", {}), **record.get("payload", {}), **record.get("data", {})}
    if fields.get(one_of(fields, SUBJECTS)) in ("", "-", None):
        return "no subject"
    quantity = fields[one_of(fields, QUANTITIES)]
    if quantity in ({"v": 1}, '{"v":1}', "-"):
        return "quantity is no number"
    try:
        Decimal(quantity)
    except InvalidOperation:
        return "quantity"
    try:
        time = fields[one_of(fields, ("time", "timestamp"))]
        if isinstance(time, str):
            datetime.fromisoformat(f"{record['date']}T{time}" if "date" in record else time)
    except ValueError:
        return "time"
    return None


def one_of(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in fields), "none of them")


def test_kafka_offsets_have_no_gap_in_any_partition(tmp_path: Path) -> None:
    written = generate(BROKEN, LAYOUTS["kafka_connect"], MIX, tmp_path, workers=1)

    next_offset: dict[str, int] = {}
    for file in sorted(written, key=lambda file: file.key):
        topics, topic, folder, name = file.key.split("/")
        _, partition, offset = name.removesuffix(".json.gz").split("+")
        assert (topics, topic, folder, len(offset)) == ("topics", "usage", f"partition={partition}", 10)
        assert int(offset) == next_offset.get(partition, 0)
        next_offset[partition] = int(offset) + len(text_of(tmp_path / BUCKET / file.key).splitlines())

    assert next_offset == {"0": 200, "1": 200, "2": 200, "3": 100}


def test_the_manifest_lists_every_file_but_the_draft(tmp_path: Path) -> None:
    written = generate(FEED, LAYOUTS["manifest"], MIX, tmp_path, workers=1)

    paths = files_below(tmp_path / BUCKET)
    manifest = json.loads(paths.pop("usage/metadata/BILLING_PERIOD=2026-03/usage-Manifest.json").read_text())
    keys = [entry["key"].removeprefix(f"s3://{BUCKET}/") for entry in manifest["files"]]

    assert keys == [file.key for file in written]
    assert set(paths) - set(keys) == {"usage/data/BILLING_PERIOD=2026-03/usage-00000-draft.ndjson"}
    for key, entry in zip(keys, manifest["files"], strict=True):
        assert sha256(paths[key].read_bytes()).hexdigest() == entry["sha256"]
        assert (paths[key].stat().st_size, len(text_of(paths[key]).splitlines())) == (entry["bytes"], entry["records"])


def test_files_are_received_after_their_last_event_and_not_by_the_clock(tmp_path: Path) -> None:
    written = generate(FEED, LAYOUTS["cloudevents"], MIX, tmp_path, workers=1)

    for file in written:
        path = tmp_path / BUCKET / file.key
        newest = max(datetime.fromisoformat(record["time"]) for record in records_of("cloudevents", text_of(path)))
        assert newest.timestamp() < path.stat().st_mtime < newest.timestamp() + 600


def test_the_mix_spreads_compressions_evenly() -> None:
    assert [MIX.count(compression) for compression in (Compression.GZIP, Compression.ZSTD, Compression.PLAIN)] == [
        6,
        3,
        1,
    ]
    assert Compression.ZSTD in MIX[:3]


def test_the_command_line_writes_a_feed_and_refuses_a_folder_that_is_not_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--events", "2_00", "--layout", "orb", "--workers", "1", "--out", str(tmp_path / "feed")]

    main(arguments)

    assert "200 events in 1 files" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(arguments)
    assert "is not empty" in capsys.readouterr().err


def test_the_project_of_the_benchmarks_loads_and_covers_the_headline_feed() -> None:
    project = load_project(PROJECT)

    (contract,) = project.contracts
    keys = {LAYOUTS["cloudevents"].key(FEED, 0) + compression.value for compression in Compression}

    assert contract.event_types == SKUS
    assert [meter.event_type for meter in project.meters] == list(SKUS)
    assert all(contract.covers(key) for key in keys)
    assert project.settings.raw.bucket == BUCKET
