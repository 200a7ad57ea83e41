"""Completeness as rules: what is evidence, how it is read, what is missing, and which windows that concerns (P9)."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.core.completeness import (
    CollectedEvidence,
    CollectedObject,
    Evidence,
    EvidenceKind,
    Missing,
    SourceFacts,
    SourceHour,
    WindowBounds,
    complete_until,
    evidence_of,
    first_missing,
    joined_hours,
    listed_keys,
    manifest_entries,
    missing_evidence,
    missing_gaps,
    offset_overlaps,
    parse_evidence,
    parse_instant,
    summed_paths,
)
from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.errors import InputError
from pipeline.core.evidence import Completeness, ManifestFile
from pipeline.core.reason import QuarantineReason, Rejection
from pipeline.core.window import BillingWindow

START = datetime(2026, 1, 15, tzinfo=UTC)
WINDOW = BillingWindow(START, START + timedelta(days=1))
CUTOFF = WINDOW.end + timedelta(hours=6)
NOON = START + timedelta(hours=12)
ONE_MICROSECOND = timedelta(microseconds=1)
BOUNDS = WindowBounds(WINDOW, CUTOFF, CUTOFF)
KAFKA = r"topics/(?P<topic>[^/]+)/.*\+(?P<partition>\d+)\+(?P<offset>\d+)\.json\.gz"
CONTROL = r"control/.*\.json"


def contract(completeness: dict[str, Any] | None = None, **changed: Any) -> SourceContract:
    declared = {"completeness": completeness} if completeness else {}
    return SourceContract.model_validate(
        {"name": "usage", "version": "1", "prefix": "topics/", "format": FileFormat.NDJSON, **declared, **changed}
    )


OFFSETS = contract({"evidence": "offsets", "key_pattern": KAFKA})
CONTROL_FILE = contract({"evidence": "control_file", "key_pattern": CONTROL})
HEARTBEAT = contract({"evidence": "heartbeat", "key_pattern": r"beat/(?P<until>.+)"})
MANIFEST = contract(manifest={"key_pattern": r"topics/.*manifest\.json", "key": "key", "bytes": "size", "records": "n"})


def connect_object(
    offset: int, records: int, received_at: datetime = NOON, partition: int = 3, **changed: Any
) -> CollectedObject:
    """Return an object as the Kafka Connect sink names it."""
    key = f"topics/calls/year=2026/calls+{partition}+{offset:010d}.json.gz"
    return CollectedObject(key, received_at, 100, records, records)._replace(**changed)


def collected(
    source: SourceContract, key: str, content: Any = None, received_at: datetime = NOON, version: str = "1"
) -> CollectedEvidence:
    said = parse_evidence(source, key, json.dumps(content).encode())
    assert isinstance(said, Evidence), said
    return CollectedEvidence(f"{key}@{version}", received_at, said)


def facts(source: SourceContract, **changed: Any) -> SourceFacts:
    return SourceFacts(source, **{"watermark_at": CUTOFF, **changed})


def sentences(
    found: SourceFacts, bounds: WindowBounds = BOUNDS, hours: dict[tuple[str, datetime], SourceHour] | None = None
) -> list[str]:
    return [one.sentence for one in missing_evidence(found, bounds, hours or {})]


# ---- what a contract declares ----


def test_elapsed_time_is_what_a_contract_declares_when_it_says_nothing() -> None:
    assert contract().completeness.evidence == "elapsed"
    assert contract().manifest is None


@pytest.mark.parametrize(
    "declared",
    [
        {"evidence": "offsets", "key_pattern": r"(?P<partition>\d+)"},
        {"evidence": "offsets", "key_pattern": r"(?P<partition>\d+)(?P<offset>\d+)(?P<other>x)"},
        {"evidence": "offsets", "key_pattern": "("},
        {"evidence": "offsets"},
        {"evidence": "offsets", "key_pattern": KAFKA, "first_offset": -1},
        {"evidence": "heartbeat", "key_pattern": r"(?P<until>.)(?P<hour>.)"},
        {"evidence": "control_file", "key_pattern": "x", "sources": [""]},
        {"evidence": "elapsed", "key_pattern": "x"},
        {"evidence": "trust"},
        {},
    ],
)
def test_evidence_that_cannot_be_looked_for_is_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Completeness).validate_python(declared)


def test_a_manifest_with_counts_has_entries_with_keys() -> None:
    with pytest.raises(ValidationError, match="key has to be one too"):
        ManifestFile.model_validate({"key_pattern": "x", "bytes": "size"})


# ---- evidence objects ----


def test_an_object_of_evidence_is_no_usage_data_although_the_prefix_covers_it() -> None:
    assert evidence_of([MANIFEST], "topics/2026/manifest.json") == (MANIFEST, EvidenceKind.MANIFEST)
    assert evidence_of([MANIFEST], "topics/2026/a.json") is None
    assert evidence_of([OFFSETS], "topics/calls/calls+3+0000000000.json.gz") is None


def test_a_key_pattern_matches_the_whole_key() -> None:
    assert evidence_of([CONTROL_FILE], "control/a.json") is not None
    assert evidence_of([CONTROL_FILE], "control/a.json.bak") is None
    assert evidence_of([CONTROL_FILE], "topics/control/a.json") is None


def test_evidence_of_two_contracts_and_evidence_that_is_data_of_another_are_refused() -> None:
    other = CONTROL_FILE.model_copy(update={"name": "other"})
    data = contract(name="data", prefix="control/")

    for contracts in ([CONTROL_FILE, other], [CONTROL_FILE, data], [data, CONTROL_FILE]):
        with pytest.raises(InputError, match=r"collect\.contracts_overlap"):
            evidence_of(contracts, "control/a.json")


CONTROL_ENTRY = {"source": "api", "hour": "2026-01-15T00:00:00Z", "count": 2, "sums": {"quantity": "12.50"}}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(CONTROL_ENTRY),
        json.dumps([CONTROL_ENTRY]),
        json.dumps(CONTROL_ENTRY, indent=2),
        "\ufeff" + json.dumps(CONTROL_ENTRY) + "\n\n",
        json.dumps({**CONTROL_ENTRY, "hour": "2026-01-15T02:00:00+02:00"}),
    ],
)
def test_a_control_file_is_one_object_a_list_or_one_object_per_line(content: str) -> None:
    said = parse_evidence(CONTROL_FILE, "control/a.json", content.encode())

    assert isinstance(said, Evidence)
    assert json.loads(said.content) == [
        {"source": "api", "hour": "2026-01-15T00:00:00+00:00", "count": 2, "sums": {"quantity": "12.5"}}
    ]


def test_a_control_file_of_several_lines_has_an_entry_for_each() -> None:
    lines = "\n".join(json.dumps({**CONTROL_ENTRY, "source": source}) for source in ("api", "batch"))

    said = parse_evidence(CONTROL_FILE, "control/a.json", lines.encode())

    assert isinstance(said, Evidence)
    assert [row["source"] for row in json.loads(said.content)] == ["api", "batch"]


def test_sums_keep_every_digit() -> None:
    text = '{"source":"a","hour":"2026-01-15T00","count":1,"sums":{"data.x":12345678901234567890.123456789}}'

    said = parse_evidence(CONTROL_FILE, "control/a.json", text.encode())

    assert isinstance(said, Evidence)
    assert json.loads(said.content)[0]["sums"] == {"data.x": "12345678901234567890.123456789"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        (json.dumps(CONTROL_ENTRY)[:-1], "is not JSON"),
        ("[" * 100_000, "is nested too deep"),
        ('{"source":"a","source":"b"}', "occurs twice"),
        (json.dumps([CONTROL_ENTRY, CONTROL_ENTRY]), "twice"),
        (json.dumps({**CONTROL_ENTRY, "extra": 1}), "'extra' is unknown"),
        (json.dumps({"source": "a", "hour": "2026-01-15T00:00:00Z"}), "'count' is missing"),
        (json.dumps({**CONTROL_ENTRY, "source": ""}), "source"),
        (json.dumps({**CONTROL_ENTRY, "source": 1}), "source"),
        (json.dumps({**CONTROL_ENTRY, "hour": "2026-01-15T00:30:00Z"}), "hour"),
        (json.dumps({**CONTROL_ENTRY, "hour": "2026-01-15"}), "hour"),
        (json.dumps({**CONTROL_ENTRY, "hour": 0}), "hour"),
        (json.dumps({**CONTROL_ENTRY, "count": -1}), "count"),
        (json.dumps({**CONTROL_ENTRY, "count": 1.5}), "count"),
        (json.dumps({**CONTROL_ENTRY, "count": "1"}), "count"),
        (json.dumps({**CONTROL_ENTRY, "count": True}), "count"),
        (json.dumps({**CONTROL_ENTRY, "sums": {"quantity": None}}), "quantity"),
        (json.dumps({**CONTROL_ENTRY, "sums": {"quantity": "1_000"}}), "quantity"),
        (json.dumps({**CONTROL_ENTRY, "sums": {"input_tokens": 1}}), "sums"),
        (json.dumps({**CONTROL_ENTRY, "sums": [1]}), "sums"),
        ('{"source":"a","hour":"2026-01-15T00","count":NaN}', "NaN"),
        ('{"source":"a","hour":"2026-01-15T00","count":1e999999}', "digits"),
        ("[1]", "expected a JSON object"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_control_file_that_is_not_certainly_right_is_rejected_as_a_whole(content: str | bytes, message: str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()

    said = parse_evidence(CONTROL_FILE, "control/a.json", raw)

    assert isinstance(said, Rejection)
    assert said.reason is QuarantineReason.UNREADABLE_EVIDENCE
    assert message in said.message


def test_an_object_that_is_no_evidence_is_not_parsed_as_one() -> None:
    with pytest.raises(ValueError, match="no evidence of contract usage"):
        parse_evidence(CONTROL_FILE, "topics/a.json", b"{}")


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise_out_of_an_evidence_object(content: bytes) -> None:
    assert isinstance(parse_evidence(CONTROL_FILE, "control/a.json", content), Evidence | Rejection)
    assert isinstance(parse_evidence(MANIFEST, "topics/manifest.json", content), Evidence | Rejection)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-15T06:00:00Z", "2026-01-15T06:00:00+00:00"),
        ("2026-01-15T06-30-15Z", "2026-01-15T06:30:15+00:00"),
        ("2026-01-15T06", "2026-01-15T06:00:00+00:00"),
        ("2026/01/15/06", "2026-01-15T06:00:00+00:00"),
        ("20260115T060001Z", "2026-01-15T06:00:01+00:00"),
        ("2026-01-15T06:00:00.9999999-05:00", "2026-01-15T11:00:00.999999+00:00"),
        ("2026-01-15", None),
        ("2026-13-15T06", None),
        ("2026-01-15T24", None),
        ("9999-12-31T23:00:00-10:00", None),
        ("", None),
    ],
)
def test_an_instant_in_a_key_has_an_hour_and_is_utc_unless_it_says_otherwise(text: str, expected: str | None) -> None:
    instant = parse_instant(text)

    assert (instant.isoformat() if instant else None) == expected


# ---- elapsed ----


def test_elapsed_time_is_complete_at_the_cutoff_and_not_before() -> None:
    assert sentences(facts(contract(), watermark_at=CUTOFF)) == []
    assert sentences(facts(contract(), watermark_at=CUTOFF - ONE_MICROSECOND)) == [
        "collection up to 2026-01-16T06:00Z, it reached 2026-01-16T05:59:59.999999Z"
    ]
    assert sentences(facts(contract(), watermark_at=None)) == [
        "collection up to 2026-01-16T06:00Z, nothing was collected yet"
    ]


@pytest.mark.parametrize("source", [OFFSETS, CONTROL_FILE, HEARTBEAT, MANIFEST])
def test_no_evidence_replaces_a_collection_that_reached_the_cutoff(source: SourceContract) -> None:
    assert sentences(facts(source, watermark_at=CUTOFF - ONE_MICROSECOND))[0].startswith("collection up to")


# ---- offsets ----


def test_objects_that_follow_each_other_are_complete_in_whatever_order_they_are_listed() -> None:
    objects = [
        connect_object(0, 100),
        connect_object(100, 50),
        connect_object(150, 1),
        connect_object(7, 3, partition=4),
    ]

    assert sentences(facts(OFFSETS, objects=objects)) == []
    assert sentences(facts(OFFSETS, objects=objects[::-1])) == []


def test_a_gap_is_named_by_its_first_and_last_offset_and_its_partition() -> None:
    objects = [connect_object(41_000, 207), connect_object(42_000, 10)]

    found = missing_evidence(facts(OFFSETS, objects=objects), BOUNDS, {})

    assert found == [Missing("offset 41,207–41,999 of partition 3 of topic calls", NOON)]


def test_without_a_topic_in_the_key_the_gap_is_named_by_its_partition_alone() -> None:
    source = contract({"evidence": "offsets", "key_pattern": r".*\+(?P<partition>\d+)\+(?P<offset>\d+)\.json\.gz"})
    objects = [connect_object(41_000, 207), connect_object(42_000, 10)]

    assert sentences(facts(source, objects=objects)) == ["offset 41,207–41,999 of partition 3"]


def test_one_record_too_few_is_a_gap_of_one_offset_and_the_exact_count_is_none() -> None:
    too_few = [connect_object(0, 9), connect_object(10, 5)]
    exact = [connect_object(0, 10), connect_object(10, 5)]

    assert sentences(facts(OFFSETS, objects=too_few)) == ["offset 9 of partition 3 of topic calls"]
    assert sentences(facts(OFFSETS, objects=exact)) == []


def test_gaps_are_looked_for_in_each_partition_and_topic_by_itself() -> None:
    other_topic = connect_object(10, 1)
    objects = [
        connect_object(0, 5),
        connect_object(5, 5, partition=10),
        connect_object(20, 1, partition=10),
        other_topic._replace(key=other_topic.key.replace("calls", "jobs")),
        connect_object(7, 1),
    ]

    assert sentences(facts(OFFSETS, objects=objects)) == [
        "offset 5–6 of partition 3 of topic calls",
        "offset 10–19 of partition 10 of topic calls",
    ]


def test_the_first_offset_is_the_first_one_seen_unless_the_contract_declares_it() -> None:
    declared = contract({"evidence": "offsets", "key_pattern": KAFKA, "first_offset": 0})
    objects = [connect_object(4, 2)]

    assert sentences(facts(OFFSETS, objects=objects)) == []
    assert sentences(facts(declared, objects=objects)) == ["offset 0–3 of partition 3 of topic calls"]


def test_an_object_that_starts_too_early_is_an_overlap_and_no_gap() -> None:
    found = facts(OFFSETS, objects=[connect_object(0, 100), connect_object(90, 5), connect_object(100, 1)])

    assert sentences(found) == []
    assert offset_overlaps(found) == [
        "topics/calls/year=2026/calls+3+0000000090.json.gz starts at offset 90 of partition 3, expected 100: "
        "some records came twice"
    ]
    assert offset_overlaps(facts(OFFSETS, objects=[connect_object(0, 100), connect_object(100, 1)])) == []


def test_an_object_that_could_not_be_read_may_hold_the_offsets_up_to_the_next_one() -> None:
    unread = connect_object(10, 1, line_count=1, raw_event_count=0, fault="truncated_object")
    found = facts(OFFSETS, objects=[connect_object(0, 10), unread, connect_object(50, 1)])

    assert sentences(found) == [
        "offset 11–49 of partition 3 of topic calls, unless topics/calls/year=2026/calls+3+0000000010.json.gz "
        "holds them, which could not be read"
    ]


def test_an_object_of_one_quarantined_line_is_whole_when_the_next_one_follows_it() -> None:
    one_bad_line = connect_object(10, 1, line_count=1, raw_event_count=0)

    assert sentences(facts(OFFSETS, objects=[connect_object(0, 10), one_bad_line, connect_object(11, 1)])) == []


def test_an_empty_object_holds_no_offset() -> None:
    empty = connect_object(10, 1, line_count=1, raw_event_count=0, fault="empty_object")

    assert sentences(facts(OFFSETS, objects=[connect_object(0, 10), empty, connect_object(11, 1)])) == [
        "offset 10 of partition 3 of topic calls"
    ]
    assert (
        sentences(
            facts(
                OFFSETS,
                objects=[
                    connect_object(0, 10),
                    empty,
                    connect_object(10, 1)._replace(key="topics/calls/again+3+10.json.gz"),
                ],
            )
        )
        == []
    )


def test_how_far_the_last_object_reaches_is_not_known_when_it_could_not_be_read() -> None:
    unread = connect_object(10, 1, line_count=1, raw_event_count=0, fault="truncated_object")
    found = facts(OFFSETS, objects=[connect_object(0, 10), unread])

    assert sentences(found) == [
        "offset 10 of partition 3 of topic calls and what follows it in "
        "topics/calls/year=2026/calls+3+0000000010.json.gz, which could not be read"
    ]


def test_a_key_without_an_offset_is_missing_evidence() -> None:
    found = facts(OFFSETS, objects=[connect_object(0, 1)._replace(key="topics/calls/backfill.json.gz")])

    assert sentences(found) == ["the offsets of topics/calls/backfill.json.gz, which its key does not say"]


@pytest.mark.parametrize(
    ("before", "after", "is_concerned"),
    [
        (NOON, NOON, True),
        (CUTOFF - ONE_MICROSECOND, CUTOFF + timedelta(days=3), True),
        (CUTOFF, CUTOFF + timedelta(days=3), False),  # what is received after the cutoff is late
        (START - timedelta(days=3), START, True),
        (START - timedelta(days=3), START - ONE_MICROSECOND, False),  # received before the window began
        (CUTOFF + timedelta(days=1), START, True),  # uploaded in the wrong order: the span is what counts
        (START, START - timedelta(days=1), True),
    ],
)
def test_a_gap_concerns_the_windows_whose_events_it_can_hold_in_time(
    before: datetime, after: datetime, is_concerned: bool
) -> None:
    found = facts(OFFSETS, objects=[connect_object(0, 5, before), connect_object(9, 5, after)])

    assert bool(missing_gaps(found, BOUNDS)) is is_concerned


def test_an_event_may_be_ahead_of_its_receipt_by_the_tolerance() -> None:
    tolerance = timedelta(minutes=5)
    found = facts(OFFSETS, objects=[connect_object(0, 5, START - tolerance), connect_object(9, 5, START - tolerance)])

    assert missing_gaps(found, replace(BOUNDS, future_tolerance=tolerance))
    assert not missing_gaps(found, replace(BOUNDS, future_tolerance=tolerance - ONE_MICROSECOND))


def test_a_source_whose_events_are_received_when_they_happen_is_never_too_late_for_a_gap() -> None:
    long_after = CUTOFF + timedelta(days=30)
    objects = [connect_object(0, 5, long_after), connect_object(9, 5, long_after)]

    assert not missing_gaps(facts(OFFSETS, objects=objects), BOUNDS)
    assert missing_gaps(facts(OFFSETS.model_copy(update={"received": "event_time"}), objects=objects), BOUNDS)


def test_offsets_are_shown_to_be_complete_up_to_the_first_gap() -> None:
    before = NOON - timedelta(hours=3)

    assert complete_until(facts(OFFSETS, objects=[connect_object(0, 5)]), START) == CUTOFF
    assert complete_until(facts(OFFSETS, objects=[connect_object(0, 5, before), connect_object(9, 1)]), START) == before
    assert complete_until(facts(OFFSETS, watermark_at=None), START) is None


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=12), min_size=1, max_size=4),
    st.randoms(),
)
def test_exactly_the_offsets_of_removed_objects_are_named(
    partitions: list[list[tuple[int, bool]]], random: Any
) -> None:
    source = contract({"evidence": "offsets", "key_pattern": KAFKA, "first_offset": 0})
    objects, expected = [], []
    for partition, chain in enumerate(partitions):
        start, gap = 0, None
        for records, is_removed in chain:
            if is_removed:
                gap = (gap[0] if gap else start, start + records - 1)
            else:
                objects.append(connect_object(start, records, partition=partition))
                if gap:
                    first, last = gap
                    expected.append((partition, f"{first:,}" if first == last else f"{first:,}–{last:,}"))
                    gap = None
            start += records
        # What was removed at the end cannot be seen: nothing follows it.
    # One quarantined line may stand for a whole object; these objects were read.
    random.shuffle(objects)

    assert sentences(facts(source, objects=objects)) == [
        f"offset {offsets} of partition {partition} of topic calls" for partition, offsets in expected
    ]


# ---- heartbeat ----


def test_a_heartbeat_is_complete_at_the_end_of_the_window_and_not_before() -> None:
    at_end = collected(HEARTBEAT, "beat/2026-01-16T00:00:00Z")
    before = collected(HEARTBEAT, "beat/2026-01-15T23:59:59.999999Z")

    assert sentences(facts(HEARTBEAT, evidence=[before, at_end])) == []
    assert sentences(facts(HEARTBEAT, evidence=[before])) == [
        "a heartbeat up to 2026-01-16T00:00Z; the newest says 2026-01-15T23:59:59.999999Z"
    ]
    assert sentences(facts(HEARTBEAT)) == ["a heartbeat up to 2026-01-16T00:00Z; none was collected"]


def test_the_newest_heartbeat_is_the_one_that_reaches_furthest_whenever_it_came() -> None:
    late = collected(HEARTBEAT, "beat/2026-01-15T06", received_at=CUTOFF)
    furthest = collected(HEARTBEAT, "beat/2026-01-16T00", received_at=NOON)

    assert sentences(facts(HEARTBEAT, evidence=[furthest, late])) == []
    assert complete_until(facts(HEARTBEAT, evidence=[furthest, late]), START) == WINDOW.end
    assert complete_until(facts(HEARTBEAT), START) is None


def test_a_heartbeat_for_an_hour_reaches_to_the_end_of_that_hour() -> None:
    marker = contract({"evidence": "heartbeat", "key_pattern": r"usage/(?P<hour>\d{4}/\d\d/\d\d/\d\d)/_SUCCESS"})

    assert sentences(facts(marker, evidence=[collected(marker, "usage/2026/01/15/23/_SUCCESS")])) == []
    assert sentences(facts(marker, evidence=[collected(marker, "usage/2026/01/15/22/_SUCCESS")])) != []


def test_a_heartbeat_may_say_it_in_its_content() -> None:
    content = contract({"evidence": "heartbeat", "key_pattern": r"beat\.json"})
    wrong = parse_evidence(content, "beat.json", b'{"complete_until": "soon"}')

    assert (
        sentences(facts(content, evidence=[collected(content, "beat.json", {"complete_until": "2026-01-16T00"})])) == []
    )
    assert isinstance(wrong, Rejection)


def test_a_heartbeat_whose_key_names_no_instant_is_rejected() -> None:
    assert isinstance(parse_evidence(HEARTBEAT, "beat/tomorrow", b""), Rejection)


# ---- control files ----


def control(hour: int, count: int, source: str = "api", **sums: Any) -> dict[str, Any]:
    return {"source": source, "hour": (START + timedelta(hours=hour)).isoformat(), "count": count, "sums": sums}


def control_facts(*entries: dict[str, Any], source: SourceContract = CONTROL_FILE) -> SourceFacts:
    return facts(source, evidence=[collected(source, "control/a.json", list(entries))])


def hours_of(*entries: dict[str, Any]) -> dict[tuple[str, datetime], SourceHour]:
    return {
        (entry["source"], datetime.fromisoformat(entry["hour"])): SourceHour(
            entry["count"], {path: Decimal(total) for path, total in entry["sums"].items()}
        )
        for entry in entries
    }


DAY = [control(hour, 10 * hour, quantity=f"{hour}.5") for hour in range(24)]


def test_a_window_whose_every_hour_ties_is_complete_also_an_hour_without_events() -> None:
    assert DAY[0]["count"] == 0
    without_hour_0 = [{**DAY[0], "sums": {}}, *DAY[1:]]

    assert sentences(control_facts(*without_hour_0), hours=hours_of(*DAY[1:])) == []


def test_a_missing_control_file_is_named_by_its_source_and_hour() -> None:
    found = sentences(control_facts(*DAY[:7], *DAY[8:]), hours=hours_of(*DAY))

    assert found == ["the control file (70 events were collected) for api at 2026-01-15T07:00Z"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (control(7, 71, quantity="7.5"), "1 of 71 events (control/a.json; 70 were collected)"),
        (
            control(7, 69, quantity="7.5"),
            "a control file for 1 more than 69 events (control/a.json; 70 were collected)",
        ),
        (control(7, 70, quantity="7.4"), "a quantity of 7.4 in all (control/a.json; 7.5 was collected)"),
        (
            control(7, 70, quantity="7.500000001"),
            "a quantity of 7.500000001 in all (control/a.json; 7.5 was collected)",
        ),
    ],
)
def test_fewer_events_more_events_and_another_sum_each_have_their_sentence(said: dict[str, Any], sentence: str) -> None:
    found = sentences(control_facts(*DAY[:7], said, *DAY[8:]), hours=hours_of(*DAY))

    assert found == [f"{sentence} for api at 2026-01-15T07:00Z"]


def test_equal_sums_are_equal_however_they_are_written() -> None:
    said = control(7, 70, quantity="7.500")

    assert sentences(control_facts(*DAY[:7], said, *DAY[8:]), hours=hours_of(*DAY)) == []


def test_the_control_file_received_last_has_the_last_word() -> None:
    first = collected(CONTROL_FILE, "control/a.json", [*DAY[:7], control(7, 1), *DAY[8:]])
    corrected = collected(CONTROL_FILE, "control/b.json", [DAY[7]], NOON + ONE_MICROSECOND)
    rewritten = collected(CONTROL_FILE, "control/a.json", DAY, NOON + ONE_MICROSECOND, "2")

    for evidence in ([first, corrected], [corrected, first], [rewritten, first]):
        assert sentences(facts(CONTROL_FILE, evidence=evidence), hours=hours_of(*DAY)) == []


def test_every_source_that_was_ever_seen_needs_its_control_files_unless_they_are_declared() -> None:
    other = control(0, 1, source="batch")
    earlier = {**control(0, 1, source="gone"), "hour": "2026-01-10T00:00:00Z"}
    declared = contract({"evidence": "control_file", "key_pattern": CONTROL, "sources": ["api"]})

    assert len(sentences(control_facts(*DAY), hours=hours_of(*DAY, other))) == 24
    assert len(sentences(control_facts(*DAY, earlier), hours=hours_of(*DAY))) == 24
    assert sentences(control_facts(*DAY, source=declared), hours=hours_of(*DAY, other)) == []
    assert sentences(facts(CONTROL_FILE)) == ["a control file; no source was ever seen"]
    assert len(sentences(facts(declared))) == 24


def test_control_files_of_another_window_are_not_looked_at() -> None:
    next_day = {**control(0, 5, quantity="1"), "hour": "2026-01-16T00:00:00Z"}

    assert sentences(control_facts(*DAY, next_day), hours=hours_of(*DAY)) == []
    assert summed_paths(control_facts(*DAY, {**next_day, "sums": {"data.x": 1}}), WINDOW) == ["quantity"]


def test_control_files_show_completeness_up_to_the_first_hour_without_one() -> None:
    assert complete_until(control_facts(*DAY), START) == WINDOW.end
    assert complete_until(control_facts(*DAY[:7], *DAY[8:]), START) == START + timedelta(hours=7)
    assert complete_until(facts(CONTROL_FILE), START) is None


def test_sums_are_plain_digits_on_both_sides() -> None:
    found = {**hours_of(*DAY), ("api", START): SourceHour(0, {"quantity": Decimal("51.000000000")})}

    assert sentences(control_facts(control(0, 0, quantity="50"), *DAY[1:]), hours=found) == [
        "a quantity of 50 in all (control/a.json; 51 was collected) for api at 2026-01-15T00:00Z"
    ]


def test_an_hour_without_a_control_file_names_the_first_one_after_it_that_could_not_be_read() -> None:
    unread = [
        CollectedObject(f"control/{number}", received_at, 1, 1, 0)
        for number, received_at in enumerate([START + timedelta(hours=9), START + timedelta(hours=8), START])
    ]
    found = replace(control_facts(*DAY[:7], *DAY[8:9], *DAY[10:]), unread_control_files=unread)
    one_event = {("api", START + timedelta(hours=9)): SourceHour(1, {})}

    assert sentences(found, hours={**hours_of(*DAY), **one_event}) == [
        "the control file (70 events were collected; control/1 could not be read) for api at 2026-01-15T07:00Z",
        "the control file (1 event was collected; control/0 could not be read) for api at 2026-01-15T09:00Z",
    ]
    assert "could not be read" not in str(sentences(replace(found, unread_control_files=unread[2:])))


def test_hours_of_a_source_that_follow_each_other_are_one_sentence_and_others_are_not() -> None:
    said = [*DAY[:3], *DAY[5:9], *DAY[10:]]
    both = [*said, *(control(hour, 0, source="batch") for hour in range(1, 24))]
    found = missing_evidence(control_facts(*both), BOUNDS, hours_of(*DAY))

    joined = joined_hours([*reversed(found), Missing("offset 2", START)])

    assert [(one.sentence, one.since, len(parts)) for one, parts in joined] == [
        ("offset 2", START, 1),
        (
            "the control file (no event was collected) for batch at 2026-01-15T00:00Z",
            START + timedelta(hours=1),
            1,
        ),
        (
            "no control file for api from 2026-01-15T03:00Z to 2026-01-15T05:00Z, 2 hours (70 events were collected)",
            START + timedelta(hours=4),
            2,
        ),
        (
            "the control file (90 events were collected) for api at 2026-01-15T09:00Z",
            START + timedelta(hours=10),
            1,
        ),
    ]


# ---- manifests ----


def manifest(*entries: dict[str, Any], key: str = "topics/manifest.json", **changed: Any) -> CollectedEvidence:
    return collected(MANIFEST, key, list(entries), **changed)


def entry(known: CollectedObject, **changed: Any) -> dict[str, Any]:
    return {"key": f"/{known.key}", "size": known.byte_count, "n": known.line_count, **changed}


def test_a_manifest_whose_objects_are_all_there_is_complete() -> None:
    known = connect_object(0, 5)

    assert sentences(facts(MANIFEST, objects=[known], evidence=[manifest(entry(known))])) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"key": "/topics/other"}, "is not there"),
        ({"size": 99}, "has 100 bytes instead of 99"),
        ({"n": 4}, "has 5 records instead of 4"),
    ],
)
def test_an_object_that_a_manifest_lists_and_that_is_not_so_is_missing(changed: dict[str, Any], problem: str) -> None:
    known = connect_object(0, 5)
    listed = entry(known, **changed)

    found = missing_evidence(facts(MANIFEST, objects=[known], evidence=[manifest(listed)]), BOUNDS, {})

    key = listed["key"].removeprefix("/")
    assert found == [Missing(f"{key}, which manifest topics/manifest.json lists and which {problem}", NOON)]


@pytest.mark.parametrize(("records", "missing"), [(1, 0), (2, 1)])
def test_an_object_that_could_not_be_read_lacks_what_is_more_than_the_one_record_it_counts_as(
    records: int, missing: int
) -> None:
    unread = connect_object(0, 1, line_count=1, raw_event_count=0, fault="truncated_object")

    said = sentences(facts(MANIFEST, objects=[unread], evidence=[manifest(entry(unread, n=records))]))

    assert [sentence.partition(", which manifest")[0] for sentence in said] == [unread.key] * missing
    assert all(sentence.endswith("which could not be read, with 2 records") for sentence in said)


def test_a_rewritten_manifest_replaces_what_it_listed() -> None:
    known = connect_object(0, 5)
    first = manifest({"key": "/topics/gone", "size": 1, "n": 1})
    second = manifest(entry(known), received_at=NOON + ONE_MICROSECOND, version="2")

    assert sentences(facts(MANIFEST, objects=[known], evidence=[second, first])) == []
    assert listed_keys([second, first]) == {"usage": {known.key}}
    assert listed_keys([]) == {}


def test_a_manifest_source_is_complete_up_to_the_manifest_before_the_one_that_first_lists_what_is_missing() -> None:
    known = connect_object(0, 5)
    gone = {"key": "/topics/gone", "size": 1, "n": 1}
    whole = manifest(entry(known), received_at=NOON)
    hour, two_hours = NOON + timedelta(hours=1), NOON + timedelta(hours=2)
    versions = [
        whole,
        manifest(entry(known), gone, received_at=hour, version="2"),
        manifest(entry(known), gone, received_at=two_hours, version="3"),
    ]

    found = facts(MANIFEST, objects=[known], evidence=versions)

    assert complete_until(found, START) == NOON
    assert [(gap.since, span.after, span.before) for gap, span in found.gaps] == [(two_hours, NOON, two_hours)]
    assert complete_until(facts(MANIFEST, objects=[known], evidence=[whole]), START) == CUTOFF
    assert complete_until(facts(MANIFEST, objects=[known], evidence=versions[1:]), START) is None


def test_a_manifest_that_could_not_be_read_lists_what_nobody_knows() -> None:
    unread = CollectedObject("topics/manifest.json", NOON, 10, 1, 0)

    assert sentences(facts(MANIFEST, unread_manifests=[unread])) == [
        "what manifest topics/manifest.json lists, which could not be read"
    ]


@pytest.mark.parametrize(
    ("received", "is_concerned"),
    [
        ([NOON], True),
        ([START], True),
        ([START - ONE_MICROSECOND], False),
        ([CUTOFF - ONE_MICROSECOND, CUTOFF + timedelta(days=1)], True),
        ([CUTOFF, CUTOFF + timedelta(days=1)], False),
    ],
)
def test_what_a_manifest_lacks_was_received_after_the_manifest_before_it(
    received: list[datetime], is_concerned: bool
) -> None:
    """The last manifest lists an object that is not there; those before it are complete."""
    manifests = [manifest(key=f"topics/{n}/manifest.json", received_at=at) for n, at in enumerate(received[:-1])]
    manifests.append(manifest({"key": "/topics/gone", "size": 1, "n": 1}, received_at=received[-1]))

    assert bool(missing_gaps(facts(MANIFEST, evidence=manifests), BOUNDS)) is is_concerned


@pytest.mark.parametrize(
    ("declared", "content", "keys"),
    [
        ({}, ["a.json", "b/c.json"], ["day/a.json", "day/b/c.json"]),
        ({"base": ""}, ["a.json"], ["a.json"]),
        ({"base": "data/"}, ["a.json"], ["data/a.json"]),
        ({"base": "data/"}, ["s3://bucket/x/a.json", "/y"], ["x/a.json", "y"]),
        ({"entries": "files", "key": "path.key"}, {"files": [{"path": {"key": "a"}}]}, ["day/a"]),
    ],
)
def test_a_listed_key_is_relative_to_the_base_or_to_the_folder_of_the_manifest(
    declared: dict[str, Any], content: Any, keys: list[str]
) -> None:
    source = contract(manifest={"key_pattern": "day/manifest", **declared})

    said = collected(source, "day/manifest", content).evidence

    assert [one.key for one in manifest_entries(said)] == keys


@pytest.mark.parametrize(
    "content", [{}, {"files": {}}, [1], [{}], [{"key": "a", "size": -1}], [{"key": "a", "size": 1}]]
)
def test_a_manifest_that_is_not_what_the_contract_declares_is_rejected(content: Any) -> None:
    assert isinstance(parse_evidence(MANIFEST, "topics/manifest.json", json.dumps(content).encode()), Rejection)


def test_only_manifests_list_objects() -> None:
    assert manifest_entries(collected(HEARTBEAT, "beat/2026-01-15T06").evidence) == ()


# ---- the sentence of a refusal ----


def test_the_first_thing_that_is_missing_is_named_with_how_much_more_is() -> None:
    gap = Missing("offset 41,207–41,999 of partition 3", NOON)

    assert first_missing([("usage", gap)]) == "usage lacks offset 41,207–41,999 of partition 3"
    assert first_missing([("usage", gap), ("jobs", gap)]).endswith(", and 1 more")
