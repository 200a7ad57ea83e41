"""Collect: the objects of the raw bucket that are new become ``raw_events`` and ``quarantine`` (P3).

Discovery is by listing the bucket against the object ledger, never by folder name or time. Every line of
an object goes to exactly one of the two datasets; an object that cannot be read as a whole is one quarantined line,
number 0. Lines are counted twice, on two paths, and an object is taken into the ledger only if both agree.

What is published depends on the set of new objects alone: not on the order of the listing, and not on how often it was
tried. An object that could not be fetched is *pending*: it stays out of the ledger, the next run tries again, and the
watermark stops before it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from pipeline.adapters.decompress import ObjectFault, read_chunks
from pipeline.adapters.event_files import EventFiles
from pipeline.adapters.object_store import ListedObject
from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.dataset import QUARANTINE, RAW_EVENTS
from pipeline.core.errors import BillingError, InputError, PublicationError
from pipeline.core.manifest import Manifest, canonical_json, sha256_hex
from pipeline.core.reason import QuarantineReason
from pipeline.core.record import (
    LongLine,
    RecordParser,
    Rejection,
    count_lines,
    parser_for,
    split_lines,
    without_byte_order_mark,
)
from pipeline.core.revision import Collection, LedgerObject
from pipeline.core.window import require_utc
from pipeline.steps.publish import pin_file, store_manifest
from pipeline.steps.workspace import Workspace

ATTEMPTS_MAX = 5
FAULTY_OBJECTS_MAX = 10
_OBJECTS_PER_PROGRESS_LINE = 100


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What one collection took. ``pending`` objects could not be fetched; ``unclaimed_keys`` have no contract."""

    new_objects: int
    raw_events: int
    quarantined: int
    by_reason: Mapping[str, int]
    unclaimed_keys: tuple[str, ...]
    pending: Mapping[str, str]


class NewObject(NamedTuple):
    """An object version that is not in the ledger, under the one contract that covers its key."""

    object_id: str
    listed: ListedObject
    contract: SourceContract


class _UncountableError(Exception):
    """Reading an object went wrong in a way that is not the object's fault alone; it must not stop the others."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


def object_id_of(listed: ListedObject) -> str:
    """Return the name of an object version: its key, and the hash of its version.

    >>> from datetime import UTC
    >>> object_id_of(ListedObject("usage/a.ndjson", "v1", 3, datetime(2026, 1, 1, tzinfo=UTC)))
    'usage/a.ndjson@3bfc269594ef'
    """
    return f"{listed.key}@{sha256_hex(listed.version.encode())[:12]}"


def collect(ws: Workspace, listed_at: datetime, say: Callable[[str], None]) -> CollectResult:
    """Collect every new object that can be fetched, and record how far collection is complete.

    Running it again collects nothing twice. When another run commits one of the objects first, nothing of this
    run stands and the bucket is listed again. Raises ``InputError`` when two contracts cover one key.
    """
    listed_at = require_utc(listed_at, "listed_at")
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        try:
            return _collect_once(ws, listed_at, say)
        except PublicationError as error:
            if error.code != "collect.objects_already_collected" or not attempts_left:
                raise
            say("another run collected some of these objects first; listing again")
    raise AssertionError("unreachable: the last attempt returns or raises")


def _collect_once(ws: Workspace, listed_at: datetime, say: Callable[[str], None]) -> CollectResult:
    new_objects, unclaimed_keys = _discover(ws)
    byte_count = sum(new.listed.byte_count for new in new_objects)
    say(f"{len(new_objects):,} new objects, {byte_count:,} bytes, in bucket {ws.raw.bucket}")
    ws.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="collect-", dir=ws.scratch) as scratch:
        staging = _stage(ws, new_objects, Path(scratch), say)
        manifests = _write_manifests(ws, staging) if staging.objects else []
    collection = Collection(_complete_until(listed_at, new_objects, staging.pending), tuple(staging.objects))
    ws.control_plane.commit_collection(collection, manifests, listed_at)
    for key, message in sorted(staging.pending.items()):
        say(f"{key} is pending: {message}")
    return CollectResult(
        new_objects=len(staging.objects),
        raw_events=sum(ledger_object.raw_event_count for ledger_object in staging.objects),
        quarantined=sum(ledger_object.quarantine_count for ledger_object in staging.objects),
        by_reason=dict(sorted(staging.by_reason.items())),
        unclaimed_keys=unclaimed_keys,
        pending=dict(sorted(staging.pending.items())),
    )


# Discovery -----------------------------------------------------------------------------------------------------------


def _discover(ws: Workspace) -> tuple[list[NewObject], tuple[str, ...]]:
    """Return the new objects in order of id, and the keys that no contract covers."""
    known = ws.control_plane.object_ids()
    new_objects, unclaimed_keys, contested = [], [], []
    for listed in ws.raw.list_objects():
        contracts = [contract for contract in ws.project.contracts if contract.covers(listed.key)]
        object_id = object_id_of(listed)
        if len(contracts) > 1:
            contested.append(f"{listed.key}: {', '.join(contract.name for contract in contracts)}")
        elif not contracts:
            unclaimed_keys.append(listed.key)
        elif object_id not in known:
            new_objects.append(NewObject(object_id, listed, contracts[0]))
    if contested:
        raise InputError(
            "collect.contracts_overlap",
            f"{len(contested):,} objects are covered by more than one source contract; nothing was collected",
            [*sorted(contested)[:10], "expected one contract per key; narrow the prefix or suffixes in sources/*.toml"],
        )
    return sorted(new_objects, key=lambda new: new.object_id), tuple(sorted(unclaimed_keys))


def _complete_until(listed_at: datetime, new_objects: Sequence[NewObject], pending: Mapping[str, str]) -> datetime:
    """Return up to when everything received is collected: the listing, or the first object that is pending."""
    return min([listed_at, *(new.listed.last_modified for new in new_objects if new.listed.key in pending)])


# Reading -------------------------------------------------------------------------------------------------------------


class _Staging:
    """The rows and ledger objects of one collection while it is read."""

    def __init__(self, folder: Path, pending: Mapping[str, str]) -> None:
        self.raw_events = EventFiles(RAW_EVENTS, folder / RAW_EVENTS.name)
        self.quarantine = EventFiles(QUARANTINE, folder / QUARANTINE.name)
        self.objects: list[LedgerObject] = []
        self.by_reason: Counter[str] = Counter()
        self.pending = dict(pending)

    def quarantine_line(self, new: NewObject, line_number: int, rejection: Rejection, raw: LongLine) -> None:
        self.by_reason[rejection.reason.value] += 1
        head = raw.head[: new.contract.limits.quarantined_raw_bytes_max]
        row = (
            new.object_id,
            line_number,
            new.contract.name,
            new.listed.last_modified,
            rejection.reason.value,
            rejection.message,
            head,
            raw.byte_count,
            raw.sha256,
        )
        self.quarantine.add("", row, len(head))


def _stage(ws: Workspace, new_objects: Sequence[NewObject], scratch: Path, say: Callable[[str], None]) -> _Staging:
    """Read every object that can be fetched; start over without an object that breaks its own count."""
    faulty: dict[str, str] = {}
    while True:
        staging = _Staging(scratch / f"attempt-{len(faulty)}", faulty)
        try:
            for index, new in enumerate(new_objects, start=1):
                if new.listed.key not in faulty:
                    _stage_object(ws, new, staging, scratch / "object")
                if not index % _OBJECTS_PER_PROGRESS_LINE:
                    say(f"{index:,} of {len(new_objects):,} objects read")
            return staging
        except _UncountableError as error:
            faulty[error.key] = error.message
            if len(faulty) > FAULTY_OBJECTS_MAX:
                raise


def _stage_object(ws: Workspace, new: NewObject, staging: _Staging, download: Path) -> None:
    """Read one object into the staging; one that cannot be fetched becomes pending."""
    listed, limits = new.listed, new.contract.limits
    if listed.byte_count > limits.object_bytes_max:
        message = f"{listed.byte_count} bytes, accepted {limits.object_bytes_max}"
        fault = Rejection(QuarantineReason.OBJECT_TOO_LARGE, message)
        try:
            digest, head = _digest(ws.raw.read(listed), limits.quarantined_raw_bytes_max)
        except BillingError as error:
            staging.pending[listed.key] = str(error)
            return
        _stage_fault(new, fault, LongLine(head, listed.byte_count, digest), staging)
        return
    try:
        digest = ws.raw.download(listed, download)
    except BillingError as error:
        staging.pending[listed.key] = str(error)
        return
    try:
        fault_or_parser, line_count = _open(new, download)
        if isinstance(fault_or_parser, Rejection):
            with download.open("rb") as file:
                head = file.read(limits.quarantined_raw_bytes_max)
            _stage_fault(new, fault_or_parser, LongLine(head, listed.byte_count, digest), staging)
        else:
            _stage_lines(new, fault_or_parser, line_count, digest, _lines(new, download), staging)
    except (OSError, MemoryError, _UncountableError):
        raise
    except Exception as error:
        raise _UncountableError(listed.key, f"reading it failed with {type(error).__name__}: {error}") from error
    finally:
        download.unlink(missing_ok=True)


def _digest(chunks: Iterator[bytes], head_bytes_max: int) -> tuple[str, bytes]:
    digest, head = sha256(), b""
    for chunk in chunks:
        digest.update(chunk)
        head += chunk[: head_bytes_max - len(head)]
    return digest.hexdigest(), head


def _text(new: NewObject, download: Path) -> Iterator[bytes]:
    return without_byte_order_mark(read_chunks(download, new.contract.limits.object_bytes_max))


def _lines(new: NewObject, download: Path) -> Iterator[tuple[int, bytes | LongLine]]:
    """Yield the records of an object, without the header of a CSV."""
    lines = split_lines(_text(new, download), new.contract.limits.line_bytes_max)
    if new.contract.format is FileFormat.CSV:
        next(lines)
    return lines


def _open(new: NewObject, download: Path) -> tuple[Rejection | RecordParser, int]:
    """Read the object to its end; return its parser and how many records there are, or what is wrong with it."""
    try:
        line_count = count_lines(_text(new, download))
    except ObjectFault as fault:
        return Rejection(fault.reason, fault.message), 1
    if not line_count:
        return Rejection(QuarantineReason.EMPTY_OBJECT, "no line in it"), 1
    header: bytes | None = None
    if new.contract.format is FileFormat.CSV:
        _, first_line = next(split_lines(_text(new, download), new.contract.limits.line_bytes_max))
        if isinstance(first_line, LongLine):
            return Rejection(QuarantineReason.WRONG_HEADER, f"the header has {first_line.byte_count} bytes"), 1
        header = first_line
        line_count -= 1
    return parser_for(new.contract, new.object_id, new.listed.key, header), line_count


def _stage_fault(new: NewObject, fault: Rejection, raw: LongLine, staging: _Staging) -> None:
    staging.quarantine_line(new, 0, fault, raw)
    staging.objects.append(_ledger_object(new, raw.sha256, raw_event_count=0, quarantine_count=1))


def _stage_lines(
    new: NewObject,
    parser: RecordParser,
    line_count: int,
    digest: str,
    lines: Iterator[tuple[int, bytes | LongLine]],
    staging: _Staging,
) -> None:
    """Put each record into raw events or quarantine; refuse the object if the counts do not tie."""
    received_at = new.listed.last_modified
    is_received_with_event = new.contract.received == "event_time"
    raw_event_count = quarantine_count = 0
    for line_number, line in lines:
        event = parser.parse(line_number, line)
        if isinstance(event, Rejection):
            raw = line if isinstance(line, LongLine) else LongLine(line, len(line), sha256_hex(line))
            staging.quarantine_line(new, line_number, event, raw)
            quarantine_count += 1
            continue
        row = (
            new.object_id,
            line_number,
            event.source,
            event.id,
            event.type,
            event.subject,
            event.event_at,
            event.event_at if is_received_with_event else received_at,
            event.quantity,
            event.data,
        )
        staging.raw_events.add(event.event_at.date().isoformat(), row, len(line))
        raw_event_count += 1
    if raw_event_count + quarantine_count != line_count:
        raise _UncountableError(
            new.listed.key,
            f"it has {line_count:,} lines, but {raw_event_count:,} raw events and {quarantine_count:,} quarantined; "
            "this is a defect of the program, not of the object",
        )
    staging.objects.append(_ledger_object(new, digest, raw_event_count, quarantine_count))


def _ledger_object(new: NewObject, digest: str, raw_event_count: int, quarantine_count: int) -> LedgerObject:
    return LedgerObject(
        object_id=new.object_id,
        key=new.listed.key,
        version=new.listed.version,
        byte_count=new.listed.byte_count,
        sha256=digest,
        contract=new.contract.name,
        received_at=new.listed.last_modified,
        line_count=raw_event_count + quarantine_count,
        raw_event_count=raw_event_count,
        quarantine_count=quarantine_count,
    )


# Publishing ----------------------------------------------------------------------------------------------------------


def _write_manifests(ws: Workspace, staging: _Staging) -> list[Manifest]:
    """Put the data files into the lake, then a manifest of each dataset; nothing is visible before the commit."""
    object_ids = [ledger_object.object_id for ledger_object in staging.objects]
    scope = f"collection={sha256_hex(canonical_json(object_ids))}"
    objects = [
        {
            "object_id": ledger_object.object_id,
            "sha256": ledger_object.sha256,
            "received_at": ledger_object.received_at.isoformat(),
        }
        for ledger_object in staging.objects
    ]
    pins = {
        "objects": pin_file(ws, canonical_json(objects)),
        "contracts": {
            path: pin_file(ws, content)
            for path, content in sorted(ws.project.files.items())
            if path.startswith("sources/")
        },
    }
    return [
        store_manifest(ws, dataset, scope, 1, [(path, partition) for partition, path in files.write().items()], pins)
        for dataset, files in ((RAW_EVENTS, staging.raw_events), (QUARANTINE, staging.quarantine))
    ]
