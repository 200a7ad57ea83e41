"""How a feed's events lie in files: one entry of ``LAYOUTS`` per layout, each a key and the bytes of a file.

Keys are below the bucket. Compression is not done here: a layout names the one it always has, or leaves it to the
mix. Damaged records are written where the layout can hold them; see ``Layout.damage``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.events import BAD_QUANTITY_TEXT, BAD_TIME_TEXT, Broken, Column, Events, Feed

BUCKET = "raw-usage"
KAFKA_PARTITIONS = 4
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CSV_COLUMNS = ("id", "source", "type", "time", "subject", "quantity", "region", "request_id")
CLOUDFRONT_HEADER = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) "
    "cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken "
    "x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status "
    "fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len "
    "sc-range-start sc-range-end"
)


class Compression(Enum):
    """How a file is compressed, and what its name ends in."""

    PLAIN = ""
    GZIP = ".gz"
    ZSTD = ".zst"


class Damage(Enum):
    """What a broken record of a layout looks like."""

    ANY = "any of the six ways"
    FIELDS = "a damaged field, so that the file as a whole can still be read"
    NO_SUBJECT = "no subject: the columns are typed"


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout: where file number n is, what is in it, and the compression that it always has, if it is one."""

    name: str
    key: Callable[[Feed, int], str]
    content: Callable[[Events], bytes]
    damage: Damage = Damage.ANY
    compression: Compression | None = None


# ---- where files are ----


def _dated(extension: str) -> Callable[[Feed, int], str]:
    def key(feed: Feed, file: int) -> str:
        return f"usage/dt={feed.instant(feed.positions(file).start):%Y-%m-%d}/part-{file:05d}{extension}"

    return key


def _firehose_key(feed: Feed, file: int) -> str:
    """Return a key of Firehose: the folder is when the oldest record of the file arrived."""
    at = feed.instant(feed.positions(file).start)
    digest = hashlib.sha256(f"{feed.seed}/{file}".encode()).hexdigest()
    uuid = f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"
    return f"usage/{at:%Y/%m/%d/%H}/usage-1-{at:%Y-%m-%d-%H-%M-%S}-{uuid}"


def _kafka_key(feed: Feed, file: int) -> str:
    """Return a key of Kafka Connect; files take partitions in turn, and the offsets of a partition have no gap."""
    partition, earlier_files = file % KAFKA_PARTITIONS, file // KAFKA_PARTITIONS
    return f"topics/usage/partition={partition}/usage+{partition}+{earlier_files * feed.lines_per_file:010d}.json"


def _cloudfront_key(feed: Feed, file: int) -> str:
    digest = hashlib.sha256(f"{feed.seed}/{file}".encode()).hexdigest()
    return f"cdn/E1A2B3C4D5E6F7.{feed.instant(feed.positions(file).start):%Y-%m-%d-%H}.{digest[:8]}"


def _export_key(feed: Feed, file: int) -> str:
    return f"usage/data/BILLING_PERIOD={feed.instant(feed.positions(file).start):%Y-%m}/usage-{file:05d}.ndjson"


# ---- records as text ----


def _join(*parts: Column) -> Column:
    """Return the parts of each record in one text; a part that is missing leaves nothing behind."""
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")


def _time(events: Events, good: Column, broken_text: str = BAD_TIME_TEXT) -> Column:
    return pc.if_else(events.is_broken(Broken.BAD_TIME), broken_text, good)


def _rfc3339(events: Events) -> Column:
    return _time(events, _join(events.local_time, events.offset))


def _utc(events: Events) -> Column:
    return _time(events, _join(events.utc_time, "Z"))


def _unix_seconds(events: Events) -> Column:
    return _time(events, pc.cast(pa.array(events.milliseconds // 1000), pa.string()), '"yesterday"')


def _subject(events: Events, before: str, after: str) -> Column:
    """Return the subject between two texts, and nothing where it is missing."""
    is_missing = events.is_broken(Broken.NO_SUBJECT)
    subject = pc.if_else(is_missing, pa.scalar(None, pa.string()), events.subject)
    return pc.binary_join_element_wise(before, subject, after, "")


def _quantity(events: Events, *, is_always_string: bool = False) -> Column:
    """Return the quantity as JSON: half of them strings, half numbers."""
    quote = '"' if is_always_string else pc.if_else(pa.array(events.is_quantity_string), '"', "")
    good = _join(quote, events.quantity, quote)
    text = pc.if_else(events.is_broken(Broken.BAD_QUANTITY), f'"{BAD_QUANTITY_TEXT}"', good)
    return pc.if_else(events.is_broken(Broken.QUANTITY_IS_AN_OBJECT), '{"v":1}', text)


def _lines(events: Events, records: Column) -> bytes:
    """Return one record per line, some of them cut or replaced."""
    if (events.broken == Broken.NO).all():
        return _bytes_of(_join(records, "\n"))
    is_cut = events.broken == Broken.TRUNCATED
    whole, cuts = records.filter(pa.array(is_cut)).to_pylist(), events.cut[is_cut].tolist()
    heads = [text[: min(cut, len(text) * 3 // 4)] for text, cut in zip(whole, cuts, strict=True)]
    records = pc.replace_with_mask(records, pa.array(is_cut), pa.array(heads, pa.string()))
    return _bytes_of(_join(pc.if_else(events.is_broken(Broken.NOT_A_RECORD), "ERROR upstream timeout", records), "\n"))


def _bytes_of(texts: Column) -> bytes:
    """Return the texts one after the other."""
    _, offsets, characters = texts.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return bytes(memoryview(characters)[bounds[0] : bounds[-1]]) if len(texts) else b""


# ---- the shapes of events ----


def _cloud_event(events: Events) -> Column:
    """Return CloudEvents with the quantity as an extension attribute beside ``data``."""
    return _join(
        '{"specversion":"1.0","id":"', events.id, '","source":"', events.source, '","type":"', events.sku,
        '","time":"', _rfc3339(events), '"', _subject(events, ',"subject":"', '"'), ',"quantity":', _quantity(events),
        ',"data":{"region":"', events.region, '","request_id":"', events.request_id, '"}}',
    )  # fmt: skip


def _openmeter(events: Events) -> Column:
    return _join(
        '{"specversion":"1.0","id":"', events.id, '","source":"', events.source, '","type":"', events.sku,
        '","time":"', _rfc3339(events), '"', _subject(events, ',"subject":"', '"'), ',"data":{"value":',
        _quantity(events), ',"region":"', events.region, '","request_id":"', events.request_id, '"}}',
    )  # fmt: skip


def _lago(events: Events) -> Column:
    return _join(
        '{"transaction_id":"', events.id, '"', _subject(events, ',"external_subscription_id":"', '"'), ',"code":"',
        events.sku, '","timestamp":', _unix_seconds(events), ',"properties":{"value":', _quantity(events),
        ',"region":"', events.region, '","request_id":"', events.request_id, '"}}',
    )  # fmt: skip


def _stripe(events: Events) -> Column:
    return _join(
        '{"object":"billing.meter_event","event_name":"', events.sku, '","identifier":"', events.id,
        '","livemode":true,"timestamp":', _unix_seconds(events), ',"payload":{"value":',
        _quantity(events, is_always_string=True), _subject(events, ',"stripe_customer_id":"', '"'), "}}",
    )  # fmt: skip


def _orb(events: Events) -> Column:
    return _join(
        '{"idempotency_key":"', events.id, '"', _subject(events, ',"external_customer_id":"', '"'),
        ',"event_name":"', events.sku, '","timestamp":"', _utc(events), '","properties":{"value":', _quantity(events),
        ',"region":"', events.region, '","request_id":"', events.request_id, '"}}',
    )  # fmt: skip


def _flexprice(events: Events) -> Column:
    return _join(
        '{"event_id":"', events.id, '"', _subject(events, ',"external_customer_id":"', '"'), ',"event_name":"',
        events.sku, '","timestamp":"', _rfc3339(events), '","source":"', events.source, '","properties":{"value":',
        _quantity(events), ',"region":"', events.region, '","request_id":"', events.request_id, '"}}',
    )  # fmt: skip


def _metronome(events: Events) -> Column:
    return _join(
        '{"transaction_id":"', events.id, '"', _subject(events, ',"customer_id":"', '"'), ',"event_type":"',
        events.sku, '","timestamp":"', _rfc3339(events), '","properties":{"value":',
        _quantity(events, is_always_string=True), ',"region":"', events.region, '","request_id":"', events.request_id,
        '"}}',
    )  # fmt: skip


def _ndjson(shape: Callable[[Events], Column]) -> Callable[[Events], bytes]:
    return lambda events: _lines(events, shape(events))


def _json_array(events: Events) -> bytes:
    return b"[" + _bytes_of(_join(_cloud_event(events), ",\n")).removesuffix(b",\n") + b"]\n"


def _concatenated(events: Events) -> bytes:
    return _bytes_of(_cloud_event(events))


def _csv(events: Events) -> bytes:
    quantity = pc.if_else(events.is_broken(Broken.BAD_QUANTITY), BAD_QUANTITY_TEXT, events.quantity)
    quantity = pc.if_else(events.is_broken(Broken.QUANTITY_IS_AN_OBJECT), '{"v":1}', quantity)
    rows = _join(
        events.id, ";", events.source, ";", events.sku, ";", _rfc3339(events), ";", _subject(events, "", ""), ";",
        quantity, ";", events.region, ";", events.request_id,
    )  # fmt: skip
    return BYTE_ORDER_MARK + ";".join(CSV_COLUMNS).encode() + b"\n" + _lines(events, rows)


def _cloudfront(events: Events) -> bytes:
    """Return a standard log: the request is the event, its bytes the quantity, its host the subject."""
    is_dateless = events.is_broken(Broken.BAD_TIME)
    size = pc.cast(pa.array(events.micros // 1_000_000), pa.string())
    size = pc.if_else(events.is_broken(Broken.BAD_QUANTITY), BAD_QUANTITY_TEXT, size)
    host = pc.coalesce(_subject(events, "", ".cdn.example.com"), pa.scalar("-"))
    values: dict[str, str | Column] = {
        "date": pc.if_else(is_dateless, "2026-02-31", pc.utf8_slice_codeunits(events.utc_time, 0, 10)),
        "time": pc.utf8_slice_codeunits(events.utc_time, 11, 19),
        "x-edge-location": "FRA56-P4",
        "sc-bytes": pc.if_else(events.is_broken(Broken.QUANTITY_IS_AN_OBJECT), "-", size),
        "c-ip": "192.0.2.10",
        "cs-method": "GET",
        "cs(Host)": "d111111abcdef8.cloudfront.net",
        "cs-uri-stem": _join("/", events.region, "/", events.sku),
        "sc-status": "200",
        "cs(User-Agent)": "Mozilla/5.0%20(compatible)",
        "x-edge-result-type": "Hit",
        "x-edge-request-id": _join(events.request_id, events.id),
        "x-host-header": host,
        "cs-protocol": "https",
        "cs-bytes": "421",
        "time-taken": "0.004",
        "ssl-protocol": "TLSv1.3",
        "ssl-cipher": "TLS_AES_128_GCM_SHA256",
        "x-edge-response-result-type": "Hit",
        "cs-protocol-version": "HTTP/2.0",
        "c-port": "11040",
        "time-to-first-byte": "0.004",
        "x-edge-detailed-result-type": "Hit",
        "sc-content-type": "application/octet-stream",
        "sc-content-len": size,
    }
    fields: list[str | Column] = []
    for name in CLOUDFRONT_HEADER.split():
        fields += ["\t", values.get(name, "-")]
    header = f"#Version: 1.0\n#Fields: {CLOUDFRONT_HEADER}\n"
    return header.encode() + _lines(events, _join(*fields[1:]))


def _parquet(events: Events) -> bytes:
    micros = pa.array(events.micros).cast(pa.decimal128(20, 0))
    table = pa.table(
        {
            "id": events.id,
            "source": events.source,
            "type": events.sku,
            "time": pa.array(events.milliseconds * 1000, pa.timestamp("us", "UTC")),
            "subject": _subject(events, "", ""),
            "quantity": _millionths(micros),
            "region": events.region,
            "request_id": events.request_id,
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _millionths(micros: Column) -> Column:
    """Return the numbers divided by a million, exactly: the same digits with another scale."""
    return pa.Array.from_buffers(pa.decimal128(20, 6), len(micros), micros.buffers())


# ---- the layouts ----

EXPORT_MANIFEST_KEY = "usage/metadata/BILLING_PERIOD={period}/usage-Manifest.json"

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("cloudevents", _dated(".ndjson"), _ndjson(_cloud_event)),
        Layout("json_array", _dated(".json"), _json_array, Damage.FIELDS),
        Layout("firehose", _firehose_key, _concatenated, Damage.FIELDS, Compression.GZIP),
        Layout("kafka_connect", _kafka_key, _ndjson(_cloud_event), compression=Compression.GZIP),
        Layout("csv", _dated(".csv"), _csv),
        Layout("cloudfront", _cloudfront_key, _cloudfront, compression=Compression.GZIP),
        Layout("parquet", _dated(".parquet"), _parquet, Damage.NO_SUBJECT, Compression.PLAIN),
        Layout("manifest", _export_key, _ndjson(_cloud_event)),
        Layout("openmeter", _dated(".ndjson"), _ndjson(_openmeter)),
        Layout("lago", _dated(".ndjson"), _ndjson(_lago)),
        Layout("stripe", _dated(".ndjson"), _ndjson(_stripe)),
        Layout("orb", _dated(".ndjson"), _ndjson(_orb)),
        Layout("flexprice", _dated(".ndjson"), _ndjson(_flexprice)),
        Layout("metronome", _dated(".ndjson"), _ndjson(_metronome)),
    )
}


def export_manifests(files: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the producer's manifest of each billing period, by key: it lists what counts, nothing else does.

    A file is given as ``key`` (an ``s3://`` address), ``records``, ``bytes`` and ``sha256``.
    """
    by_period: dict[str, list[Mapping[str, Any]]] = {}
    for file in files:
        period = file["key"].split("BILLING_PERIOD=")[1].partition("/")[0]
        by_period.setdefault(period, []).append(file)
    return {
        EXPORT_MANIFEST_KEY.format(period=period): json.dumps({"files": listed}, indent=2).encode() + b"\n"
        for period, listed in by_period.items()
    }
