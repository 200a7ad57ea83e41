"""Records: one line of an object becomes a raw event or a rejection with its reason, never both, never neither (P3).

A *line* is a physical line, also in CSV (a quoted field may not hold a line break), so that
``(object_id, line_number)`` names the same bytes for ever. Blank lines are not records. Reading is strict: JSON as in
RFC 8259 (no ``NaN``, no repeated key, no trailing comma), UTF-8 only, times with a zone, and every number
keeps the digits the producer wrote. A line that is not certainly right is rejected, never repaired.

What is wrong with a whole object (its header, its key) is found before its first line and rejects the object.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple

from pipeline.core.contract import DataField, EventMapping, FieldOrigin, FileFormat, SourceContract, TimeOrigin
from pipeline.core.decimals import fits, plain_text
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.money import QUANTITY_SCALE
from pipeline.core.reason import QuarantineReason

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CLOUD_EVENT_ATTRIBUTES = (
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
)
NESTING_MAX = 64
NUMBER_DIGITS_MAX = 100

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


class Rejection(NamedTuple):
    """Why a line, or a whole object, is quarantined; the message names the field, what was found, what is accepted."""

    reason: QuarantineReason
    message: str


class LongLine(NamedTuple):
    """A line longer than the limit: its first bytes, the length and SHA-256 of all of it."""

    head: bytes
    byte_count: int
    sha256: str


class _RejectedError(Exception):
    """Carries a rejection out of the depth of a record; never leaves this module."""

    def __init__(self, reason: QuarantineReason, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection(reason, message)


# Lines ---------------------------------------------------------------------------------------------------------------


def without_byte_order_mark(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes without a UTF-8 byte order mark at the start.

    >>> b"".join(without_byte_order_mark([b"\\xef", b"\\xbb\\xbf{", b"}"]))
    b'{}'
    """
    remaining = iter(chunks)
    head = b""
    for chunk in remaining:
        head += chunk
        if len(head) >= len(BYTE_ORDER_MARK):
            break
    yield head.removeprefix(BYTE_ORDER_MARK)
    yield from remaining


def split_lines(chunks: Iterable[bytes], line_bytes_max: int) -> Iterator[tuple[int, bytes | LongLine]]:
    """Yield each line that is not blank with its physical number, holding at most one line of the longest kind.

    >>> list(split_lines([b"a\\r\\n\\nb", b"c\\n"], 1024))
    [(1, b'a'), (3, b'bc')]
    """
    number = 0
    rest = b""
    long_line: _LongLineBuilder | None = None
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            yield from _measured(number, line, long_line, line_bytes_max)
            long_line = None
        if long_line is not None or len(rest) > line_bytes_max + 1:
            long_line = long_line or _LongLineBuilder(line_bytes_max)
            long_line.add(rest)
            rest = b""
    yield from _measured(number + 1, rest, long_line, line_bytes_max)


def _measured(
    number: int, line: bytes, long_line: _LongLineBuilder | None, line_bytes_max: int
) -> Iterator[tuple[int, bytes | LongLine]]:
    """Yield a line, whose beginning may be in ``long_line`` already, unless it is blank."""
    content = line.removesuffix(b"\r")
    if long_line is None and len(content) <= line_bytes_max:
        if content and not content.isspace():
            yield number, content
        return
    long_line = long_line or _LongLineBuilder(line_bytes_max)
    long_line.add(line)
    if not long_line.is_blank:
        yield number, long_line.finish()


class _LongLineBuilder:
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


def count_lines(chunks: Iterable[bytes]) -> int:
    """Return how many lines are not blank, counted apart from ``split_lines`` so that the two can be tied (P3).

    >>> count_lines([b"a\\r\\n \\nb", b"c"])
    2
    """
    count = 0
    is_line_counted = False
    for chunk in chunks:
        for index, piece in enumerate(chunk.split(b"\n")):
            if index:
                is_line_counted = False
            if not is_line_counted and piece.strip():
                is_line_counted = True
                count += 1
    return count


# Scalars -------------------------------------------------------------------------------------------------------------

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})([Tt ])((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
    r"(?:\.([0-9]{1,18}))?([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)


def parse_event_time(text: str, naive_zone: Literal["UTC"] | None = None) -> datetime | None:
    """Return the instant in UTC of an RFC 3339 time, digits beyond microseconds cut off; ``None`` if it is not one.

    A time without zone, or with a space for the ``T``, is read only where the contract declares the zone.

    >>> parse_event_time("2026-01-15T12:00:00.9999999+02:00").isoformat()
    '2026-01-15T10:00:00.999999+00:00'
    >>> parse_event_time("2026-01-15T12:00:00") is None
    True
    >>> parse_event_time("2023-11-16 18:17:03.9799600", "UTC").isoformat()
    '2023-11-16T18:17:03.979960+00:00'
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    date, separator, time, fraction, zone = match.groups()
    if (zone is None or separator == " ") and naive_zone is None:
        return None
    offset = "+00:00" if zone is None or zone in "Zz" else zone
    try:
        return datetime.fromisoformat(f"{date}T{time}.{(fraction or '0')[:6]:0<6}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_SHORT_INTEGER = re.compile(r"[0-9]{1,29}")  # fits without a closer look, and is what most quantities are
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")


def parse_decimal(text: str) -> Decimal | None:
    """Return the exact decimal a text writes, ``None`` if it writes none (``NaN``, `` 5``, ``1_000``, ``1,5``).

    >>> parse_decimal("1e-7"), parse_decimal("NaN"), parse_decimal("1_000")
    (Decimal('1E-7'), None, None)
    """
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def _number(text: str) -> Decimal:
    """Keep the digits of a JSON number; one that would not fit anywhere, written plainly, is refused."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("Infinity")
    if (
        not number.is_finite()
        or (number and abs(number.adjusted()) > NUMBER_DIGITS_MAX)
        or len(text) > NUMBER_DIGITS_MAX
    ):
        raise _RejectedError(
            QuarantineReason.INVALID_QUANTITY, f"a number has more than {NUMBER_DIGITS_MAX} digits, got {_shown(text)}"
        )
    return number


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else _JSON_WORDS.get(type(value), type(value).__name__)
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= 80 else text[:77] + "..."


_JSON_WORDS: dict[type, str] = {
    dict: "an object",
    list: "an array",
    bool: "a boolean",
    Decimal: "a number",
    type(None): "null",
}


# JSON ----------------------------------------------------------------------------------------------------------------


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _RejectedError(QuarantineReason.DUPLICATE_JSON_KEY, f"the key {_shown(repeated)} occurs twice")
    return entries


def _refuse_constant(name: str) -> Any:
    raise _RejectedError(QuarantineReason.MALFORMED_LINE, f"{name} is not JSON")


def _number_text(number: object) -> str:
    if not isinstance(number, Decimal):
        raise TypeError(f"a JSON value is never a {type(number).__name__}")
    return plain_text(number)


_decode_json = json.JSONDecoder(
    object_pairs_hook=_object_of, parse_float=_number, parse_int=_number, parse_constant=_refuse_constant
).decode
_encode_json = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_number_text
).encode


def _is_nested_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(NESTING_MAX):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return bool(level)


def _parse_json_object(line: bytes) -> dict[str, Any]:
    try:
        record = _decode_json(line.decode())
    except UnicodeDecodeError as error:
        raise _RejectedError(QuarantineReason.INVALID_ENCODING, f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError:
        hint = "" if line.rstrip().endswith(b"}") else "; it does not end with } and may be cut off"
        raise _RejectedError(QuarantineReason.MALFORMED_LINE, f"not one whole JSON object{hint}") from None
    except RecursionError:
        record = None
    if record is None or (line.count(b"{") + line.count(b"[") > NESTING_MAX and _is_nested_too_deep(record)):
        raise _RejectedError(QuarantineReason.MALFORMED_LINE, f"not a JSON object of at most {NESTING_MAX} levels")
    if not isinstance(record, dict):
        raise _RejectedError(QuarantineReason.MALFORMED_LINE, f"expected a JSON object, got {_shown(record)}")
    return record


# Fields --------------------------------------------------------------------------------------------------------------

_MISSING: Any = object()
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")


def _at(record: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(record, dict):
            return _MISSING
        record = record.get(name, _MISSING)
    return record


def _required(record: Record, path: Path, name: str) -> Any:
    value = _at(record, path)
    if value is _MISSING or value is None:
        found = "" if value is _MISSING else ", got null"
        raise _RejectedError(QuarantineReason.MISSING_FIELD, f"{name}: {'.'.join(path)} is required{found}")
    return value


def _text(value: Any, name: str) -> str:
    """Return a text as CloudEvents defines it: a string that is not empty and holds no control character."""
    if type(value) is not str:
        raise _RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: expected a string, got {_shown(value)}")
    if not value:
        raise _RejectedError(QuarantineReason.MISSING_FIELD, f"{name}: is empty")
    if not value.isprintable() and _CONTROL_CHARACTER.search(value):
        raise _RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: holds a control character, got {_shown(value)}")
    return value


def _hash_of(record: Record, paths: tuple[Path, ...], name: str) -> str:
    values = [_required(record, path, name) for path in paths]
    return sha256_hex(
        canonical_json([_number_text(value) if isinstance(value, Decimal) else value for value in values])
    )


Getter = Callable[[Record, int], str]


def _text_getter(name: str, origin: FieldOrigin, to_path: Callable[[str], Path], object_id: str, key: str) -> Getter:
    """Return how one canonical field is taken from a record; what depends on the object alone is decided here."""
    if origin.field is not None:
        return _field_getter(name, to_path(origin.field))
    if origin.derive == "hash":
        paths = tuple(to_path(field) for field in origin.of)
        return lambda record, line_number: _hash_of(record, paths, name)
    if origin.derive == "object_and_line":
        return lambda record, line_number: f"{object_id}:{line_number}"
    if origin.constant is not None:
        constant = _text(origin.constant, name)
        return lambda record, line_number: constant
    pattern = origin.object_key or ""
    match = re.search(pattern, key)
    if match is None or not match[1]:
        raise _RejectedError(
            QuarantineReason.MISSING_FIELD, f"{name}: the object's key {_shown(key)} does not match {pattern!r}"
        )
    part = _text(match[1], name)
    return lambda record, line_number: part


def _field_getter(name: str, path: Path) -> Getter:
    leaf = path[0] if len(path) == 1 else None

    def text_of(record: Record, line_number: int) -> str:
        # Called four times a line: most values need one look, the others take the road with the messages.
        value = record.get(leaf) if leaf is not None else None
        if type(value) is str and value and value.isprintable():
            return value
        return _text(_required(record, path, name), name)

    return text_of


def _event_time(record: Record, path: Path, naive_zone: Literal["UTC"] | None) -> datetime:
    value = _required(record, path, "time")
    if type(value) is not str:
        raise _RejectedError(QuarantineReason.WRONG_TYPE, f"time: expected a string, got {_shown(value)}")
    event_at = parse_event_time(value, naive_zone)
    if event_at is None:
        raise _RejectedError(
            QuarantineReason.INVALID_TIME,
            f"time: expected a time with its zone such as 2026-01-15T12:00:00Z, got {_shown(value)}",
        )
    return event_at


def _typed(record: Record, path: Path, name: str, field: DataField) -> Any:
    """Return the value of one declared field: a ``Decimal``, a text, or ``None`` where an optional one is absent."""
    value = _at(record, path)
    if value is _MISSING or value is None or value == "":
        if not field.required:
            return None
        found = {"": ", got an empty text"}.get(value, ", got null") if value is not _MISSING else ""
        raise _RejectedError(QuarantineReason.MISSING_FIELD, f"{name}: {'.'.join(path)} is required{found}")
    if field.type == "text":
        if type(value) is not str:
            raise _RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: expected a string, got {_shown(value)}")
        return value
    if isinstance(value, str):
        number = parse_decimal(value)
    elif isinstance(value, Decimal):
        number = value
    else:
        raise _RejectedError(QuarantineReason.WRONG_TYPE, f"{name}: expected a decimal, got {_shown(value)}")
    if number is None or not (_SHORT_INTEGER.fullmatch(str(number)) or fits(number, 38, QUANTITY_SCALE)):
        raise _RejectedError(
            QuarantineReason.INVALID_QUANTITY,
            f"{name}: expected a finite decimal of at most 29 digits before and 9 after the point, "
            f"got {_shown(value if isinstance(value, str) else str(value))}",
        )
    if field.minimum is not None and number < field.minimum:
        raise _RejectedError(
            QuarantineReason.INVALID_QUANTITY, f"{name}: expected at least {field.minimum}, got {plain_text(number)}"
        )
    if field.maximum is not None and number > field.maximum:
        raise _RejectedError(
            QuarantineReason.INVALID_QUANTITY, f"{name}: expected at most {field.maximum}, got {plain_text(number)}"
        )
    return number


# Known and unknown fields --------------------------------------------------------------------------------------------

Known = dict[str, Any]  # name -> Known below it, or None where everything below is known


def _mapped_fields(event: EventMapping) -> Iterator[str]:
    for origin in (event.source, event.id, event.type, event.subject):
        if origin.field is not None:
            yield origin.field
        yield from origin.of
    yield event.time.field
    if event.quantity is not None:
        yield event.quantity.field
    for field in event.data.values():
        yield field.field


def _known_json_fields(event: EventMapping) -> Known:
    known: Known = dict.fromkeys(CLOUD_EVENT_ATTRIBUTES)
    if event.data:
        known["data"] = {}
    for field in _mapped_fields(event):
        *parents, leaf = field.split(".")
        below: Known | None = known
        for parent in parents:
            if below is not None:
                below = below.setdefault(parent, {})
        if below is not None:
            below.setdefault(leaf, None)
    return known


def _unknown_json_fields(record: Record, known: Known, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not record.keys() <= known.keys():
        for name in sorted(record.keys() - known.keys()):
            yield prefix + name, record[name]
    for name, below in known.items():
        if below is not None and isinstance(record.get(name), dict):
            yield from _unknown_json_fields(record[name], below, f"{prefix}{name}.")


def _unknown_rejection(names: Iterable[str]) -> _RejectedError:
    shown = ", ".join(_shown(name) for name in list(names)[:5])
    return _RejectedError(QuarantineReason.UNKNOWN_FIELD, f"not in the contract: {shown}")


def _keep(entries: dict[str, Any], unknown: Iterable[tuple[str, Any]]) -> None:
    """Put unknown fields inside ``data`` under their names; one that would hide another value is refused."""
    for name, value in unknown:
        short_name = name.removeprefix("data.")
        if short_name in entries:
            raise _RejectedError(
                QuarantineReason.UNKNOWN_FIELD, f"{_shown(name)} cannot be kept, data already has {_shown(short_name)}"
            )
        entries[short_name] = value


# Parsers -------------------------------------------------------------------------------------------------------------


class RecordParser:
    """Reads the lines of one object under its contract. Made by ``parser_for``; holds no state between lines."""

    def __init__(self, contract: SourceContract, object_id: str, key: str, columns: tuple[str, ...]) -> None:
        event = contract.event
        is_csv = contract.format is FileFormat.CSV
        self._contract = contract
        self._columns = columns

        def to_path(field: str) -> Path:
            return (field,) if is_csv else tuple(field.split("."))

        self._source, self._id, self._type, self._subject = (
            _text_getter(name, origin, to_path, object_id, key)
            for name, origin in (
                ("source", event.source),
                ("id", event.id),
                ("type", event.type),
                ("subject", event.subject),
            )
        )
        self._time: TimeOrigin = event.time
        self._time_path = to_path(event.time.field)
        self._event_types = frozenset(contract.event_types)
        self._quantity = event.quantity
        self._quantity_path = to_path(event.quantity.field) if event.quantity is not None else ()
        self._data = tuple((name, to_path(field.field), field) for name, field in event.data.items())
        self._known = {} if is_csv else _known_json_fields(event)
        self._known_columns = frozenset(_mapped_fields(event))

    def parse(self, line_number: int, line: bytes | LongLine) -> RawEvent | Rejection:
        """Return the event of a line, or the first reason why it is none."""
        if isinstance(line, LongLine):
            return Rejection(
                QuarantineReason.LINE_TOO_LONG,
                f"{line.byte_count} bytes, accepted {self._contract.limits.line_bytes_max}",
            )
        try:
            record = self._parse_csv_line(line) if self._columns else _parse_json_object(line)
            return self._event(record, line_number)
        except _RejectedError as error:
            return error.rejection
        except UnicodeEncodeError:
            return Rejection(QuarantineReason.INVALID_ENCODING, "a text holds half of a UTF-16 surrogate pair")

    def _event(self, record: dict[str, Any], line_number: int) -> RawEvent:
        event = RawEvent(
            source=self._source(record, line_number),
            id=self._id(record, line_number),
            type=self._type(record, line_number),
            subject=self._subject(record, line_number),
            event_at=_event_time(record, self._time_path, self._time.time_zone),
            quantity=self._quantity_of(record),
            data=_encode_json(self._entries(record)),
        )
        if self._event_types and event.type not in self._event_types:
            raise _RejectedError(
                QuarantineReason.UNKNOWN_EVENT_TYPE,
                f"type: expected one of {', '.join(sorted(self._event_types))}, got {_shown(event.type)}",
            )
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
        if not self._columns:
            _check_envelope(record)
        if self._data:
            for name, path, field in self._data:
                value = _typed(record, path, name, field)
                if value is not None:
                    entries[name] = value
        elif not self._columns:
            entries = dict(record.get("data", {}))
        if self._contract.unknown_fields != "ignore":
            unknown = list(self._unknown(record))
            if unknown and self._contract.unknown_fields == "quarantine":
                raise _unknown_rejection(name for name, _ in unknown)
            _keep(entries, unknown)
        return entries

    def _unknown(self, record: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        if self._columns:
            return (
                (name, record[name]) for name in self._columns if name in record and name not in self._known_columns
            )
        return _unknown_json_fields(record, self._known)

    def _parse_csv_line(self, line: bytes) -> dict[str, Any]:
        values = _csv_values(line, self._contract.delimiter)
        if len(values) != len(self._columns):
            raise _RejectedError(
                QuarantineReason.MALFORMED_LINE, f"expected {len(self._columns)} columns, got {len(values)}"
            )
        return {name: value for name, value in zip(self._columns, values, strict=True) if value}


def _check_envelope(record: dict[str, Any]) -> None:
    data = record.get("data", _MISSING)
    if data is not _MISSING and not isinstance(data, dict):
        raise _RejectedError(QuarantineReason.WRONG_TYPE, f"data: expected an object, got {_shown(data)}")
    if record.get("specversion", "1.0") != "1.0":
        raise _RejectedError(
            QuarantineReason.WRONG_TYPE, f"specversion: expected '1.0', got {_shown(record['specversion'])}"
        )


def _csv_values(line: bytes, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line.decode()], delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise _RejectedError(QuarantineReason.INVALID_ENCODING, f"byte {error.start + 1} is not UTF-8") from None
    except (csv.Error, StopIteration):
        raise _RejectedError(
            QuarantineReason.MALFORMED_LINE, "not one CSV record: a quote is not closed, or stands inside a value"
        ) from None


def parser_for(contract: SourceContract, object_id: str, key: str, header: bytes | None) -> RecordParser | Rejection:
    """Return the parser of one object, or why none of its lines can be read (its header, its key).

    ``header`` is the first line of a CSV object, without its line end; an NDJSON object has none.
    """
    try:
        columns = () if header is None else _checked_columns(contract, header)
        return RecordParser(contract, object_id, key, columns)
    except _RejectedError as error:
        return error.rejection


def _checked_columns(contract: SourceContract, header: bytes) -> tuple[str, ...]:
    columns = tuple(_csv_values(header, contract.delimiter))
    needed = {field for field in _mapped_fields(contract.event) if not _is_optional(contract.event, field)}
    problems = [f"lacks {_shown(name)}" for name in sorted(needed - set(columns))]
    problems += [f"has {_shown(name)} twice" for name in sorted(set(columns)) if columns.count(name) > 1]
    if problems:
        raise _RejectedError(QuarantineReason.WRONG_HEADER, f"the header {', '.join(problems[:5])}")
    unknown = [name for name in columns if name not in set(_mapped_fields(contract.event))]
    if unknown and contract.unknown_fields == "quarantine":
        raise _unknown_rejection(unknown)
    return columns


def _is_optional(event: EventMapping, field: str) -> bool:
    """Tell whether a column is read by optional fields only."""
    fields = [*event.data.values(), *([event.quantity] if event.quantity is not None else [])]
    readers = [declared.required for declared in fields if declared.field == field]
    texts = {origin.field for origin in (event.source, event.id, event.type, event.subject)}
    hashed = {name for origin in (event.source, event.id, event.type, event.subject) for name in origin.of}
    return bool(readers) and not any(readers) and field not in texts | hashed | {event.time.field}
