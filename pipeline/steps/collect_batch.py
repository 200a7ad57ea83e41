"""One batch of a collection: some objects are fetched, read and written as files of ``raw_events`` and ``quarantine``.

A batch needs nothing but its task, so it runs in a process of its own. Most lines take the fast road of
``block_parser``; every line that it leaves goes to the strict parser, which makes it a raw event or quarantines it. The
files depend on the task alone: not on the process, nor on what it read before.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.adapters.block_parser import BlockParser, Column, Ints, ParsedLines
from pipeline.adapters.content_hash import EVENT_HASHES, EventColumns, EventContent
from pipeline.adapters.decompress import ObjectFault, read_chunks
from pipeline.adapters.event_files import EventFiles, PartitionFile, arrow_schema
from pipeline.adapters.event_hash import key_hashes, payload_hashes
from pipeline.adapters.object_store import ListedObject, ObjectStore
from pipeline.adapters.parquet_records import count_records, read_records
from pipeline.adapters.record_blocks import ObjectCount, RecordBlock, RecordCutter, RecordFault, long_line
from pipeline.core.contract import FileFormat, SourceContract
from pipeline.core.dataset import QUARANTINE, RAW_EVENTS
from pipeline.core.errors import BillingError, NotReadyError
from pipeline.core.reason import QuarantineReason, over_limit
from pipeline.core.record import (
    BYTE_ORDER_MARK,
    TEXT_FIELDS,
    LongLine,
    RawEvent,
    RecordParser,
    Rejection,
    parser_for,
    read_header,
    split_lines,
)

DAY = timedelta(days=1) // timedelta(microseconds=1)
IN_MEMORY_BYTES_MAX = 32 << 20  # as much as a batch has of listed bytes
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = np.iinfo(np.int64).max
_OF_LINE = ("object_and_line", "key_and_line", "offset")
_EVENTS_SCHEMA = pa.schema([field for field in arrow_schema(RAW_EVENTS) if field.name not in EVENT_HASHES])
_QUARANTINE_SCHEMA = arrow_schema(QUARANTINE)


class NewObject(NamedTuple):
    """An object version that is not in the ledger, under the one contract that covers its key."""

    object_id: str
    listed: ListedObject
    contract: SourceContract
    fault: Rejection | None = None  # why it is known already that nothing of it can be read


@dataclass(frozen=True, slots=True)
class BatchTask:
    """Objects to collect, in order of id, and a folder for the files, which is made."""

    objects: tuple[NewObject, ...]
    folder: Path


class CollectedLines(NamedTuple):
    """What became of one object. ``content`` names the hash and the number of its raw events of each event date."""

    object_id: str
    sha256: str
    raw_event_count: int
    quarantine_count: int
    content: tuple[tuple[str, int, str], ...]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch wrote. ``pending`` objects could not be fetched or did not tie; nothing of them is in the files."""

    objects: tuple[CollectedLines, ...]
    raw_events: tuple[PartitionFile, ...]
    quarantine: tuple[PartitionFile, ...]
    by_reason: Mapping[str, int]
    pending: Mapping[str, str]


class _FaultFoundError(Exception):
    """An object turned out to be unreadable after lines of it were taken; the batch starts over without it."""


class _UncountableError(Exception):
    """The lines of an object do not tie."""


def collect_batch(task: BatchTask, store: ObjectStore) -> BatchResult:
    """Collect the objects of a batch; what is wrong with one of them stops none of the others.

    ``NotReadyError`` when this machine's disk is.
    """
    try:
        return _collect(task, store)
    except OSError as error:
        raise NotReadyError(
            "collect.scratch_unusable",
            f"a temporary file cannot be written or read: {error.strerror or error}",
            [f"folder {task.folder}", "nothing was collected; make room there, then collect again"],
        ) from error


def _collect(task: BatchTask, store: ObjectStore) -> BatchResult:
    downloads = task.folder / "objects"
    downloads.mkdir(parents=True)
    fetched: list[_Fetched] = []
    pending: dict[str, str] = {}
    for index, new in enumerate(task.objects):
        try:
            fetched.append(_fetch(store, new, downloads / str(index)))
        except BillingError as error:
            pending[new.listed.key] = str(error)
    result = _read_all(task, fetched, pending)
    shutil.rmtree(downloads)
    return result


def _read_all(task: BatchTask, fetched: list[_Fetched], pending: dict[str, str]) -> BatchResult:
    """Read the objects, and start over without those that turn out to be unreadable after lines of them were taken.

    However many they are, that is twice at most: the first time the objects are inflated to find those that break, the
    second time each is read alone, which finds everything else.
    """
    for attempt in count():
        folder = task.folder / f"attempt-{attempt}"
        batch = _Batch(fetched, folder)
        try:
            return batch.run(pending)
        except _FaultFoundError:
            if attempt == 0:
                _find_broken(fetched)
            else:
                pending |= _failures(fetched, task.folder / "alone")
        except (OSError, MemoryError):
            raise
        except Exception:
            failures = _failures(fetched, task.folder / "alone")
            if not failures:
                raise
            pending |= failures
        fetched = [one for one in fetched if one.new.listed.key not in pending]
        shutil.rmtree(folder)
    raise AssertionError("unreachable: counting has no end")


def _find_broken(fetched: Sequence[_Fetched]) -> None:
    """Inflate every object to its end and note which cannot be."""
    for one in fetched:
        if one.fault is None and one.new.contract.format is not FileFormat.PARQUET:
            try:
                for _ in one.chunks():
                    pass
            except ObjectFault as fault:
                one.fault = Rejection(fault.reason, fault.message)


def _failures(fetched: Sequence[_Fetched], folder: Path) -> dict[str, str]:
    """Read each object alone and note its fault; return, by key, why some cannot be read for a reason not their own.

    Small objects are read together, so a failure does not tell whose lines it comes from.
    """
    failures = {}
    for index, one in enumerate(fetched):
        alone = folder / str(index)
        try:
            _Batch([one], alone).run({})
        except (OSError, MemoryError):
            raise
        except _FaultFoundError:
            pass  # the object has its fault now, and the next attempt heeds it
        except _UncountableError as error:
            failures[one.new.listed.key] = str(error)
        except Exception as error:
            failures[one.new.listed.key] = f"reading it failed with {type(error).__name__}: {error}"
        shutil.rmtree(alone)
    return failures


# Fetching ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Fetched:
    """An object on local disk or, a smaller one, in memory; with its fault, what is kept of one that is not read."""

    new: NewObject
    stored: Path | bytes
    sha256: str
    fault: Rejection | None = None

    @property
    def received_at(self) -> datetime:
        return self.new.listed.last_modified

    def chunks(self) -> Iterator[bytes]:
        limits = self.new.contract.limits
        return read_chunks(self.stored, limits.object_bytes_max, limits.decompression_ratio_max)

    def head(self, byte_count: int) -> bytes:
        if isinstance(self.stored, bytes):
            return self.stored[:byte_count]
        with self.stored.open("rb") as file:
            return file.read(byte_count)


def _fetch(store: ObjectStore, new: NewObject, path: Path) -> _Fetched:
    limits = new.contract.limits
    if new.listed.byte_count <= limits.object_bytes_max:
        if new.contract.format is FileFormat.PARQUET or new.listed.byte_count > IN_MEMORY_BYTES_MAX:
            return _Fetched(new, path, store.download(new.listed, path), new.fault)
        content = b"".join(store.read(new.listed))
        return _Fetched(new, content, sha256(content).hexdigest(), new.fault)
    digest, head = sha256(), b""
    for chunk in store.read(new.listed):
        digest.update(chunk)
        head += chunk[: limits.quarantined_raw_bytes_max - len(head)]
    message = over_limit(f"{new.listed.byte_count:,} bytes", limits.object_bytes_max, "object_bytes_max")
    return _Fetched(new, head, digest.hexdigest(), Rejection(QuarantineReason.OBJECT_TOO_LARGE, message))


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    """One object while it is read."""

    parser: RecordParser | None = None
    count: ObjectCount | None = None
    raw_event_count: int = 0
    quarantine_count: int = 0
    fault: str | None = None
    content: dict[str, EventContent] = field(default_factory=dict)


class _Batch:
    """Reads the objects of a batch into files, in order of object and line."""

    def __init__(self, fetched: Sequence[_Fetched], folder: Path) -> None:
        self._fetched = fetched
        self._raw_events = EventFiles(RAW_EVENTS, folder / RAW_EVENTS.name)
        self._quarantine = EventFiles(QUARANTINE, folder / QUARANTINE.name)
        self._tallies = [_Tally() for _ in fetched]
        self._object_ids = pa.array([one.new.object_id for one in fetched], pa.string())
        self._received = np.array([_microseconds(one.received_at) for one in fetched], np.int64)
        self._latest = np.array([_latest_event_at(one) for one in fetched], np.int64)
        self._cutter: RecordCutter | None = None
        self._cutter_key: tuple[str, tuple[str, ...]] | None = None
        self._lines: BlockParser | None = None
        self._by_reason: Counter[str] = Counter()

    def run(self, pending: Mapping[str, str]) -> BatchResult:
        try:
            for index, one in enumerate(self._fetched):
                self._read(index, one)
            self._flush()
        except RecordFault as fault:
            self._fetched[fault.object_index].fault = fault.rejection
            raise _FaultFoundError from None
        finally:
            self._cutter = self._lines = None  # its buffer would live as long as the cycle of the two
        objects = tuple(self._collected(index, one) for index, one in enumerate(self._fetched))
        raw_events, quarantine = tuple(self._raw_events.finish()), tuple(self._quarantine.finish())
        return BatchResult(objects, raw_events, quarantine, dict(self._by_reason), pending)

    def _read(self, index: int, one: _Fetched) -> None:
        if one.fault is not None:
            self._quarantine_object(index, one.fault)
        elif one.new.contract.format is FileFormat.PARQUET:
            self._read_rows(index, one)
        else:
            self._read_text(index, one)

    def _read_text(self, index: int, one: _Fetched) -> None:
        contract, tally = one.new.contract, self._tallies[index]
        try:
            has_mark, content = _without_mark(one.chunks())
            header_line, header = 0, None
            if contract.format is FileFormat.CSV:
                taken: list[bytes] = []
                found = read_header(contract, split_lines(_kept(content, taken), contract.limits.line_bytes_max))
                if isinstance(found, Rejection):
                    self._quarantine_object(index, found)
                    return
                header_line, header = found
                content = chain(taken, content)
            parser = parser_for(contract, one.new.object_id, one.new.listed.key, one.received_at, header)
            if isinstance(parser, Rejection):
                self._quarantine_object(index, parser)
                return
            tally.parser = parser
            if not _has_known_type(parser):
                self._latest[index] = np.iinfo(np.int64).min  # nothing of it is for the fast road
            cutter = self._cutter_of(contract, parser.columns)
            first_offset = len(BYTE_ORDER_MARK) if has_mark else 0
            tally.count = cutter.add_object(
                index, content, first_offset=first_offset, header_line=header_line, header=header
            )
        except ObjectFault as fault:
            one.fault = Rejection(fault.reason, fault.message)
            raise _FaultFoundError from None
        if tally.count.is_blank:
            tally.count = None
            self._quarantine_object(index, Rejection(QuarantineReason.EMPTY_OBJECT, "no line in it"))

    def _cutter_of(self, contract: SourceContract, columns: tuple[str, ...]) -> RecordCutter:
        key = (contract.name, columns)
        if self._cutter is None or key != self._cutter_key:
            self._flush()
            self._lines = BlockParser(contract, columns)
            self._cutter = RecordCutter(contract, self._take)
            self._cutter_key = key
        return self._cutter

    def _flush(self) -> None:
        if self._cutter is not None:
            self._cutter.flush()

    def _read_rows(self, index: int, one: _Fetched) -> None:
        """Read a Parquet object: the rows come typed, and only the strict parser reads them."""
        contract, tally, stored = one.new.contract, self._tallies[index], one.stored
        if isinstance(stored, bytes):
            raise AssertionError("a Parquet object is read from a file")
        parser = parser_for(contract, one.new.object_id, one.new.listed.key, one.received_at, None)
        if isinstance(parser, Rejection):
            self._quarantine_object(index, parser)
            return
        self._flush()
        tally.parser = parser
        number = 0
        try:
            for rows in read_records(stored, contract):
                events, rejected = [], []
                for row in rows:
                    number += 1
                    event = parser.parse_record(number, row, number)
                    if isinstance(event, RawEvent):
                        events.append((number, event))
                    else:
                        raw = json.dumps(row, ensure_ascii=False, default=str).encode(errors="backslashreplace")
                        rejected.append((number, 0, event, long_line(raw, contract.limits.quarantined_raw_bytes_max)))
                self._quarantine_lines((index, *line) for line in rejected)
                days = _days(np.array([_microseconds(event.event_at) for _, event in events], np.int64))
                order = np.argsort(days, kind="stable")
                table = self._strict_table([(index, *events[place]) for place in order.tolist()])
                self._add(table, days[order], np.full(len(events), index, np.int64))
        except ObjectFault as fault:
            self._refuse_rows(index, number, Rejection(fault.reason, fault.message))
            return
        except (ValueError, OverflowError) as error:
            # Arrow decodes what Python has no value for (a date of the year 20000) as late as this.
            message = f"a row behind row {number:,} holds a value that cannot be read: {error}"
            self._refuse_rows(index, number, Rejection(QuarantineReason.UNREADABLE_OBJECT, message))
            return
        tally.count = ObjectCount(counted=count_records(stored), cut=number, record_count=number)

    def _refuse_rows(self, index: int, number: int, fault: Rejection) -> None:
        if number:
            self._fetched[index].fault = fault
            raise _FaultFoundError
        self._quarantine_object(index, fault)

    # ---- one block ----

    def _take(self, block: RecordBlock) -> None:
        """Read the records of a block: on the fast road where that is certain, strictly where it is not."""
        if self._lines is None:
            raise AssertionError("a block is cut for a parser")
        read = self._lines.parse(
            block.records, self._latest[block.object_index], lambda row: isinstance(self._strict(block, row), RawEvent)
        )
        is_read = np.zeros(len(block.records), np.bool_)
        if read is not None:
            is_read[read.rows] = True
        rows: list[int] = []
        events: list[tuple[int, int, RawEvent]] = []
        rejected: list[_RejectedLine] = []
        for row in np.flatnonzero(~is_read).tolist():
            event = self._strict(block, row)
            if isinstance(event, RawEvent):
                rows.append(row)
                events.append((int(block.object_index[row]), int(block.line_numbers[row]), event))
            else:
                rejected.append(self._rejected(block, row, event))
        rejected += [(u.object_index, u.line_number, u.byte_offset, u.rejection, u.line) for u in block.unread]
        self._quarantine_lines(sorted(rejected, key=lambda line: line[:2]))
        self._add_events(block, read, np.array(rows, np.int64), events)

    def _parser(self, object_index: int) -> RecordParser:
        parser = self._tallies[object_index].parser
        if parser is None:
            raise AssertionError("an object whose lines are cut has a parser")
        return parser

    def _strict(self, block: RecordBlock, row: int) -> RawEvent | Rejection:
        index = int(block.object_index[row])
        line_number, record_number = int(block.line_numbers[row]), int(block.record_numbers[row])
        try:
            return self._parser(index).parse(line_number, block.records.record(row), record_number)
        except Exception as error:
            message = f"reading line {line_number} of it failed with {type(error).__name__}: {error}"
            raise _UncountableError(message) from error

    def _rejected(self, block: RecordBlock, row: int, rejection: Rejection) -> _RejectedLine:
        index = int(block.object_index[row])
        head_bytes_max = self._fetched[index].new.contract.limits.quarantined_raw_bytes_max
        line = long_line(block.records.record(row), head_bytes_max)
        return index, int(block.line_numbers[row]), int(block.byte_offsets[row]), rejection, line

    # ---- events ----

    def _add_events(
        self, block: RecordBlock, read: ParsedLines | None, rows: Ints, events: Sequence[tuple[int, int, RawEvent]]
    ) -> None:
        """Add the events of both roads, by event date and in order of the records."""
        strict_days = _days(np.array([_microseconds(event.event_at) for _, _, event in events], np.int64))
        if read is None:
            order = np.argsort(strict_days, kind="stable")
            table = self._strict_table(events).take(pa.array(order, pa.int64()))
            self._add(table, strict_days[order], block.object_index[rows[order]])
            return
        days = _days(read.event_at)
        if len(days) and days.min() != days.max():
            order = np.argsort(days, kind="stable")
            read.arrange(order)
            days = days[order]
        table, all_rows = self._fast_table(block, read), read.rows
        if len(rows):
            all_days, all_rows = np.concatenate([days, strict_days]), np.concatenate([all_rows, rows])
            order = np.lexsort((all_rows, all_days))
            table = pa.concat_tables([table, self._strict_table(events)]).take(pa.array(order, pa.int64()))
            days, all_rows = all_days[order], all_rows[order]
        self._add(table, days, block.object_index[all_rows])

    def _fast_table(self, block: RecordBlock, read: ParsedLines) -> pa.Table:
        contract = self._parser(int(block.object_index[0])).contract
        index = block.object_index[read.rows]
        event_at = pa.array(read.event_at).cast(_EVENTS_SCHEMA.field("event_at").type)
        is_received_with_event = contract.received == "event_time"
        received_at = event_at if is_received_with_event else pa.array(self._received[index]).cast(event_at.type)
        texts = {name: read.text(name) for name in TEXT_FIELDS}
        columns: dict[str, Column] = {
            "object_id": self._object_ids.take(pa.array(index, pa.int64())),
            "line_number": pa.array(block.line_numbers[read.rows]),
            **{name: self._derived(block, read.rows, name) if text is None else text for name, text in texts.items()},
            "event_at": event_at,
            "received_at": received_at,
            "quantity": read.quantity(),
            "data": read.data(),
        }
        return pa.table([columns[name] for name in _EVENTS_SCHEMA.names], schema=_EVENTS_SCHEMA)

    def _derived(self, block: RecordBlock, rows: Ints, name: str) -> Column:
        """Return a canonical text that no field of the record holds: one text for each object, or for each line."""
        index = block.object_index[rows]
        origin = getattr(self._parser(int(index[0])).contract.event, name)
        if origin.derive not in _OF_LINE:
            used, inverse = np.unique(index, return_inverse=True)
            texts = pa.array([self._parser(int(one)).derived_text(name, 0, 0) for one in used], pa.string())
            return texts.take(pa.array(inverse, pa.int64()))
        places = zip(
            index.tolist(), block.line_numbers[rows].tolist(), block.record_numbers[rows].tolist(), strict=True
        )
        return pa.array(
            [self._parser(one).derived_text(name, line, number) for one, line, number in places], pa.string()
        )

    def _strict_table(self, events: Sequence[tuple[int, int, RawEvent]]) -> pa.Table:
        rows = []
        for index, line_number, event in events:
            one = self._fetched[index]
            received_at = event.event_at if one.new.contract.received == "event_time" else one.received_at
            rows.append(
                (
                    one.new.object_id,
                    line_number,
                    event.source,
                    event.id,
                    event.type,
                    event.subject,
                    event.event_at,
                    received_at,
                    event.quantity,
                    event.data,
                )
            )
        return _table(rows, _EVENTS_SCHEMA)

    def _add(self, table: pa.Table, days: Ints, object_index: Ints) -> None:
        """Add rows that are in order of date and record to the files and to the content of their objects."""
        if not len(days):
            return
        content = EventColumns(table)
        keys, payloads = (table.column("source"), table.column("id")), (table.column("quantity"), table.column("data"))
        table = table.append_column("key_hash", pa.array(key_hashes(*keys)))
        table = table.append_column("payload_hash", pa.array(payload_hashes(*payloads)))
        for first, end in _runs(np.diff(days) | np.diff(object_index)):
            tally = self._tallies[int(object_index[first])]
            day = _date(int(days[first]))
            tally.content.setdefault(day, EventContent()).add(content, first, end)
            tally.raw_event_count += end - first
            self._check_dates(int(object_index[first]))
        for first, end in _runs(np.diff(days)):
            part = table.slice(first, end - first)
            # A small slice would keep the whole block in memory until its row group is full.
            is_small = 2 * part.num_rows < table.num_rows
            self._raw_events.add(
                _date(int(days[first])), part.take(pa.array(np.arange(end - first), pa.int64())) if is_small else part
            )

    def _check_dates(self, index: int) -> None:
        """Refuse an object whose events are of too many dates: each date is a file of its own."""
        limit = self._fetched[index].new.contract.limits.event_dates_max
        if len(self._tallies[index].content) > limit:
            message = f"events of more than {limit:,} dates (limits.event_dates_max)"
            raise RecordFault(index, Rejection(QuarantineReason.TOO_MANY_EVENT_DATES, message))

    # ---- quarantine ----

    def _quarantine_object(self, index: int, fault: Rejection) -> None:
        self._flush()
        one = self._fetched[index]
        head = one.head(one.new.contract.limits.quarantined_raw_bytes_max)
        line = LongLine(head, one.new.listed.byte_count, one.sha256)
        self._quarantine_lines([(index, 0, 0, fault, line)])
        self._tallies[index].fault = fault.reason.value

    def _quarantine_lines(self, lines: Iterable[_RejectedLine]) -> None:
        rows = []
        for index, line_number, byte_offset, rejection, line in lines:
            one = self._fetched[index]
            self._by_reason[rejection.reason.value] += 1
            self._tallies[index].quarantine_count += 1
            head = line.head[: one.new.contract.limits.quarantined_raw_bytes_max]
            rows.append(
                (
                    one.new.object_id,
                    line_number,
                    byte_offset,
                    one.new.contract.name,
                    one.received_at,
                    rejection.reason.value,
                    rejection.message,
                    head,
                    line.byte_count,
                    line.sha256,
                )
            )
        if rows:
            self._quarantine.add("", _table(rows, _QUARANTINE_SCHEMA))

    # ---- conservation ----

    def _collected(self, index: int, one: _Fetched) -> CollectedLines:
        """Return what became of an object, if every line was cut and every record is a raw event or quarantined."""
        tally = self._tallies[index]
        count = tally.count or ObjectCount(counted=1, cut=1, record_count=1)
        accounted = tally.raw_event_count + tally.quarantine_count
        if count.counted != count.cut or count.record_count != accounted:
            raise _UncountableError(
                f"it has {count.counted:,} lines, of which {count.cut:,} were cut and {count.record_count:,} records, "
                f"but {tally.raw_event_count:,} raw events and {tally.quarantine_count:,} quarantined; "
                "this is a defect of the program, not of the object",
            )
        content = tuple((day, content.row_count, content.hexdigest()) for day, content in sorted(tally.content.items()))
        counts = tally.raw_event_count, tally.quarantine_count
        return CollectedLines(one.new.object_id, one.sha256, *counts, content, tally.fault)


_RejectedLine = tuple[int, int, int, Rejection, LongLine]


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)], schema=schema)


def _without_mark(chunks: Iterator[bytes]) -> tuple[bool, Iterator[bytes]]:
    """Return whether the text starts with a byte order mark, and the text without it."""
    start = b""
    while len(start) < len(BYTE_ORDER_MARK) and (chunk := next(chunks, b"")):
        start += chunk
    content = start.removeprefix(BYTE_ORDER_MARK)
    return content != start, chain([content] if content else [], chunks)


def _kept(chunks: Iterator[bytes], taken: list[bytes]) -> Iterator[bytes]:
    """Yield the chunks and keep each that was asked for."""
    for chunk in chunks:
        taken.append(chunk)
        yield chunk


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def _latest_event_at(one: _Fetched) -> int:
    """Return the last microsecond that an event of the object may have."""
    contract = one.new.contract
    if contract.received == "event_time":
        return int(_NEVER)
    return _microseconds(one.received_at + contract.limits.future_max)


def _has_known_type(parser: RecordParser) -> bool:
    """Tell whether the type is one of the contract; a type that the record holds is asked for with each record."""
    event_types, origin = parser.contract.event_types, parser.contract.event.type
    if not event_types or origin.fields:
        return True
    return parser.derived_text("type", 0, 0) in event_types


def _runs(changes: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run of rows; ``changes`` is not zero where a row differs from the one before."""
    return pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), len(changes) + 1])


def _days(event_at: Ints) -> Ints:
    return event_at // DAY


def _date(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).date().isoformat()
