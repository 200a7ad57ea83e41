"""Feeds: files in the layout that each producer really writes, collected from a bucket by the contract for them.

``objects/<feed>/`` holds one bucket each, keys and all, as text; what ends in ``.gz`` is compressed on its way there.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.project_files import add_ready_contract, ready_contracts
from pipeline.core.dataset import QUARANTINE, RAW_EVENTS, Dataset
from pipeline.core.decimals import plain_text
from pipeline.steps.collect import collect
from pipeline.steps.publish import dataset_files, read_manifest
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import write_project
from tests.fixtures_s3 import put_object

OBJECTS = Path(__file__).parent / "objects"
RECEIVED_AT = datetime(2026, 1, 16, 1, tzinfo=UTC)
LISTED_AT = datetime(2026, 1, 16, 6, tzinfo=UTC)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)

Feed = Callable[..., Workspace]
Event = tuple[str, str, str, str, datetime, str, str]


@pytest.fixture
def feed(tmp_path: Path, raw_bucket: ObjectStore) -> Feed:
    """Collect the objects of a feed: ``feed("lago")`` by a ready contract, ``feed("x", contract=...)`` by another."""

    def collected(name: str, contract: str | None = None, ready: str | None = None) -> Workspace:
        files = {"sources/feed.toml": contract} if contract is not None else {}
        folder = write_project(tmp_path / "project", raw_bucket, files)
        if contract is None:
            path = add_ready_contract(folder, ready or name).path
            if ready is not None:
                path.write_text(path.read_text().replace('format = "ndjson"', 'format = "json"'))
        for path in sorted(found for found in (OBJECTS / name).rglob("*") if found.is_file()):
            content = path.read_bytes()
            key = path.relative_to(OBJECTS / name).as_posix()
            put_object(raw_bucket, key, gzip.compress(content) if key.endswith(".gz") else content, RECEIVED_AT)
        workspace = open_workspace(folder)
        collect(workspace, LISTED_AT, lambda _: None)
        return workspace

    return collected


def rows(ws: Workspace, dataset: Dataset) -> list[dict[str, Any]]:
    scopes = ws.control_plane.collections_of(ws.control_plane.object_ids()).get(dataset.name, [])
    manifests = [read_manifest(ws, scope) for scope in scopes]
    found = [
        row
        for manifest in manifests
        for path in dataset_files(ws, dataset, manifest.scope)
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    return sorted(found, key=lambda row: (row["object_id"], row["line_number"]))


def events(ws: Workspace) -> list[Event]:
    return [
        (
            row["source"],
            row["id"],
            row["type"],
            row["subject"],
            row["event_at"],
            "" if row["quantity"] is None else plain_text(row["quantity"]),
            row["data"],
        )
        for row in rows(ws, RAW_EVENTS)
    ]


def quarantined(ws: Workspace) -> list[tuple[int, str]]:
    return [(row["line_number"], row["reason"]) for row in rows(ws, QUARANTINE)]


REQUESTS: list[Event] = [
    ("gateway", "req-1", "request.completed", "customer-1", NOON, "", '{"input_tokens":"1200","model":"large"}'),
    (
        "gateway",
        "req-2",
        "request.completed",
        "customer-1",
        NOON.replace(microsecond=123_456),
        "",
        '{"input_tokens":"12345678901234567","model":"large"}',
    ),
    ("gateway", "req-3", "request.completed", "customer-1", NOON.replace(second=1), "", '{"input_tokens":"7"}'),
]


# Ready contracts -----------------------------------------------------------------------------------------------------


def test_every_ready_contract_has_a_bucket_here() -> None:
    names = [ready.name for ready in ready_contracts()]

    assert len(names) >= 10
    assert [name for name in names if not (OBJECTS / name).is_dir()] == []


@pytest.mark.parametrize("name", ["cloudevents", "cloudevents_firehose", "kafka_connect"])
def test_cloud_events_are_the_same_events_in_every_layout(feed: Feed, name: str) -> None:
    workspace = feed(name)

    assert events(workspace) == REQUESTS
    assert quarantined(workspace) == []


def test_a_json_array_of_cloud_events_with_a_byte_order_mark_is_the_same_events(feed: Feed) -> None:
    workspace = feed("cloudevents_array", ready="cloudevents")

    assert events(workspace) == REQUESTS
    assert quarantined(workspace) == []


def test_openmeter_events_are_cloud_events_and_a_time_is_never_filled_in(feed: Feed) -> None:
    workspace = feed("openmeter")

    assert events(workspace) == REQUESTS[:1]
    assert quarantined(workspace) == [(2, "missing_field")]


def test_lago_events_name_a_subscription_or_a_customer_and_count_seconds(feed: Feed) -> None:
    workspace = feed("lago")

    assert events(workspace) == [
        ("lago", "tx-1", "storage", "sub-1", NOON, "", '{"gb":"10.25"}'),
        (
            "lago",
            "tx-2",
            "storage",
            "customer-2",
            NOON.replace(microsecond=123_456),
            "1234.56",
            '{"gb":"2","region":"eu"}',
        ),
    ]
    assert quarantined(workspace) == []


def test_lago_request_bodies_are_unwrapped(feed: Feed) -> None:
    assert events(feed("lago_api")) == [("lago", "tx-1", "storage", "sub-1", NOON, "", '{"gb":"10"}')]


def test_stripe_meter_events_carry_their_value_as_quantity(feed: Feed) -> None:
    workspace = feed("stripe_meter_events")

    [event] = events(workspace)
    assert event[:6] == ("stripe", "idmp_12345678", "ai_search_api", "cus_NciAYcXfLnqBoz", NOON, "25")
    assert event[6] == '{"stripe_customer_id":"cus_NciAYcXfLnqBoz","value":"25"}'
    assert quarantined(workspace) == [(2, "not_a_number")]


def test_orb_events_name_a_customer_in_either_way_and_need_no_zone(feed: Feed) -> None:
    workspace = feed("orb")

    assert events(workspace) == [
        ("orb", "req-1", "api_request", "customer-1", NOON, "", '{"bytes":"2048","cached":false}'),
        ("orb", "req-2", "api_request", "Fk3kfxkFzR", NOON, "", "{}"),
    ]
    assert quarantined(workspace) == []


def test_flexprice_events_without_an_id_are_quarantined(feed: Feed) -> None:
    workspace = feed("flexprice")

    assert events(workspace) == [
        ("flexprice", "evt-1", "api_request", "customer-1", NOON, "", '{"bytes_transferred":"2048","method":"GET"}')
    ]
    assert quarantined(workspace) == [(2, "missing_field")]


def test_metronome_events_are_read(feed: Feed) -> None:
    assert events(feed("metronome")) == [
        (
            "metronome",
            "tx-1",
            "api_request",
            "04ca7e72-4229-4a6e-ab11-9f7376fccbcb",
            NOON,
            "",
            '{"bytes":"2048","region":"eu"}',
        )
    ]


def test_cloudfront_logs_are_read_by_the_names_in_their_comment(feed: Feed) -> None:
    workspace = feed("cloudfront")

    first, second = events(workspace)
    assert first[:6] == (
        "cloudfront",
        "f37nTMVvnKvV2ZSvEsivup_c2kZ7VXzYdjC-GUQZ5qNs-89BlWazbw==",
        "cdn.request",
        "E2QWRUHEXAMPLE",
        NOON,
        "2048",
    )
    assert '"bytes_received":"180"' in first[6]
    assert second[4:6] == (NOON.replace(second=1), "0")
    assert "bytes_received" not in second[6]
    assert [row["line_number"] for row in rows(workspace, RAW_EVENTS)] == [3, 4]
    assert quarantined(workspace) == []


# Contracts of one's own ----------------------------------------------------------------------------------------------


def test_records_without_an_id_are_named_by_their_offset(feed: Feed) -> None:
    workspace = feed(
        "kafka_connect_offsets",
        r"""
name = "storage"
version = "1"
prefix = "topics/storage/"
format = "ndjson"
[event]
source = { constant = "storage" }
id = { derive = "offset" }
type = { field = "meter" }
subject = { field = "account" }
time = { field = "at" }
data = { amount = { field = "amount", type = "decimal" } }
[completeness]
evidence = "offsets"
key_pattern = '.*/(?P<topic>[^/+]+)\+(?P<partition>[0-9]+)\+(?P<offset>[0-9]+)\.json\.gz'
""",
    )

    assert [(event[1], event[6]) for event in events(workspace)] == [
        ("storage+0+7", '{"amount":"0.5"}'),
        ("storage+0+8", '{"amount":"0.0000001"}'),
    ]


def test_a_csv_of_semicolons_with_a_byte_order_mark_is_read(feed: Feed) -> None:
    workspace = feed(
        "semicolon_csv",
        """
name = "exports"
version = "1"
prefix = "exports/"
format = "csv"
delimiter = ";"
[event]
source = { constant = "export" }
id = { derive = "key_and_line" }
type = { constant = "usage" }
subject = { field = "Kunde" }
time = { field = "Zeitpunkt" }
quantity = { field = "Menge", type = "decimal", minimum = 0 }
data = { note = { field = "Notiz", required = false } }
""",
    )

    assert events(workspace) == [
        ("export", "exports/usage_2026-01-15.csv:2", "usage", "customer-1", NOON, "1234.5", '{"note":"a;\\"b\\""}')
    ]
    assert quarantined(workspace) == [(3, "invalid_quantity")]


def test_tab_separated_values_with_milliseconds_are_read(feed: Feed) -> None:
    workspace = feed(
        "tab_separated",
        r"""
name = "tsv"
version = "1"
prefix = "tsv/"
format = "csv"
delimiter = "\t"
quoted = false
[event]
source = { constant = "router" }
id = { derive = "hash", of = ["ts", "account"] }
type = { constant = "traffic" }
subject = { field = "account" }
time = { field = "ts", format = "unix_milliseconds" }
quantity = { field = "bytes", type = "decimal" }
""",
    )

    assert [event[3:6] for event in events(workspace)] == [
        ("customer-1", NOON.replace(microsecond=123_000), "90071992547409931"),
        ("customer-2", NOON.replace(microsecond=123_456), "7"),
    ]


def test_columns_may_be_named_by_the_contract(feed: Feed) -> None:
    workspace = feed(
        "no_header_csv",
        """
name = "nginx"
version = "1"
prefix = "nginx/"
format = "csv"
header = "columns"
columns = ["time", "account", "bytes"]
[event]
source = { constant = "nginx" }
id = { derive = "object_and_line" }
type = { constant = "traffic" }
subject = { field = "account" }
quantity = { field = "bytes", type = "decimal", minimum = 0 }
""",
    )

    assert [event[3:6] for event in events(workspace)] == [("customer-1", NOON, "512")]
    assert quarantined(workspace) == [(2, "below_minimum")]


# Parquet -------------------------------------------------------------------------------------------------------------

COST_EXPORT = """
name = "cost_export"
version = "1"
prefix = "exports/"
suffixes = [".parquet"]
format = "parquet"
unknown_fields = "ignore"
[event]
source = { constant = "cost-export" }
id = { derive = "hash", of = ["line_item_id", "usage_start"] }
type = { field = "product" }
subject = { field = "account" }
time = { field = "usage_start", time_zone = "UTC" }
quantity = { field = "usage_amount", type = "decimal" }
[event.data]
region = { field = "product_details.region" }
"""


def put_export(raw: ObjectStore, folder: Path, amounts: pa.Array[Any]) -> None:
    count = len(amounts)
    table = pa.table(
        {
            "line_item_id": [f"line-{number}" for number in range(count)],
            "usage_start": pa.array([NOON.replace(tzinfo=None)] * count, pa.timestamp("ms")),
            "product": ["AmazonS3"] * count,
            "account": ["123456789012"] * count,
            "usage_amount": amounts,
            "product_details": [{"region": "eu-central-1", "sku": "X"}] * count,
            "blended_rate": [0.1] * count,
        }
    )
    path = folder / "export.parquet"
    pq.write_table(table, path)
    key = "exports/usage/data/BILLING_PERIOD=2026-01/usage-00001.snappy.parquet"
    put_object(raw, key, path.read_bytes(), RECEIVED_AT)


def collect_export(folder: Path, raw: ObjectStore, contract: str) -> Workspace:
    workspace = open_workspace(write_project(folder / "project", raw, {"sources/feed.toml": contract}))
    collect(workspace, LISTED_AT, lambda _: None)
    return workspace


def test_a_cost_export_in_parquet_keeps_its_decimals(tmp_path: Path, raw_bucket: ObjectStore) -> None:
    amounts = pa.array([Decimal("123456789012345678901.123456789"), None], pa.decimal128(38, 9))
    put_export(raw_bucket, tmp_path, amounts)

    workspace = collect_export(tmp_path, raw_bucket, COST_EXPORT)

    [event] = events(workspace)
    assert event[2:] == (
        "AmazonS3",
        "123456789012",
        NOON,
        "123456789012345678901.123456789",
        '{"region":"eu-central-1"}',
    )
    assert quarantined(workspace) == [(2, "missing_field")]


def test_doubles_of_a_cost_export_are_refused_unless_the_contract_takes_them(
    tmp_path: Path, raw_bucket: ObjectStore
) -> None:
    put_export(raw_bucket, tmp_path, pa.array([0.1, 1e-7]))

    refused = collect_export(tmp_path / "strict", raw_bucket, COST_EXPORT)
    taken = collect_export(
        tmp_path / "shortest",
        raw_bucket,
        COST_EXPORT.replace("[event]\n", "", 1).replace(
            'unknown_fields = "ignore"', 'unknown_fields = "ignore"\ndoubles = "shortest"\n[event]'
        ),
    )

    assert quarantined(refused) == [(0, "wrong_type")]
    assert [event[5] for event in events(taken)] == ["0.1", "0.0000001"]
