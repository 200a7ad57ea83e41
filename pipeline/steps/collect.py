"""Collect: the objects of the raw bucket that are new become ``raw_events`` and ``quarantine`` (P3).

Discovery is by listing the bucket against the object ledger, never by folder name or time. Every line of
an object goes to exactly one of the two datasets; an object that cannot be read as a whole is one quarantined line,
number 0. Lines are counted twice, on two paths, and an object is taken into the ledger only if both agree.

New objects are read in batches (``collect_batch``), each in a process of its own when there is more than a little to
do. What is published depends on the set of new objects alone: not on the order of the listing, on how many processes
there were, nor on how often it was tried. An object that could not be fetched is *pending*: it stays out of the
ledger, the next run tries again, and the watermark stops before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pipeline import settings
from pipeline.adapters.content_hash import content_hash
from pipeline.adapters.decompress import ObjectFault, read_chunks
from pipeline.adapters.event_files import PartitionFile
from pipeline.adapters.object_store import ListedObject
from pipeline.adapters.scratch import scratch_folder
from pipeline.core.completeness import (
    EVIDENCE_BYTES_MAX,
    CollectedEvidence,
    Evidence,
    UnclaimedKey,
    evidence_of,
    listed_keys,
    parse_evidence,
)
from pipeline.core.dataset import QUARANTINE, RAW_EVENTS
from pipeline.core.errors import BillingError, InputError, PublicationError
from pipeline.core.external import ExternalContract
from pipeline.core.manifest import Manifest, canonical_json, sha256_hex
from pipeline.core.reason import Rejection
from pipeline.core.revision import Collection, LedgerObject
from pipeline.core.window import require_utc
from pipeline.steps.collect_batch import BatchResult, BatchTask, CollectedLines, NewObject, collect_batch
from pipeline.steps.collect_workers import collect_batches
from pipeline.steps.external import read_report, unreadable_report
from pipeline.steps.publish import pin_file, store_files, store_manifest
from pipeline.steps.workspace import Workspace

ATTEMPTS_MAX = 5
BATCH_BYTES = 32 << 20  # of listed bytes: a batch is at least one object
BATCH_OBJECTS = 2_000
PARALLEL_BYTES = 96 << 20  # below it, several processes take as long as one, and more CPU


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What one collection took.

    ``pending`` objects could not be fetched; ``unclaimed_keys`` have no contract, or no manifest lists them;
    ``replaced_keys`` were collected before in another version, which stays what it is.
    """

    new_objects: int
    raw_events: int
    quarantined: int
    byte_count: int  # of the objects as they are in the bucket
    by_reason: Mapping[str, int]
    unclaimed_keys: tuple[str, ...]
    pending: Mapping[str, str]
    replaced_keys: tuple[str, ...] = ()


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
    with scratch_folder(ws.scratch, "collect") as scratch:
        found = _discover(ws, scratch)
        byte_count = sum(new.listed.byte_count for new in found.new_objects)
        say(f"{len(found.new_objects):,} new objects, {byte_count:,} bytes, in bucket {ws.raw.bucket}")
        taken = _Taken(pending=found.pending)
        for result in _read(ws, found.new_objects, scratch, say):
            taken.add(result)
        known = {new.object_id: new for new in found.new_objects}
        objects = [_ledger_object(known[lines.object_id], lines) for lines in taken.objects]
        objects += found.evidence_objects
        objects.sort(key=lambda ledger_object: ledger_object.object_id)
        manifests = _write_manifests(ws, objects, taken) if objects else []
    for key, message in sorted(taken.pending.items()):
        say(f"{key} is pending: {message}")
    for key in found.replaced_keys:
        say(f"{key} was replaced since it was collected; the new version is collected beside the one before")
    ws.control_plane.commit_collection(
        Collection(_complete_until(listed_at, found, taken.pending), tuple(objects)),
        manifests,
        listed_at,
        evidence=found.evidence,
        pending=taken.pending,
        unclaimed=found.unclaimed,
    )
    return CollectResult(
        new_objects=len(objects),
        raw_events=sum(ledger_object.raw_event_count for ledger_object in objects),
        quarantined=sum(ledger_object.quarantine_count for ledger_object in objects),
        byte_count=byte_count,
        by_reason=dict(sorted(taken.by_reason.items())),
        unclaimed_keys=tuple(unclaimed.key for unclaimed in found.unclaimed),
        pending=dict(sorted(taken.pending.items())),
        replaced_keys=found.replaced_keys,
    )


# Discovery -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """What a listing shows beside the ledger: new objects in order of id, new evidence, and what nobody claims."""

    new_objects: list[NewObject] = field(default_factory=list)
    evidence_objects: list[LedgerObject] = field(default_factory=list)  # they have no line
    evidence: dict[str, Evidence] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    unclaimed: list[UnclaimedKey] = field(default_factory=list)
    replaced_keys: tuple[str, ...] = ()
    received: dict[str, datetime] = field(default_factory=dict)  # of everything that is new, by key


def _discover(ws: Workspace, scratch: Path) -> _Found:
    known = ws.control_plane.object_ids()
    found, contested, data = _Found(), [], []
    for listed in ws.raw.list_objects():
        claim = evidence_of(ws.project.contracts, listed.key)
        object_id = object_id_of(listed) if claim is None else _evidence_id(listed)
        contracts = [contract for contract in ws.project.contracts if contract.covers(listed.key)]
        external = next((one for one in ws.project.externals if one.covers(listed.key)), None)
        if external is not None:
            if _evidence_id(listed) not in known:
                found.received[listed.key] = listed.last_modified
                _read_external(ws, found, external, listed, scratch / "evidence")
        elif claim is not None:
            if object_id not in known:
                found.received[listed.key] = listed.last_modified
                _read_evidence(ws, found, NewObject(object_id, listed, claim[0]), scratch / "evidence")
        elif len(contracts) > 1:
            contested.append(f"{listed.key}: {', '.join(contract.name for contract in contracts)}")
        elif not contracts:
            found.unclaimed.append(UnclaimedKey(listed.key, listed.byte_count))
        elif object_id not in known:
            data.append(NewObject(object_id, listed, contracts[0]))
    if contested:
        raise InputError(
            "collect.contracts_overlap",
            f"{len(contested):,} objects are covered by more than one source contract; nothing was collected",
            [*sorted(contested)[:10], "expected one contract per key; narrow the prefix or suffixes in sources/*.toml"],
        )
    _choose_listed(ws, found, data)
    found.received |= {new.listed.key: new.listed.last_modified for new in found.new_objects}
    found.new_objects.sort(key=lambda new: new.object_id)
    found.unclaimed.sort()
    known_keys = {object_id.rpartition("@")[0] for object_id in known}
    found.replaced_keys = tuple(sorted(found.received.keys() & known_keys))
    return found


def _evidence_id(listed: ListedObject) -> str:
    """Return the name of a version of evidence. What is written again says so again, also in the words of before."""
    version = f"{listed.version} {listed.last_modified.isoformat()}"
    return object_id_of(replace(listed, version=version))


def _read_evidence(ws: Workspace, found: _Found, new: NewObject, download: Path) -> None:
    """Read a new object of evidence; one that says nothing clear is quarantined like an unreadable object of usage."""
    try:
        digest = ws.raw.download(new.listed, download)
        content = b"".join(read_chunks(download, EVIDENCE_BYTES_MAX))
        said = parse_evidence(new.contract, new.listed.key, content)
    except BillingError as error:
        found.pending[new.listed.key] = str(error)
        return
    except ObjectFault as fault:
        said = Rejection(fault.reason, fault.message)
    if isinstance(said, Rejection):
        found.new_objects.append(new._replace(fault=said))
    else:
        found.evidence_objects.append(_ledger_object(new, CollectedLines(new.object_id, digest, 0, 0, ())))
        found.evidence[new.object_id] = said


def _read_external(
    ws: Workspace, found: _Found, contract: ExternalContract, listed: ListedObject, download: Path
) -> None:
    """Read a new external report; what is wrong with one is said where its figures are missed."""
    try:
        digest = ws.raw.download(listed, download)
        content = b"".join(read_chunks(download, EVIDENCE_BYTES_MAX))
    except BillingError as error:
        found.pending[listed.key] = str(error)
        return
    except ObjectFault as fault:
        said = unreadable_report(contract, listed.key, fault.message)
    else:
        said = read_report(contract, listed.key, content)
    object_id, received_at = _evidence_id(listed), listed.last_modified
    found.evidence[object_id] = said
    found.evidence_objects.append(
        LedgerObject(
            *(object_id, listed.key, listed.version, listed.byte_count, digest, contract.name, received_at),
            line_count=0,
            raw_event_count=0,
            quarantine_count=0,
        )
    )


def _choose_listed(ws: Workspace, found: _Found, data: Sequence[NewObject]) -> None:
    """Take the objects that are to be read: of a source with manifests only what a manifest lists."""
    listed: Mapping[str, set[str]] = {}
    if any(contract.manifest is not None for contract in ws.project.contracts):
        new = [
            CollectedEvidence(object_id, found.received[said.key], said) for object_id, said in found.evidence.items()
        ]
        listed = listed_keys([*ws.control_plane.evidence(), *new])
    for one in data:
        if one.contract.manifest is None or one.listed.key in listed.get(one.contract.name, ()):
            found.new_objects.append(one)
        else:
            found.unclaimed.append(UnclaimedKey(one.listed.key, one.listed.byte_count, one.contract.name))


def _complete_until(listed_at: datetime, found: _Found, pending: Mapping[str, str]) -> datetime:
    """Return up to when everything received is collected: the listing, or the first object that is pending."""
    return min([listed_at, *(found.received[key] for key in pending)])


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Taken:
    """What the batches of a collection wrote, put together."""

    pending: dict[str, str]
    objects: list[CollectedLines] = field(default_factory=list)
    raw_events: list[PartitionFile] = field(default_factory=list)
    quarantine: list[PartitionFile] = field(default_factory=list)
    by_reason: Counter[str] = field(default_factory=Counter)

    def add(self, result: BatchResult) -> None:
        self.pending |= result.pending
        self.objects += result.objects
        self.raw_events += result.raw_events
        self.quarantine += result.quarantine
        self.by_reason.update(result.by_reason)


def _read(
    ws: Workspace, new_objects: Sequence[NewObject], scratch: Path, say: Callable[[str], None]
) -> Iterator[BatchResult]:
    """Yield the result of each batch, in order."""
    batches = [
        BatchTask(tuple(objects), scratch / f"batch-{number}") for number, objects in enumerate(_batches(new_objects))
    ]
    byte_count = sum(new.listed.byte_count for new in new_objects)
    worker_count = min(settings.worker_count(), len(batches))
    done = 0
    for batch, result in zip(
        batches,
        (collect_batch(batch, ws.raw) for batch in batches)
        if worker_count < 2 or byte_count < PARALLEL_BYTES
        else collect_batches(batches, ws.raw, worker_count),
        strict=True,
    ):
        done += len(batch.objects)
        say(f"{done:,} of {len(new_objects):,} objects read")
        yield result


def _batches(new_objects: Sequence[NewObject]) -> Iterator[list[NewObject]]:
    """Cut the objects into batches by what the listing says, so that the cuts depend on nothing else."""
    batch: list[NewObject] = []
    byte_count = 0
    for new in new_objects:
        batch.append(new)
        byte_count += new.listed.byte_count
        if byte_count >= BATCH_BYTES or len(batch) >= BATCH_OBJECTS:
            yield batch
            batch, byte_count = [], 0
    if batch:
        yield batch


def _ledger_object(new: NewObject, lines: CollectedLines) -> LedgerObject:
    return LedgerObject(
        object_id=new.object_id,
        key=new.listed.key,
        version=new.listed.version,
        byte_count=new.listed.byte_count,
        sha256=lines.sha256,
        contract=new.contract.name,
        received_at=new.listed.last_modified,
        line_count=lines.raw_event_count + lines.quarantine_count,
        raw_event_count=lines.raw_event_count,
        quarantine_count=lines.quarantine_count,
        fault=lines.fault,
    )


# Publishing ----------------------------------------------------------------------------------------------------------


def _write_manifests(ws: Workspace, objects: Sequence[LedgerObject], taken: _Taken) -> list[Manifest]:
    """Put the data files into the lake, then a manifest of each dataset; nothing is visible before the commit."""
    scope = f"collection={sha256_hex(canonical_json([ledger_object.object_id for ledger_object in objects]))}"
    pinned = [
        {
            "object_id": ledger_object.object_id,
            "sha256": ledger_object.sha256,
            "received_at": ledger_object.received_at.isoformat(),
        }
        for ledger_object in objects
    ]
    pins = {
        "objects": pin_file(ws, canonical_json(pinned)),
        "contracts": {
            path: pin_file(ws, content)
            for path, content in sorted(ws.project.files.items())
            if path.startswith("sources/")
        },
    }
    content = content_hash([(lines.object_id, *part) for lines in taken.objects for part in lines.content])
    quarantine = [(file.path, file.partition) for file in taken.quarantine]
    return [
        store_files(ws, RAW_EVENTS, scope, 1, taken.raw_events, content, pins),
        store_manifest(ws, QUARANTINE, scope, 1, quarantine, pins),
    ]
