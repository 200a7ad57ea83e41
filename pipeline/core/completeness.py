"""Completeness: what shows that a billing window has everything, and what is missing (P9).

*Evidence* is what the producers of a source left behind: offsets in the keys of their objects, a control file, a
heartbeat, a manifest (``evidence`` says how a contract declares it). The rules here turn evidence and the object ledger
into ``Missing`` sentences, each about one thing that should be there and is not; a window without one is shown to be
complete. Whatever the evidence, nothing is shown before collection has reached the window's cutoff: offsets and
manifests show that nothing is missing in between, never that nothing follows.

A missing object *concerns* a window when events of that window can be in it and would not be late: the window starts
before the object was received, and the cutoff comes after. When the object was received is not known, only a *receipt
span* that it falls into, so every window that the span touches is concerned: rather one window too many.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from pipeline.core.contract import SourceContract
from pipeline.core.decimals import plain_text
from pipeline.core.errors import InputError
from pipeline.core.evidence import ControlFile, Heartbeat, ManifestFile, Offset, Offsets
from pipeline.core.json_text import exact_number, json_decoder, parse_decimal
from pipeline.core.manifest import canonical_json
from pipeline.core.money import exact
from pipeline.core.reason import QuarantineReason, RejectedError, Rejection
from pipeline.core.window import BillingWindow

EVIDENCE_BYTES_MAX = 64 << 20
ONE_HOUR = timedelta(hours=1)


class EvidenceKind(StrEnum):
    """What an object of evidence is; it is never usage data."""

    CONTROL_FILE = "control_file"
    HEARTBEAT = "heartbeat"
    MANIFEST = "manifest"
    EXTERNAL_REPORT = "external_report"  # of a contract in external/, which shows nothing to be complete


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one object of evidence says; ``content`` is canonical JSON text, read by ``control_counts`` and the like."""

    contract: str
    kind: EvidenceKind
    key: str
    content: str


@dataclass(frozen=True, slots=True)
class CollectedEvidence:
    """Evidence as it was collected: which object version it was, and when the bucket received it."""

    object_id: str
    received_at: datetime
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class PendingObject:
    """An object that is listed and could not be fetched; the watermark does not pass it."""

    key: str
    message: str
    since: datetime


class UnclaimedKey(NamedTuple):
    """An object that a listing showed and nobody collects: no contract covers it, or no manifest of ``contract``."""

    key: str
    byte_count: int
    contract: str = ""


@dataclass(frozen=True, slots=True)
class UnclaimedObject:
    """An unclaimed object of the newest listing, and since when it is there."""

    key: str
    byte_count: int
    contract: str
    first_seen_at: datetime


class CollectedObject(NamedTuple):
    """What the object ledger says about one object of usage data: the newest version of its key."""

    key: str
    received_at: datetime
    byte_count: int
    line_count: int
    raw_event_count: int
    fault: str | None = None

    @property
    def record_count(self) -> int | None:
        """Return how many records it holds. None when it could not be read as a whole, so that nobody knows."""
        if self.fault == QuarantineReason.EMPTY_OBJECT:
            return 0
        return self.line_count if self.fault is None else None


class MissingHours(NamedTuple):
    """Hours ``[start, end)`` of a source without a control file, the events collected of them, and a file to look at.

    ``unread_key`` is a control file that came after the hours began and could not be read; empty when none did.
    """

    source: str
    start: datetime
    end: datetime
    event_count: int
    unread_key: str


class ProducerCount(StrEnum):
    """What a producer counted."""

    EVENTS = "events"
    SUM = "sum"
    OFFSETS = "offsets"


class ProducerTotal(NamedTuple):
    """One total of a producer, of a source and window: what it says, and what was collected."""

    counted: ProducerCount
    scope: str
    unit: str
    expected: Decimal
    actual: Decimal


class Missing(NamedTuple):
    """One thing that should be there and is not: the sentence that names it, and since when it is missing."""

    sentence: str
    since: datetime
    hours: MissingHours | None = None


@dataclass(frozen=True, slots=True)
class ReceiptSpan:
    """When something that is missing would have been received: between two receipts, the first one may be unknown."""

    after: datetime | None
    before: datetime


@dataclass(frozen=True, slots=True)
class SourceException:
    """A revision that was closed although evidence of a source was missing: which sentences, and who says why."""

    window_id: str
    revision: int
    contract: str
    missing: tuple[str, ...]
    reason: str
    at: datetime


# Objects of evidence -------------------------------------------------------------------------------------------------


def evidence_patterns(contract: SourceContract) -> Iterator[tuple[EvidenceKind, str]]:
    """Yield the kind and the key pattern of each sort of evidence object that the contract declares."""
    if isinstance(contract.completeness, ControlFile):
        yield EvidenceKind.CONTROL_FILE, contract.completeness.key_pattern
    if isinstance(contract.completeness, Heartbeat):
        yield EvidenceKind.HEARTBEAT, contract.completeness.key_pattern
    if contract.manifest is not None:
        yield EvidenceKind.MANIFEST, contract.manifest.key_pattern


def evidence_of(contracts: Iterable[SourceContract], key: str) -> tuple[SourceContract, EvidenceKind] | None:
    """Return whose evidence an object of this key is, and of which kind; None when it is none.

    An object that is evidence is not usage data of the same contract, although its prefix and suffixes cover it.
    Refused (``collect.contracts_overlap``): a key that is evidence of two contracts, or of one and data of another.
    """
    contracts = tuple(contracts)
    claims = [
        (contract, kind)
        for contract in contracts
        for kind, pattern in evidence_patterns(contract)
        if re.fullmatch(pattern, key)
    ]
    if not claims:
        return None
    others = [f"evidence of {contract.name} ({kind.value})" for contract, kind in claims[1:]]
    others += [f"data of {other.name}" for other in contracts if other is not claims[0][0] and other.covers(key)]
    if others:
        raise InputError(
            "collect.contracts_overlap",
            f"{key} is evidence of {claims[0][0].name} ({claims[0][1].value}) and also {', '.join(others)}",
            ["nothing was collected; narrow key_pattern, prefix or suffixes in sources/*.toml"],
        )
    return claims[0]


def parse_evidence(contract: SourceContract, key: str, content: bytes) -> Evidence | Rejection:
    """Return what an object of evidence says, strictly read, or why all of it is quarantined.

    ``content`` is the decompressed object. A rejection is about the whole object (line number 0): half of a control
    file is no evidence. Raises ``ValueError`` for a key that is no evidence of this contract.
    """
    claim = evidence_of([contract], key)
    if claim is None:
        raise ValueError(f"{key} is no evidence of contract {contract.name}")
    _, kind = claim
    try:
        return Evidence(contract.name, kind, key, _content(contract, kind, key, content))
    except RejectedError as error:
        return Rejection(QuarantineReason.UNREADABLE_EVIDENCE, error.rejection.message)


def _content(contract: SourceContract, kind: EvidenceKind, key: str, content: bytes) -> str:
    if len(content) > EVIDENCE_BYTES_MAX:
        raise _unreadable(f"{len(content):,} bytes, accepted {EVIDENCE_BYTES_MAX:,}")
    value: Any = None
    if isinstance(contract.completeness, Heartbeat) and kind is EvidenceKind.HEARTBEAT:
        until = _heartbeat_until(contract.completeness.key_pattern, key, content)
        value = {"complete_until": until.isoformat()}
    elif kind is EvidenceKind.CONTROL_FILE:
        value = [_control_entry(entry) for entry in _documents(content)]
        named = [(entry["source"], entry["hour"]) for entry in value]
        twice = sorted(pair for pair, count in Counter(named).items() if count > 1)
        if twice:
            raise _unreadable(f"it counts {twice[0][0]} at {twice[0][1]} twice")
    elif contract.manifest is not None:
        value = _listed_objects(contract.manifest, key, _document(content))
    return canonical_json(value).decode()


def _unreadable(message: str) -> RejectedError:
    return RejectedError(QuarantineReason.UNREADABLE_EVIDENCE, message)


_decoder = json_decoder()


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(f"byte {error.start + 1} is not UTF-8") from None


def _json(text: str, where: str = "it") -> Any:
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _unreadable(f"{where} is not JSON: {error.msg}") from None
    except RecursionError:
        raise _unreadable(f"{where} is nested too deep") from None


def _document(content: bytes) -> Any:
    return _json(_decoded(content))


def _documents(content: bytes) -> list[Any]:
    """Return the entries of one JSON list, of one JSON object, or of one JSON object per line."""
    text = _decoded(content)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for _, line in lines):
        return [_json(line, f"line {number}") for number, line in lines]
    document = _json(text)
    return document if isinstance(document, list) else [document]


def _required_keys(value: Any, what: str, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unreadable(f"{what}: expected a JSON object")
    missing, unknown = sorted(required - value.keys()), sorted(value.keys() - required - optional)
    if missing or unknown:
        raise _unreadable(
            f"{what}: "
            + "; ".join(
                [*(f"{name!r} is missing" for name in missing), *(f"{name!r} is unknown" for name in unknown)][:5]
            )
        )
    return value


def _whole_number(value: Any, what: str) -> int:
    if not isinstance(value, Decimal) or value != value.to_integral_value() or value < 0:
        raise _unreadable(f"{what}: expected a whole number of at least 0")
    return int(value)


def _control_entry(value: Any) -> dict[str, Any]:
    entry = _required_keys(value, "an entry", {"source", "hour", "count"}, {"sums"})
    source, sums = entry["source"], entry.get("sums", {})
    if not isinstance(source, str) or not source:
        raise _unreadable("source: expected a text")
    hour = parse_instant(entry["hour"]) if isinstance(entry["hour"], str) else None
    if hour is None or hour != _hour_of(hour):
        raise _unreadable("hour: expected the start of an hour such as 2026-01-15T06:00:00Z")
    if not isinstance(sums, dict):
        raise _unreadable("sums: expected a JSON object")
    return {
        "source": source,
        "hour": hour.isoformat(),
        "count": _whole_number(entry["count"], "count"),
        "sums": {path: _sum(path, total) for path, total in sorted(sums.items())},
    }


_SUMMED_PATH = re.compile(r"quantity|data(\.[^.\"]+)+")


def _sum(path: str, total: Any) -> str:
    if not _SUMMED_PATH.fullmatch(path):
        raise _unreadable(f'sums: expected "quantity" or a path such as "data.input_tokens", got {path[:80]!r}')
    if isinstance(total, str) and parse_decimal(total) is not None:
        total = exact_number(total)
    if not isinstance(total, Decimal):
        raise _unreadable(f"sums: {path}: expected a decimal")
    return plain_text(total)


# Instants ------------------------------------------------------------------------------------------------------------

_INSTANT = re.compile(
    r"(?P<year>\d{4})[-/]?(?P<month>\d\d)[-/]?(?P<day>\d\d)[Tt_/ -](?P<hour>\d\d)"
    r"(?:[:-]?(?P<minute>\d\d)(?:[:-]?(?P<second>\d\d)(?:\.(?P<fraction>\d{1,18}))?)?)?(?P<zone>[Zz]|[+-]\d\d:?\d\d)?",
    re.ASCII,
)


def parse_instant(text: str) -> datetime | None:
    """Return the instant that a key or a control file names, to the hour or finer; without a zone it is UTC.

    >>> [parse_instant(text).isoformat() for text in ("2026/01/15/06", "20260115T063000Z", "2026-01-15T08:00:00+02:00")]
    ['2026-01-15T06:00:00+00:00', '2026-01-15T06:30:00+00:00', '2026-01-15T06:00:00+00:00']
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        return None
    zone = (match["zone"] or "Z").upper()
    fraction = f"{(match['fraction'] or '0')[:6]:0<6}"
    try:
        return datetime.fromisoformat(
            f"{match['year']}-{match['month']}-{match['day']}T{match['hour']}:{match['minute'] or '00'}:"
            f"{match['second'] or '00'}.{fraction}{'+00:00' if zone == 'Z' else zone}"
        ).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _hour_of(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _shown(instant: datetime) -> str:
    text = instant.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
    return text.rstrip("0").rstrip(".").removesuffix(":00") + "Z"


def _heartbeat_until(key_pattern: str, key: str, content: bytes) -> datetime:
    match = re.fullmatch(key_pattern, key)
    for name, text in match.groupdict().items() if match else ():
        instant = parse_instant(text or "")
        if instant is None or (name == "hour" and instant != _hour_of(instant)):
            raise _unreadable(f"the key's {name} is no instant such as 2026-01-15T06, got {text!r}")
        if instant.year == MAXYEAR:
            raise _unreadable(f"the key's {name} is no instant that can be reached, got {text!r}")
        return instant + (ONE_HOUR if name == "hour" else timedelta(0))
    found = _required_keys(_document(content), "a heartbeat", {"complete_until"}, set())["complete_until"]
    until = parse_instant(found) if isinstance(found, str) else None
    if until is None:
        raise _unreadable("complete_until: expected an instant such as 2026-01-15T06:00:00Z")
    return until


# Manifests -----------------------------------------------------------------------------------------------------------


class ManifestEntry(NamedTuple):
    """One object that a manifest lists; ``byte_count`` and ``record_count`` where the manifest says them."""

    key: str
    byte_count: int | None
    record_count: int | None


def _listed_objects(manifest: ManifestFile, key: str, document: Any) -> list[dict[str, Any]]:
    entries = _at(document, manifest.entries) if manifest.entries else document
    if not isinstance(entries, list):
        raise _unreadable(f"{manifest.entries or 'it'}: expected a JSON list of entries")
    listed = []
    for number, entry in enumerate(entries, start=1):
        name = entry if manifest.key is None else _at(entry, manifest.key)
        if not isinstance(name, str) or not name:
            raise _unreadable(f"entry {number}: expected a key as text")
        counts = {
            count: None if path is None else _whole_number(_at(entry, path), f"entry {number}: {path}")
            for count, path in (("bytes", manifest.bytes), ("records", manifest.records))
        }
        listed.append({"key": _listed_key(manifest, key, name), **counts})
    return listed


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _listed_key(manifest: ManifestFile, manifest_key: str, name: str) -> str:
    if name.startswith(("s3://", "s3a://", "s3n://")):
        return name.partition("://")[2].partition("/")[2]
    if name.startswith("/"):
        return name.removeprefix("/")
    folder, slash, _ = manifest_key.rpartition("/")
    base = folder + slash if manifest.base is None else manifest.base
    return base + name


def manifest_entries(evidence: Evidence) -> tuple[ManifestEntry, ...]:
    """Return the objects that a manifest lists, in its order; other evidence lists none."""
    if evidence.kind is not EvidenceKind.MANIFEST:
        return ()
    return tuple(ManifestEntry(row["key"], row["bytes"], row["records"]) for row in json.loads(evidence.content))


def newest_versions(collected: Iterable[CollectedEvidence]) -> list[CollectedEvidence]:
    """Return the newest version of each evidence object, in order of receipt: a rewritten one replaces what it said."""
    newest: dict[tuple[str, EvidenceKind, str], CollectedEvidence] = {}
    for one in sorted(collected, key=_receipt_order):
        newest[one.evidence.contract, one.evidence.kind, one.evidence.key] = one
    return sorted(newest.values(), key=_receipt_order)


def listed_keys(collected: Iterable[CollectedEvidence]) -> dict[str, set[str]]:
    """Return, for each contract, the keys that the newest version of any of its manifests lists.

    A contract with a manifest collects these and nothing else; one that has no manifest yet collects nothing.
    """
    keys: dict[str, set[str]] = {}
    for one in newest_versions(collected):
        if one.evidence.kind is EvidenceKind.MANIFEST:
            keys.setdefault(one.evidence.contract, set()).update(e.key for e in manifest_entries(one.evidence))
    return keys


def _receipt_order(one: CollectedEvidence) -> tuple[datetime, str]:
    return one.received_at, one.object_id


# Source facts and the rules ------------------------------------------------------------------------------------------


class SourceHour(NamedTuple):
    """What the collected events of one source and hour come to: distinct events, and their sums by path."""

    event_count: int
    sums: Mapping[str, Decimal | None]


class ControlCount(NamedTuple):
    """What a control file says about one source and hour, and which control file it is."""

    event_count: int
    sums: Mapping[str, Decimal]
    key: str


SourceHours = Mapping[tuple[str, datetime], SourceHour]


@dataclass(frozen=True, slots=True)
class WindowBounds:
    """The window that is asked about.

    Collection has to reach ``policy_cutoff_at``; what is received at or after ``cutoff_at``, which is later in a later
    revision, is late. ``future_tolerance`` is how far an event may be ahead of its receipt.
    """

    window: BillingWindow
    policy_cutoff_at: datetime
    cutoff_at: datetime
    future_tolerance: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """All that is known about one source: its contract, the objects that were collected of it, and its evidence.

    ``objects`` are those of usage data, the newest version of each key; ``evidence`` is every version that could be
    read; ``unread_manifests`` and ``unread_control_files`` are those whose newest version could not.
    """

    contract: SourceContract
    watermark_at: datetime | None
    objects: Sequence[CollectedObject] = ()
    evidence: Sequence[CollectedEvidence] = ()
    unread_manifests: Sequence[CollectedObject] = ()
    unread_control_files: Sequence[CollectedObject] = ()
    gaps: tuple[tuple[Missing, ReceiptSpan], ...] = field(init=False)
    heartbeat_at: datetime | None = field(init=False)
    control_counts: Mapping[tuple[str, datetime], ControlCount] = field(init=False)
    control_sources: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        counts = _control_counts(self.evidence)
        object.__setattr__(self, "control_counts", counts)
        object.__setattr__(self, "control_sources", tuple(sorted({source for source, _ in counts})))
        object.__setattr__(self, "heartbeat_at", _newest_heartbeat(self.evidence))
        object.__setattr__(self, "gaps", (*_offset_gaps(self), *_manifest_gaps(self)))


def missing_evidence(facts: SourceFacts, bounds: WindowBounds, hours: SourceHours) -> list[Missing]:
    """Return what is missing before the window is shown to be complete for this source, the first thing first.

    ``hours`` are the collected events of the window, received before its cutoff; only control files look at them.
    """
    missing = []
    if facts.watermark_at is None or facts.watermark_at < bounds.policy_cutoff_at:
        reached = (
            "nothing was collected yet" if facts.watermark_at is None else f"it reached {_shown(facts.watermark_at)}"
        )
        missing.append(
            Missing(
                f"collection up to {_shown(bounds.policy_cutoff_at)}, {reached}",
                facts.watermark_at or bounds.window.start,
            )
        )
    missing += missing_gaps(facts, bounds)
    missing += missing_heartbeat(facts, bounds.window)
    missing += control_differences(facts, bounds.window, hours)
    return missing


def producer_totals(facts: SourceFacts, window: BillingWindow, hours: SourceHours) -> list[ProducerTotal]:
    """Return what the producers of a source counted beside what was collected; nothing where they count nothing.

    Of control files it is what they say of the window's hours; of offsets each partition, from its first to its last.
    """
    if isinstance(facts.contract.completeness, Offsets):
        return _offset_totals(facts, facts.contract.completeness)
    counts: dict[tuple[ProducerCount, str, str], tuple[Decimal, Decimal]] = {}
    with exact():
        for source, hour in sorted((source, hour) for hour in _hours(window) for source in facts.control_sources):
            control = facts.control_counts.get((source, hour))
            if control is None:
                continue
            found = hours.get((source, hour), SourceHour(0, {}))
            pairs = [
                ((ProducerCount.EVENTS, source, "events"), Decimal(control.event_count), Decimal(found.event_count))
            ]
            pairs += [
                ((ProducerCount.SUM, source, path), total, found.sums.get(path) or Decimal(0))
                for path, total in control.sums.items()
            ]
            for key, expected, actual in pairs:
                before = counts.get(key, (Decimal(0), Decimal(0)))
                counts[key] = before[0] + expected, before[1] + actual
    return [
        ProducerTotal(counted, f"{facts.contract.name}/{source}", unit, *totals)
        for (counted, source, unit), totals in sorted(counts.items())
    ]


def _offset_totals(facts: SourceFacts, completeness: Offsets) -> list[ProducerTotal]:
    partitions: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for known in facts.objects:
        offset = completeness.offset_of(known.key)
        if offset is not None:
            end = offset.offset + (1 if known.record_count is None else known.record_count)
            partitions.setdefault((offset.topic, offset.partition), []).append((offset.offset, end))
    totals = []
    for (topic, partition), spans in sorted(partitions.items(), key=lambda item: _natural(item[0])):
        first = min(start for start, _ in spans) if completeness.first_offset is None else completeness.first_offset
        reached, received = first, 0
        for start, end in sorted(spans):
            received += max(0, end - max(start, reached))
            reached = max(reached, end)
        scope = "/".join(filter(None, (facts.contract.name, topic, partition)))
        expected = Decimal(reached - first)
        totals.append(ProducerTotal(ProducerCount.OFFSETS, scope, "records", expected, Decimal(received)))
    return totals


def missing_gaps(facts: SourceFacts, bounds: WindowBounds) -> list[Missing]:
    """Return what is missing in between that concerns the window; it can be seen before the window is over."""
    return [gap for gap, span in facts.gaps if _concerns(facts, span, bounds)]


def complete_until(facts: SourceFacts, shown_from: datetime) -> datetime | None:
    """Return up to when the source is shown to be complete; None if it is not at all.

    This is the collection's watermark, held back by the first gap, by the newest heartbeat and, from ``shown_from`` on,
    by the first hour that a source has no control file for.
    """
    if facts.watermark_at is None:
        return None
    bounds: list[datetime | None] = [facts.watermark_at, *(span.after for _, span in facts.gaps)]
    if isinstance(facts.contract.completeness, Heartbeat):
        bounds.append(facts.heartbeat_at)
    if isinstance(facts.contract.completeness, ControlFile):
        bounds.append(_control_until(facts, facts.contract.completeness, shown_from))
    return None if None in bounds else min(bound for bound in bounds if bound is not None)


def _concerns(facts: SourceFacts, span: ReceiptSpan, bounds: WindowBounds) -> bool:
    """Tell whether events of the window can be in what is missing, and in time."""
    if bounds.window.start > span.before + bounds.future_tolerance:
        return False
    is_never_late = facts.contract.received == "event_time"
    return is_never_late or span.after is None or span.after < bounds.cutoff_at


# Offsets


def _offset_gaps(facts: SourceFacts) -> Iterator[tuple[Missing, ReceiptSpan]]:
    completeness = facts.contract.completeness
    if not isinstance(completeness, Offsets):
        return
    partitions: dict[tuple[str, str], list[tuple[int, CollectedObject]]] = {}
    for known in sorted(facts.objects):
        offset = completeness.offset_of(known.key)
        if offset is None:
            sentence = f"the offsets of {known.key}, which its key does not say"
            yield Missing(sentence, known.received_at), ReceiptSpan(known.received_at, known.received_at)
        else:
            partitions.setdefault((offset.topic, offset.partition), []).append((offset.offset, known))
    for (topic, partition), objects in sorted(partitions.items(), key=lambda item: _natural(item[0])):
        of_partition = f"of partition {partition}" + (f" of topic {topic}" if topic else "")
        yield from _partition_gaps(of_partition, objects, completeness.first_offset)


def _natural(names: tuple[str, str]) -> tuple[str, int, str]:
    topic, partition = names
    return topic, int(partition) if partition.isdecimal() else -1, partition


def _partition_gaps(
    of_partition: str, objects: list[tuple[int, CollectedObject]], first_offset: int | None
) -> Iterator[tuple[Missing, ReceiptSpan]]:
    """Yield each range of offsets that no object holds, and each object whose end is not known, in order."""
    ordered = sorted(objects, key=lambda pair: (pair[0], pair[1].key))
    expected = ordered[0][0] if first_offset is None else first_offset
    received: list[datetime] = []  # of the object that reaches up to `expected`
    unread: CollectedObject | None = None
    for start, known in ordered:
        if start > expected:
            where = _range(expected, start - 1) + " " + of_partition
            if unread is not None:
                where += f", unless {unread.key} holds them, which could not be read"
            receipts = [*received, known.received_at]
            after = min(receipts) if received else None
            yield Missing(where, known.received_at), ReceiptSpan(after, max(receipts))
        end = start + (1 if known.record_count is None else known.record_count)
        if end >= expected:
            expected, received = end, [known.received_at]
            unread = known if known.record_count is None else None
    if unread is not None:
        sentence = (
            f"offset {expected - 1:,} {of_partition} and what follows it in {unread.key}, which could not be read"
        )
        yield Missing(sentence, unread.received_at), ReceiptSpan(unread.received_at, unread.received_at)


def _range(first: int, last: int) -> str:
    return f"offset {first:,}" if first == last else f"offset {first:,}–{last:,}"


def offset_overlaps(facts: SourceFacts) -> list[str]:
    """Return, in words, each object that starts before the one before it ends: a duplicate, not a gap."""
    completeness = facts.contract.completeness
    if not isinstance(completeness, Offsets):
        return []
    located = [
        (offset, known)
        for known in facts.objects
        if (offset := completeness.offset_of(known.key)) is not None and known.record_count is not None
    ]
    located.sort(key=lambda pair: (_natural(pair[0][:2]), pair[0].offset, pair[1].key))
    overlaps = []
    reached: tuple[Offset, int] | None = None
    for offset, known in located:
        if reached is not None and reached[0][:2] == offset[:2] and offset.offset < reached[1]:
            overlaps.append(
                f"{known.key} starts at offset {offset.offset:,} of partition {offset.partition}, "
                f"expected {reached[1]:,}: some records came twice"
            )
        end = offset.offset + (known.record_count or 0)
        if reached is None or reached[0][:2] != offset[:2] or end > reached[1]:
            reached = (offset, end)
    return overlaps


# Manifests


def _manifest_gaps(facts: SourceFacts) -> Iterator[tuple[Missing, ReceiptSpan]]:
    if facts.contract.manifest is None:
        return
    versions = sorted((one for one in facts.evidence if one.evidence.kind is EvidenceKind.MANIFEST), key=_receipt_order)
    collected = {known.key: known for known in facts.objects}
    receipts = sorted({one.received_at for one in versions})
    earlier = dict(zip(receipts, [None, *receipts], strict=False))
    first_listed: dict[tuple[str, str], datetime] = {}  # manifest and listed key: a rewritten manifest lists it again
    for one in versions:
        for entry in manifest_entries(one.evidence):
            first_listed.setdefault((one.evidence.key, entry.key), one.received_at)
    for unread in facts.unread_manifests:
        before = max((receipt for receipt in receipts if receipt < unread.received_at), default=None)
        sentence = f"what manifest {unread.key} lists, which could not be read"
        yield Missing(sentence, unread.received_at), ReceiptSpan(before, unread.received_at)
    for one in newest_versions(versions):
        for entry in manifest_entries(one.evidence):
            problem = _entry_problem(entry, collected.get(entry.key))
            if problem:
                sentence = f"{entry.key}, which manifest {one.evidence.key} lists and which {problem}"
                after = earlier[first_listed[one.evidence.key, entry.key]]
                yield Missing(sentence, one.received_at), ReceiptSpan(after, one.received_at)


def _entry_problem(entry: ManifestEntry, known: CollectedObject | None) -> str:
    if known is None:
        return "is not there"
    if entry.byte_count is not None and entry.byte_count != known.byte_count:
        return f"has {known.byte_count:,} bytes instead of {entry.byte_count:,}"
    if entry.record_count is not None and known.record_count is None and entry.record_count != 1:
        return f"could not be read, with {entry.record_count:,} records"
    if entry.record_count is not None and known.record_count not in (None, entry.record_count):
        return f"has {known.record_count:,} records instead of {entry.record_count:,}"
    return ""


# Heartbeat


HEARTBEAT_UP_TO = "a heartbeat up to "


def _newest_heartbeat(evidence: Iterable[CollectedEvidence]) -> datetime | None:
    """Return up to when the newest heartbeat says that the source is complete."""
    instants = [
        datetime.fromisoformat(json.loads(one.evidence.content)["complete_until"])
        for one in newest_versions(evidence)
        if one.evidence.kind is EvidenceKind.HEARTBEAT
    ]
    return max(instants, default=None)


def missing_heartbeat(facts: SourceFacts, window: BillingWindow) -> list[Missing]:
    """Return the heartbeat that a window lacks; nothing when one reaches its end, or where none is asked for."""
    newest = facts.heartbeat_at
    if not isinstance(facts.contract.completeness, Heartbeat) or (newest is not None and newest >= window.end):
        return []
    said = "none was collected" if newest is None else f"the newest says {_shown(newest)}"
    return [Missing(f"{HEARTBEAT_UP_TO}{_shown(window.end)}; {said}", newest or window.end)]


# Control files


def _control_counts(evidence: Iterable[CollectedEvidence]) -> dict[tuple[str, datetime], ControlCount]:
    """Return what the control files say about each source and hour; the file received last has the last word."""
    counts = {}
    for one in newest_versions(evidence):
        if one.evidence.kind is EvidenceKind.CONTROL_FILE:
            for row in json.loads(one.evidence.content):
                sums = {path: Decimal(total) for path, total in row["sums"].items()}
                hour = datetime.fromisoformat(row["hour"])
                counts[row["source"], hour] = ControlCount(row["count"], sums, one.evidence.key)
    return counts


def summed_paths(facts: SourceFacts, window: BillingWindow) -> list[str]:
    """Return every path that a control file of the window's hours sums, sorted."""
    named = ((source, hour) for hour in _hours(window) for source in facts.control_sources)
    of_window = [facts.control_counts[one] for one in named if one in facts.control_counts]
    return sorted({path for control in of_window for path in control.sums})


def control_differences(facts: SourceFacts, window: BillingWindow, hours: SourceHours) -> Iterator[Missing]:
    """Yield what the control files of a window's hours say otherwise, and each hour without one; in order of hour."""
    completeness = facts.contract.completeness
    if not isinstance(completeness, ControlFile):
        return
    sources = completeness.sources or sorted({*facts.control_sources, *(source for source, _ in hours)})
    if not sources:
        yield Missing("a control file; no source was ever seen", window.end)
    for hour in _hours(window):
        for source in sources:
            control = facts.control_counts.get((source, hour))
            found = hours.get((source, hour), SourceHour(0, {}))
            if control is None:
                unread = [one for one in facts.unread_control_files if one.received_at >= hour]
                unread_key = min(unread, key=lambda one: one.received_at).key if unread else ""
                yield _missing_hours(MissingHours(source, hour, hour + ONE_HOUR, found.event_count, unread_key))
            else:
                for difference in _hour_differences(control, found):
                    yield Missing(f"{difference} for {source} at {_shown(hour)}", hour + ONE_HOUR)


def _missing_hours(hours: MissingHours) -> Missing:
    events = f"{hours.event_count:,} event" + (" was" if hours.event_count == 1 else "s were")
    collected = f"{events if hours.event_count else 'no event was'} collected"
    if hours.unread_key:
        collected += f"; {hours.unread_key} could not be read"
    count = (hours.end - hours.start) // ONE_HOUR
    if count == 1:
        sentence = f"the control file ({collected}) for {hours.source} at {_shown(hours.start)}"
    else:
        span = f"from {_shown(hours.start)} to {_shown(hours.end)}, {count:,} hours"
        sentence = f"no control file for {hours.source} {span} ({collected})"
    return Missing(sentence, hours.start + ONE_HOUR, hours)


def joined_hours(found: Iterable[Missing]) -> list[tuple[Missing, list[Missing]]]:
    """Return what is missing in order of since, with what each was made of: hours that follow each other are one."""
    joined: list[tuple[Missing, list[Missing]]] = []
    newest: dict[str, int] = {}  # where in `joined` the newest hours of a source are
    for one in sorted(found, key=lambda one: one.since):
        if one.hours is None:
            joined.append((one, [one]))
            continue
        index = newest.get(one.hours.source)
        before = None if index is None else joined[index][0].hours
        if index is not None and before is not None and before.end == one.hours.start:
            parts = joined[index][1]
            parts.append(one)
            joined[index] = (joined[index][0]._replace(hours=_both(before, one.hours)), parts)
        else:
            newest[one.hours.source] = len(joined)
            joined.append((one, [one]))
    return [(_missing_hours(one.hours) if one.hours else one, parts) for one, parts in joined]


def _both(before: MissingHours, after: MissingHours) -> MissingHours:
    events = before.event_count + after.event_count
    return before._replace(end=after.end, event_count=events, unread_key=before.unread_key or after.unread_key)


def _control_until(facts: SourceFacts, completeness: ControlFile, shown_from: datetime) -> datetime | None:
    sources = completeness.sources or facts.control_sources
    if not facts.control_counts:
        return None
    hour = shown_from
    while all((source, hour) in facts.control_counts for source in sources):
        hour += ONE_HOUR
    return hour


def _hours(window: BillingWindow) -> list[datetime]:
    count = (window.end - window.start) // ONE_HOUR
    return [window.start + index * ONE_HOUR for index in range(count)]


def _hour_differences(control: ControlCount, found: SourceHour) -> Iterator[str]:
    collected = f"{control.key}; {found.event_count:,} were collected"
    if found.event_count < control.event_count:
        yield f"{control.event_count - found.event_count:,} of {control.event_count:,} events ({collected})"
    elif found.event_count > control.event_count:
        more = found.event_count - control.event_count
        yield f"a control file for {more:,} more than {control.event_count:,} events ({collected})"
    else:
        for path, expected in control.sums.items():
            actual = found.sums.get(path) or Decimal(0)
            if actual != expected:
                yield f"a {path} of {plain_text(expected)} in all ({control.key}; {plain_text(actual)} was collected)"


def first_missing(pairs: Iterable[tuple[str, Missing]]) -> str:
    """Return the one sentence of a refusal: the first thing that is missing and how much more is."""
    missing = list(pairs)
    contract, first = missing[0]
    more = len(missing) - 1
    return f"{contract} lacks {first.sentence}" + (f", and {more:,} more" if more else "")
