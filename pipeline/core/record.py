"""Records: one line of an object becomes a raw event or a rejection with its reason, never both, never neither (P3).

A *line* is a physical line, also in CSV (a quoted field may not hold a line break), so that
``(object_id, line_number)`` names the same bytes for ever. Where a format has no lines (``json``, ``parquet``) the
number of the record stands for it. Blank lines are not records. Reading is strict: JSON as in RFC 8259 (no ``NaN``, no
repeated key, no trailing comma), UTF-8 only, times with a zone, and every number keeps the digits the producer wrote.
A line that is not certainly right is rejected, never repaired.

What is wrong with a whole object (its header, its key) is found before its first line and rejects the object.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

from pipeline.core.contract import DataField, FieldOrigin, FileFormat, SourceContract, TimeOrigin
from pipeline.core.csv_text import column_names, csv_values, is_fields_line, mapped_fields, unknown_fields_error
from pipeline.core.decimals import fits, plain_text
from pipeline.core.event_time import parse_event_time, parse_unix_time, time_fault
from pipeline.core.evidence import Offsets
from pipeline.core.json_text import JsonReader, encode_json, parse_decimal, shown
from pipeline.core.manifest import sha256_hex
from pipeline.core.money import QUANTITY_SCALE
from pipeline.core.reason import QuarantineReason, RejectedError, over_limit
from pipeline.core.reason import Rejection as Rejection

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CLOUD_EVENT_DATA = "data"
CLOUD_EVENT_ATTRIBUTES = (
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    CLOUD_EVENT_DATA,
)

TEXT_FIELDS = ("source", "id", "type", "subject")

Record = Mapping[str, Any]
Path = tuple[str, ...]


class RawEvent(NamedTuple):
    """One line that was read: the canonical event, with ``data`` as canonical JSON text."""

    source: str
    id: str
    type: str
    subject: str
    event_at: datetime
    quantity: Decimal | None
    data: str


class LongLine(NamedTuple):
    """A line longer than the limit: its first bytes, the length and SHA-256 of all of it."""

    head: bytes
    byte_count: int
    sha256: str


# Lines ---------------------------------------------------------------------------------------------------------------


def split_lines(chunks: Iterable[bytes], line_bytes_max: int) -> Iterator[tuple[int, bytes | LongLine]]:
    """Yield each line that is not blank with its physical number, holding at most one line of the longest kind.

    >>> list(split_lines([b"a\\r\\n\\nb", b"c\\n"], 1024))
    [(1, b'a'), (3, b'bc')]
    """
    number = 0
    rest = b""
    long_line: LongLineBuilder | None = None
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            yield from _measured(number, line, long_line, line_bytes_max)
            long_line = None
        if long_line is not None or len(rest) > line_bytes_max + 1:
            long_line = long_line or LongLineBuilder(line_bytes_max)
            long_line.add(rest)
            rest = b""
    yield from _measured(number + 1, rest, long_line, line_bytes_max)


def _measured(
    number: int, line: bytes, long_line: LongLineBuilder | None, line_bytes_max: int
) -> Iterator[tuple[int, bytes | LongLine]]:
    """Yield a line, whose beginning may be in ``long_line`` already, unless it is blank."""
    content = line.removesuffix(b"\r")
    if long_line is None and len(content) <= line_bytes_max:
        if content and not content.isspace():
            yield number, content
        return
    long_line = long_line or LongLineBuilder(line_bytes_max)
    long_line.add(line)
    if not long_line.is_blank:
        yield number, long_line.finish()


class LongLineBuilder:
    """Hashes a line that does not fit in memory and keeps its head."""

    def __init__(self, head_bytes_max: int) -> None:
        self.is_blank = True
        self._head_bytes_max = head_bytes_max
        self._head = b""
        self._byte_count = 0
        self._sha256 = hashlib.sha256()

    def add(self, part: bytes) -> None:
        self.is_blank = self.is_blank and not part.strip()
        self._head += part[: self._head_bytes_max - len(self._head)]
        self._byte_count += len(part)
        self._sha256.update(part)

    def finish(self) -> LongLine:
        return LongLine(self._head, self._byte_count, self._sha256.hexdigest())


def too_long(line: LongLine, line_bytes_max: int) -> Rejection:
    """Return why a line that is longer than the limit is not read."""
    message = over_limit(f"{line.byte_count:,} bytes", line_bytes_max, "line_bytes_max")
    return Rejection(QuarantineReason.LINE_TOO_LONG, message)


# Fields --------------------------------------------------------------------------------------------------------------

_MISSING: Any = object()
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")
_SHORT_INTEGER = re.compile(r"[0-9]{1,29}")  # fits without a closer look, and is what most quantities are
_NO_NUMBER = re.compile(r"[+-]?(?:s?nan|inf|infinity)", re.IGNORECASE)
_LARGE_EXPONENT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?[eE][+-]?[0-9]{4,}")


def _at(record: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(record, dict):
            return _MISSING
        record = record.get(name, _MISSING)
    return record


def _required(record: Record, path: Path, name: str) -> Any:
    value = _at(record, path)
    if value is _MISSING or value is None:
        raise _missing(name, (path,), value)
    return value


def _missing(name: str, paths: tuple[Path, ...], value: Any = _MISSING) -> RejectedError:
    """Return the rejection of a record that lacks a field, or all of several; ``value`` is what stands there."""
    fields = " or ".join(".".join(path) for path in paths)
    found = "is missing" if value is _MISSING else "is null" if value is None else "is empty"
    return RejectedError(QuarantineReason.MISSING_FIELD, f"{name}: the field {fields} {found} in the record")


def _first_of(record: Record, paths: tuple[Path, ...], name: str) -> Any:
    for path in paths:
        value = _at(record, path)
        if value is not _MISSING and value is not None:
            return value
    raise _missing(name, paths)


def _text(value: Any, name: str) -> str:
    """Return a text as CloudEvents defines it: a string that is not empty and holds no control character."""
    if type(value) is not str:
        raise RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: expected a string, got {shown(value)}")
    if not value:
        raise RejectedError(QuarantineReason.MISSING_FIELD, f"{name}: is empty")
    if not value.isprintable() and _CONTROL_CHARACTER.search(value):
        raise RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: holds a control character, got {shown(value)}")
    return value


def _hash_of(record: Record, paths: tuple[Path, ...], name: str) -> str:
    values = [_required(record, path, name) for path in paths]
    return sha256_hex(encode_json(values).encode())


class Position(NamedTuple):
    """Where a record stands in its object: its line, and how many records the object has up to it."""

    line_number: int
    record_number: int


Getter = Callable[[Record, Position], str]


def _text_getter(
    name: str, origin: FieldOrigin, to_path: Callable[[str], Path], contract: SourceContract, object_id: str, key: str
) -> Getter:
    """Return how one canonical field is taken from a record; what depends on the object alone is decided here."""
    if origin.field is not None:
        return _field_getter(name, to_path(origin.field))
    if origin.first_of is not None:
        alternatives = tuple(to_path(field) for field in origin.first_of)
        return lambda record, position: _text(_first_of(record, alternatives, name), name)
    if origin.derive == "hash":
        paths = tuple(to_path(field) for field in origin.of)
        return lambda record, position: _hash_of(record, paths, name)
    if origin.derive == "object_and_line":
        return lambda record, position: f"{object_id}:{position.line_number}"
    if origin.derive == "key_and_line":
        return lambda record, position: f"{key}:{position.line_number}"
    if origin.derive == "offset":
        stream, first = _first_offset(name, contract, key)
        return lambda record, position: f"{stream}+{first + position.record_number - 1}"
    if origin.constant is not None:
        constant = _text(origin.constant, name)
        return lambda record, position: constant
    pattern = origin.object_key or ""
    match = re.search(pattern, key)
    if match is None or not match[1]:
        raise RejectedError(
            QuarantineReason.MISSING_FIELD, f"{name}: the object's key {shown(key)} does not match {pattern!r}"
        )
    part = _text(match[1], name)
    return lambda record, position: part


def _first_offset(name: str, contract: SourceContract, key: str) -> tuple[str, int]:
    """Return the stream (topic and partition) of an object and the offset of its first record, from its key."""
    evidence = contract.completeness
    first = evidence.offset_of(key) if isinstance(evidence, Offsets) else None
    if first is None:
        pattern = evidence.key_pattern if isinstance(evidence, Offsets) else None
        raise RejectedError(
            QuarantineReason.MISSING_FIELD, f"{name}: the object's key {shown(key)} does not match {pattern!r}"
        )
    return _text("+".join(part for part in (first.topic, first.partition) if part), name), first.offset


def _field_getter(name: str, path: Path) -> Getter:
    leaf = path[0] if len(path) == 1 else None

    def text_of(record: Record, position: Position) -> str:
        # Called four times a line: most values need one look, the others take the road with the messages.
        value = record.get(leaf) if leaf is not None else None
        if type(value) is str and value and value.isprintable():
            return value
        return _text(_required(record, path, name), name)

    return text_of


# Time ----------------------------------------------------------------------------------------------------------------

_MICROSECONDS = {"unix_seconds": 1_000_000, "unix_milliseconds": 1_000}


def _event_time(record: Record, paths: tuple[Path, ...], origin: TimeOrigin) -> datetime:
    values = [_required(record, path, "time") for path in paths]
    unit = _MICROSECONDS.get(origin.format)
    if unit is not None:
        return _unix_time(values[0], origin.format, unit)
    for value in values:
        if type(value) is not str:
            raise RejectedError(QuarantineReason.WRONG_TYPE, f"time: expected a string, got {shown(value)}")
    text = "T".join(values)
    event_at = parse_event_time(text, origin.time_zone)
    if event_at is None:
        fault = time_fault(text, origin.time_zone)
        zone = "" if origin.time_zone else " with its zone"
        raise RejectedError(
            QuarantineReason.INVALID_TIME,
            f"time: expected a time{zone} such as 2026-01-15T12:00:00Z, got {shown(text)}"
            + (f": {fault}" if fault else ""),
        )
    return event_at


def _unix_time(value: Any, unit_name: str, microseconds_per_unit: int) -> datetime:
    if type(value) is not str and not isinstance(value, Decimal):
        raise RejectedError(QuarantineReason.WRONG_TYPE, f"time: expected a number, got {shown(value)}")
    number = parse_decimal(value) if isinstance(value, str) else value
    event_at = None if number is None else parse_unix_time(number, microseconds_per_unit)
    if event_at is None:
        unit = unit_name.removeprefix("unix_")
        found = shown(value) if isinstance(value, str) else shown(str(value))
        raise RejectedError(QuarantineReason.INVALID_TIME, f"time: expected {unit} since 1970, got {found}")
    return event_at


# Quantities ----------------------------------------------------------------------------------------------------------


def _typed(record: Record, path: Path, name: str, field: DataField) -> Any:
    """Return the value of one declared field: a ``Decimal``, a text, or ``None`` where an optional one is absent."""
    value = _at(record, path)
    if value is _MISSING or value is None or value == "":
        if not field.required:
            return None
        raise _missing(name, (path,), value)
    if field.type == "text":
        if type(value) is not str:
            raise RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: expected a string, got {shown(value)}")
        return value
    if isinstance(value, str):
        number = parse_decimal(value)
    elif isinstance(value, Decimal):
        number = value
    else:
        raise RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: expected a decimal, got {shown(value)}")
    if number is None or not (_SHORT_INTEGER.fullmatch(str(number)) or fits(number, 38, QUANTITY_SCALE)):
        text = value if isinstance(value, str) else str(value)
        raise RejectedError(
            _reason_of_no_quantity(text, number),
            f"{name}: expected a finite decimal of at most 29 digits before and 9 after the point, got {shown(text)}",
        )
    if field.minimum is not None and number < field.minimum:
        raise RejectedError(
            QuarantineReason.BELOW_MINIMUM, f"{name}: expected at least {field.minimum}, got {plain_text(number)}"
        )
    if field.maximum is not None and number > field.maximum:
        raise RejectedError(
            QuarantineReason.ABOVE_MAXIMUM, f"{name}: expected at most {field.maximum}, got {plain_text(number)}"
        )
    return number


def _reason_of_no_quantity(text: str, number: Decimal | None) -> QuarantineReason:
    if (number is not None and not number.is_finite()) or _NO_NUMBER.fullmatch(text):
        return QuarantineReason.NOT_A_NUMBER
    if number is not None or _LARGE_EXPONENT.fullmatch(text):
        return QuarantineReason.NUMBER_TOO_LARGE
    return QuarantineReason.INVALID_QUANTITY


# Known and unknown fields --------------------------------------------------------------------------------------------

Known = dict[str, Any]  # name -> Known below it, or None where everything below is known


def known_json_fields(contract: SourceContract) -> Known:
    event = contract.event
    known: Known = dict.fromkeys(CLOUD_EVENT_ATTRIBUTES) if event.data_object == CLOUD_EVENT_DATA else {}
    if event.data:
        _add_known(known, event.data_object, {})
    else:
        _add_known(known, event.data_object, None)
    for field in sorted(mapped_fields(contract)):
        _add_known(known, field, None)
    return known


def _add_known(known: Known, field: str, below_field: Known | None) -> None:
    *parents, leaf = field.split(".")
    below: Known | None = known
    for parent in parents:
        if below is not None:
            below = below.setdefault(parent, {})
    if below is not None and (leaf not in below or (below_field is not None and below[leaf] is None)):
        below[leaf] = below_field


def unknown_json_fields(record: Record, known: Known, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not record.keys() <= known.keys():
        for name in sorted(record.keys() - known.keys()):
            yield prefix + name, record[name]
    for name, below in known.items():
        if below is not None and isinstance(record.get(name), dict):
            yield from unknown_json_fields(record[name], below, f"{prefix}{name}.")


# Rows of Parquet -----------------------------------------------------------------------------------------------------


def _json_value(value: Any, column: str) -> Any:
    """Return a decoded value as the JSON value it stands for; a null inside an object is left out, as if absent."""
    match value:
        case None | bool() | str():
            return value
        case Decimal():
            if not value.is_finite():
                raise RejectedError(QuarantineReason.NOT_A_NUMBER, f"{column}: {value} is no number")
            return value
        case int():
            return Decimal(value)
        case datetime():
            return (
                value.isoformat()
                if value.tzinfo is None
                else value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
            )
        case date() | time():
            return value.isoformat()
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise RejectedError(
                    QuarantineReason.INVALID_ENCODING, f"{column}: byte {error.start + 1} is not UTF-8"
                ) from None
        case Mapping():
            return {name: _json_value(item, f"{column}.{name}") for name, item in value.items() if item is not None}
        case list() | tuple():
            return [_json_value(item, column) for item in value]
    raise RejectedError(
        QuarantineReason.WRONG_TYPE, f"{column}: expected an exact value, got {type(value).__name__} {value}"
    )


# Parsers -------------------------------------------------------------------------------------------------------------


class RecordParser:
    """Reads the records of one object under its contract. Made by ``parser_for``; holds no state between records."""

    def __init__(
        self,
        contract: SourceContract,
        object_id: str,
        key: str,
        received_at: datetime,
        columns: tuple[str, ...],
    ) -> None:
        event = contract.event
        self._is_csv = contract.format is FileFormat.CSV
        self.contract = contract
        self.columns = columns
        self._json = JsonReader(
            contract.limits.json_depth_max, contract.limits.columns_max, is_line=contract.format is FileFormat.NDJSON
        )

        def to_path(field: str) -> Path:
            return (field,) if self._is_csv else tuple(field.split("."))

        self._getters = {
            name: _text_getter(name, origin, to_path, contract, object_id, key)
            for name, origin in zip(TEXT_FIELDS, event.origins, strict=True)
        }
        self._source, self._id, self._type, self._subject = self._getters.values()
        self._time: TimeOrigin = event.time
        self._time_paths = tuple(to_path(field) for field in event.time.columns)
        self._event_at_max = received_at + contract.limits.future_max if contract.received == "last_modified" else None
        self._event_types = frozenset(contract.event_types)
        self._quantity = event.quantity
        self._quantity_path = to_path(event.quantity.field) if event.quantity is not None else ()
        self._data = tuple((name, to_path(field.field), field) for name, field in event.data.items())
        self._data_path = tuple(event.data_object.split("."))
        self._schemas = contract.schema_documents
        self._known = {} if self._is_csv else known_json_fields(contract)
        self._known_columns = mapped_fields(contract) if self._is_csv else frozenset()
        self.needs_record_number = any(origin.derive == "offset" for origin in event.origins)

    def parse(self, line_number: int, line: bytes | LongLine, record_number: int | None = None) -> RawEvent | Rejection:
        """Return the event of a line, or the first reason why it is none.

        ``record_number`` counts the records of the object from 1, without blank lines, comments and the header; it
        is needed where ``needs_record_number`` says so, and ``ValueError`` is raised without it.
        """
        position = self._position(line_number, record_number)
        if isinstance(line, LongLine):
            return too_long(line, self.contract.limits.line_bytes_max)
        try:
            record = self._parse_csv_line(line) if self._is_csv else self._json.read(line)
            return self._event(record, position)
        except RejectedError as error:
            return error.rejection
        except UnicodeEncodeError:
            return Rejection(QuarantineReason.INVALID_ENCODING, "a text holds half of a UTF-16 surrogate pair")

    def parse_record(self, line_number: int, record: Record, record_number: int | None = None) -> RawEvent | Rejection:
        """Return the event of a row that is decoded already, or the first reason why it is none.

        Values are ``str``, ``int``, ``Decimal``, ``bool``, ``None``, ``datetime``, ``date``, ``time``, UTF-8 ``bytes``
        and mappings and lists of these. A null is the same as a field that is absent; a float is refused.
        """
        position = self._position(line_number, record_number)
        try:
            row = {name: _json_value(value, name) for name, value in record.items() if value is not None}
            self._json.check(row)
            return self._event(row, position)
        except RejectedError as error:
            return error.rejection
        except UnicodeEncodeError:
            return Rejection(QuarantineReason.INVALID_ENCODING, "a text holds half of a UTF-16 surrogate pair")

    def derived_text(self, name: str, line_number: int, record_number: int) -> str:
        """Return a canonical text that no field of the record holds: a constant, a part of the key, or its position."""
        return self._getters[name]({}, Position(line_number, record_number))

    def _position(self, line_number: int, record_number: int | None) -> Position:
        if record_number is None:
            if self.needs_record_number:
                raise ValueError('derive = "offset" needs the number of the record in its object')
            record_number = line_number
        return Position(line_number, record_number)

    def _event(self, record: dict[str, Any], position: Position) -> RawEvent:
        event = RawEvent(
            source=self._source(record, position),
            id=self._id(record, position),
            type=self._type(record, position),
            subject=self._subject(record, position),
            event_at=_event_time(record, self._time_paths, self._time),
            quantity=self._quantity_of(record),
            data=encode_json(self._entries(record)),
        )
        if self._event_types and event.type not in self._event_types:
            raise RejectedError(
                QuarantineReason.UNKNOWN_EVENT_TYPE,
                f"type: expected one of {', '.join(sorted(self._event_types))}, got {shown(event.type)}",
            )
        if self._event_at_max is not None and event.event_at > self._event_at_max:
            raise RejectedError(
                QuarantineReason.TIME_IN_THE_FUTURE,
                f"time: expected at most {self._event_at_max.isoformat()}, got {event.event_at.isoformat()}",
            )
        if event.type in self._schemas:
            # Here, because few contracts have a schema, and what checks them takes a tenth of a second to start.
            from pipeline.core.json_schema import check_schema

            data = _at(record, self._data_path)
            check_schema(self._schemas[event.type], {} if data is _MISSING else data, self.contract.event.data_object)
        for text in (event.source, event.id, event.type, event.subject, event.data):
            if not text.isascii():
                text.encode()
        return event

    def _quantity_of(self, record: dict[str, Any]) -> Decimal | None:
        if self._quantity is None:
            return None
        number: Decimal | None = _typed(record, self._quantity_path, "quantity", self._quantity)
        # In plain digits: 0E+50 and 1.0000000000 have more digits than the column, although their values fit it.
        return None if number is None else Decimal(plain_text(number))

    def _entries(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the event's ``data``: the declared fields, or all of it where none is declared, and what is kept."""
        entries: dict[str, Any] = {}
        if not self._is_csv:
            self._check_envelope(record)
        if self._data:
            for name, path, field in self._data:
                value = _typed(record, path, name, field)
                if value is not None:
                    entries[name] = value
        elif not self._is_csv:
            data = _at(record, self._data_path)
            entries = {} if data is _MISSING else dict(data)
        if self.contract.unknown_fields != "ignore":
            unknown = list(self._unknown(record))
            if unknown and self.contract.unknown_fields == "quarantine":
                raise unknown_fields_error([name for name, _ in unknown])
            self._keep(entries, unknown)
        return entries

    def _check_envelope(self, record: dict[str, Any]) -> None:
        found: Any = record
        for depth, name in enumerate(self._data_path, start=1):
            found = found.get(name, _MISSING)
            if found is _MISSING:
                break
            if not isinstance(found, dict):
                field = ".".join(self._data_path[:depth])
                raise RejectedError(QuarantineReason.WRONG_TYPE, f"{field}: expected an object, got {shown(found)}")
        is_cloud_event = self.contract.event.data_object == CLOUD_EVENT_DATA
        if is_cloud_event and record.get("specversion", "1.0") != "1.0":
            raise RejectedError(
                QuarantineReason.WRONG_TYPE, f"specversion: expected '1.0', got {shown(record['specversion'])}"
            )

    def _keep(self, entries: dict[str, Any], unknown: Iterable[tuple[str, Any]]) -> None:
        """Put unknown fields inside ``data`` under their names; one that would hide another value is refused."""
        for name, value in unknown:
            short_name = name.removeprefix(f"{self.contract.event.data_object}.")
            if short_name in entries:
                raise RejectedError(
                    QuarantineReason.UNKNOWN_FIELD,
                    f"{shown(name)} cannot be kept, data already has {shown(short_name)}",
                )
            entries[short_name] = value

    def _unknown(self, record: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        if self._is_csv:
            return ((name, record[name]) for name in self.columns if name in record and name not in self._known_columns)
        return unknown_json_fields(record, self._known)

    def _parse_csv_line(self, line: bytes) -> dict[str, Any]:
        values = csv_values(line, self.contract)
        if len(values) != len(self.columns):
            raise RejectedError(
                QuarantineReason.MALFORMED_LINE,
                f"expected {len(self.columns):,} columns, got {len(values):,} "
                f"(the delimiter is {self.contract.delimiter!r})",
            )
        null_text = self.contract.null_text
        return {name: value for name, value in zip(self.columns, values, strict=True) if value and value != null_text}


def parser_for(
    contract: SourceContract, object_id: str, key: str, received_at: datetime, header: bytes | None
) -> RecordParser | Rejection:
    """Return the parser of one object, or why none of its records can be read (its header, its key).

    ``header`` is the line that names the columns of a CSV object, as ``read_header`` returns it; any other has none.
    """
    try:
        columns = column_names(contract, header) if contract.format is FileFormat.CSV else ()
        return RecordParser(contract, object_id, key, received_at, columns)
    except RejectedError as error:
        return error.rejection


# Header and comments of CSV ------------------------------------------------------------------------------------------


def is_comment(contract: SourceContract, line: bytes | LongLine) -> bool:
    """Tell whether a line of an object is a comment of its contract, which is no record."""
    start = _start_of(line)
    return contract.comment is not None and start.startswith(contract.comment.encode())


def read_header(
    contract: SourceContract, lines: Iterable[tuple[int, bytes | LongLine]]
) -> tuple[int, bytes | None] | Rejection:
    """Return the number and the bytes of the line that names the columns, or why the object has no such line.

    ``lines`` are the lines of the object that are not blank, from the first on; no more of them are taken than needed.
    The records are the lines after that number which are no comments. ``(0, None)`` where no line names columns.
    """
    if contract.format is not FileFormat.CSV or contract.header == "columns":
        return 0, None
    is_in_comment = contract.header == "fields_comment"
    for line_number, line in lines:
        is_header = not is_comment(contract, line) if not is_in_comment else _is_fields_line(contract, line)
        if is_header and isinstance(line, LongLine):
            message = over_limit(
                f"the header has {line.byte_count:,} bytes", contract.limits.line_bytes_max, "line_bytes_max"
            )
            return Rejection(QuarantineReason.WRONG_HEADER, message)
        if is_header and isinstance(line, bytes):
            return line_number, line
        if not is_comment(contract, line):
            return Rejection(
                QuarantineReason.WRONG_HEADER,
                f"line {line_number}: expected {contract.comment}Fields: before records, "
                f"got {shown(_start_of(line).decode(errors='replace'))}",
            )
    expected = f"a line {contract.comment}Fields:" if is_in_comment else "a header line"
    return Rejection(QuarantineReason.WRONG_HEADER, f"expected {expected}, got comments only")


def comment_fault(
    contract: SourceContract, header: bytes | None, line_number: int, line: bytes | LongLine
) -> Rejection | None:
    """Return why no record of an object can be trusted although it has a header: a later comment names other columns.

    ``line`` is a comment behind the header. The values after a ``#Fields`` line of other columns would get wrong names.
    """
    if contract.header != "fields_comment" or line == header or not _is_fields_line(contract, line):
        return None
    return Rejection(
        QuarantineReason.WRONG_HEADER,
        f"line {line_number} names other columns than the header; expected one list of them",
    )


def _is_fields_line(contract: SourceContract, line: bytes | LongLine) -> bool:
    return is_fields_line(contract, _start_of(line))


def _start_of(line: bytes | LongLine) -> bytes:
    return line.head if isinstance(line, LongLine) else line
