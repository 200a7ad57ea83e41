"""Line templates: the shape that most lines of a feed share, so that a block of them can be read at once.

A program that writes usage writes the same bytes again and again, with other values in between. A *template* is learned
from one line that the strict parser accepted: its *constants* (keys, punctuation, spaces) and, between them, its
*variables* (the texts and numbers). A line of the same constants whose values hold nothing special has the same
structure, so the strict parser would read it in the same way; that is the whole argument for the fast road, and it
needs no second JSON parser. Whatever does not fit a template goes to the strict parser.

In JSON a text ends at its quote and a number behind its last digit. In CSV a value ends at the delimiter, and its
place among the columns is its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from pipeline.core.contract import DataField, FieldOrigin, SourceContract
from pipeline.core.csv_text import mapped_fields
from pipeline.core.decimals import plain_text
from pipeline.core.record import known_json_fields, unknown_json_fields


class Use(NamedTuple):
    """One use of a variable: its text as it stands, or the plain digits of the number it writes."""

    variable: int
    is_number: bool


Segment = str | Use


class NumberRule(NamedTuple):
    """A number that the event needs, and its limits."""

    variable: int
    minimum: Decimal | None
    maximum: Decimal | None


@dataclass(frozen=True, slots=True)
class LineTemplate:
    """A shape of lines, and what the values of such a line become.

    ``are_numbers`` tells of each variable whether it is written without quotes, so that it must be a JSON number.
    ``constants`` has one entry more: what stands before, between and after them; none where nothing but delimiters
    stands there (CSV). A text of ``texts`` is the variable of a field origin, by name of the canonical
    field; an origin that is no field of the record has no entry. ``hashed`` are the variables of a ``derive = "hash"``.
    ``time`` is the variable of the date and that of the clock time, one and the same where one text holds both.
    ``time_digits`` is how many digits make microseconds of a number of ``time``, 0 for a written time.
    ``filled`` variables are texts of JSON that must not be empty; an empty number is none, an empty column absent.
    """

    are_numbers: tuple[bool, ...]
    constants: tuple[bytes, ...]
    texts: Mapping[str, int]
    hashed: Mapping[str, tuple[Use, ...]]
    time: tuple[int, int]
    time_digits: int
    is_naive_time: bool
    quantity: int | None
    numbers: tuple[NumberRule, ...]
    data: tuple[Segment, ...]
    filled: frozenset[int]


class _NoTemplateError(Exception):
    """A line that only the strict parser can read."""


# The record of a line, with variables for values ---------------------------------------------------------------------


class _Text(NamedTuple):
    variable: int


class _Number(NamedTuple):
    variable: int


class _Fixed(NamedTuple):
    """``true``, ``false``, ``null`` or a number that cannot vary, as canonical JSON."""

    json: str


_Node = _Text | _Number | _Fixed | list["_Node"] | dict[str, "_Node"]

_TOKEN = re.compile(
    rb'[ \t\r]*(?:"(?P<text>[^"\\\x00-\x1f]*)"|(?P<number>-?[0-9][-+.0-9eE]*)'
    rb"|(?P<word>true|false|null)|(?P<mark>[{}\[\],:]))"
)
_TOKENS_MAX = 1_024  # beyond it, looking at each value of all lines at once takes longer than reading line by line
_CONSTANT_ATTRIBUTES = ("specversion",)  # the parser asks for their value


class _Record:
    """The tree of one JSON line that is known to be valid and without a backslash."""

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._tokens = list(_TOKEN.finditer(line))
        if len(self._tokens) > _TOKENS_MAX:
            raise _NoTemplateError
        self._next = 0
        self.are_numbers: list[bool] = []
        self.spans: list[tuple[int, int]] = []
        self.root = self._value(is_fixed=False)

    def _take(self) -> re.Match[bytes]:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _value(self, *, is_fixed: bool) -> _Node:
        token = self._take()
        if token["text"] is not None:
            return self._text(token, is_fixed=is_fixed)
        if token["number"] is not None:
            return self._number(token)
        if token["word"] is not None:
            return _Fixed(token["word"].decode())
        if token["mark"] == b"{":
            return self._object()
        if token["mark"] == b"[":
            return self._array()
        raise _NoTemplateError

    def _text(self, token: re.Match[bytes], *, is_fixed: bool) -> _Node:
        if is_fixed:
            return _Fixed('"' + token["text"].decode() + '"')
        return _Text(self._variable(token.span("text"), is_number=False))

    def _number(self, token: re.Match[bytes]) -> _Node:
        if b"e" in token["number"].lower():
            return _Fixed('"' + plain_text(Decimal(token["number"].decode())) + '"')
        return _Number(self._variable(token.span("number"), is_number=True))

    def _variable(self, span: tuple[int, int], *, is_number: bool) -> int:
        self.are_numbers.append(is_number)
        self.spans.append(span)
        return len(self.spans) - 1

    def _object(self) -> _Node:
        entries: dict[str, _Node] = {}
        token = self._take()
        while token["mark"] != b"}":
            if token["mark"] == b",":
                token = self._take()
            name = token["text"].decode()
            self._take()
            entries[name] = self._value(is_fixed=name in _CONSTANT_ATTRIBUTES)
            token = self._take()
        return entries

    def _array(self) -> _Node:
        items: list[_Node] = []
        if self._tokens[self._next]["mark"] == b"]":
            self._take()
            return items
        while True:
            items.append(self._value(is_fixed=False))
            if self._take()["mark"] == b"]":
                return items

    def constants(self) -> tuple[bytes, ...]:
        edges = [0, *(edge for span in self.spans for edge in span), len(self._line)]
        return tuple(self._line[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


# What the values become ----------------------------------------------------------------------------------------------


class _Plan:
    """Follows the contract through the tree of a line, as the strict parser does through the record."""

    def __init__(self, contract: SourceContract, record: Mapping[str, _Node], is_csv: bool) -> None:
        self._contract = contract
        self._record = record
        self._is_csv = is_csv
        self.filled: set[int] = set()
        self.numbers: dict[int, NumberRule] = {}

    def _at(self, field: str) -> _Node | None:
        node: _Node | None = dict(self._record)
        for name in (field,) if self._is_csv else field.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return None if isinstance(node, _Fixed) and node.json == "null" else node

    def _text_at(self, field: str) -> int:
        node = self._at(field)
        if not isinstance(node, _Text):
            raise _NoTemplateError
        self.filled.add(node.variable)
        return node.variable

    def text(self, origin: FieldOrigin) -> int | None:
        """Return the variable of an origin, None where it is not a field of the record."""
        if origin.first_of:
            present = [field for field in origin.first_of if self._at(field) is not None]
            if not present:
                raise _NoTemplateError
            return self._text_at(present[0])
        return None if origin.field is None else self._text_at(origin.field)

    def hashed(self, origin: FieldOrigin) -> tuple[Use, ...]:
        uses = []
        for field in origin.of:
            node = self._at(field)
            if isinstance(node, _Number):
                self._number(node.variable)
                uses.append(Use(node.variable, is_number=True))
            elif isinstance(node, _Text):
                uses.append(Use(node.variable, is_number=False))
            else:
                raise _NoTemplateError
        return tuple(uses)

    def time(self) -> tuple[int, int]:
        time = self._contract.event.time
        if time.fields is not None:
            if len(time.fields) > 2:
                raise _NoTemplateError
            date, clock = (self._text_at(field) for field in time.fields)
            if date == clock:
                raise _NoTemplateError
            return date, clock
        if time.format == "rfc3339":
            return (self._text_at(time.field),) * 2
        node = self._at(time.field)
        if not isinstance(node, _Text | _Number):
            raise _NoTemplateError
        self._number(node.variable)
        return node.variable, node.variable

    def quantity(self) -> int | None:
        field = self._contract.event.quantity
        if field is None:
            return None
        use = self._declared(field)
        if use is not None and not use.is_number:
            raise _NoTemplateError
        return None if use is None else use.variable

    def _number(self, variable: int, field: DataField | None = None) -> None:
        """Note that a value is a number. One that is used twice has to keep the limits of both."""
        limits = [self.numbers.get(variable), field]
        minima = [limit.minimum for limit in limits if limit is not None and limit.minimum is not None]
        maxima = [limit.maximum for limit in limits if limit is not None and limit.maximum is not None]
        self.numbers[variable] = NumberRule(variable, max(minima, default=None), min(maxima, default=None))

    def _declared(self, field: DataField) -> Use | None:
        node = self._at(field.field)
        if node is None:
            if field.required:
                raise _NoTemplateError
            return None
        if isinstance(node, _Text):
            if field.type == "text":
                self.filled.add(node.variable)
                return Use(node.variable, is_number=False)
            self._number(node.variable, field)
            return Use(node.variable, is_number=True)
        if isinstance(node, _Number) and field.type == "decimal":
            self._number(node.variable, field)
            return Use(node.variable, is_number=True)
        raise _NoTemplateError

    def data(self) -> tuple[Segment, ...]:
        """Return the event's ``data`` as canonical JSON, its texts and uses of variables in order."""
        event = self._contract.event
        entries: dict[str, list[Segment]] = {}
        if event.data:
            for name, field in event.data.items():
                use = self._declared(field)
                if use is not None:
                    entries[name] = [*_quoted(use)]
        elif not self._is_csv:
            node = self._at(event.data_object)
            if node is not None and not isinstance(node, dict):
                raise _NoTemplateError
            entries = {name: list(self._json(below)) for name, below in (node or {}).items()}
        if self._contract.unknown_fields == "keep":
            self._keep(entries)
        return _joined(_object(entries))

    def _keep(self, entries: dict[str, list[Segment]]) -> None:
        """Put unknown fields beside the others, under the names that the strict parser gives them."""
        unknown: Iterable[tuple[str, _Node]]
        if self._is_csv:
            mapped = mapped_fields(self._contract)
            unknown = [(name, node) for name, node in self._record.items() if name not in mapped]
        else:
            unknown = unknown_json_fields(self._record, known_json_fields(self._contract))
        for name, node in unknown:
            short_name = name.removeprefix(f"{self._contract.event.data_object}.")
            if short_name in entries:
                raise _NoTemplateError
            entries[short_name] = list(self._json(node))

    def _json(self, node: _Node) -> Iterator[Segment]:
        if isinstance(node, _Fixed):
            yield node.json
        elif isinstance(node, _Text):
            yield from _quoted(Use(node.variable, is_number=False))
        elif isinstance(node, _Number):
            self._number(node.variable)
            yield from _quoted(Use(node.variable, is_number=True))
        elif isinstance(node, dict):
            yield from _object({name: list(self._json(below)) for name, below in node.items()})
        else:
            yield "["
            for index, item in enumerate(node):
                yield "," if index else ""
                yield from self._json(item)
            yield "]"


def _quoted(use: Use) -> tuple[Segment, ...]:
    return '"', use, '"'


def _object(entries: Mapping[str, Sequence[Segment]]) -> Iterator[Segment]:
    yield "{"
    for index, name in enumerate(sorted(entries)):
        yield f"{',' if index else ''}{json.dumps(name, ensure_ascii=False)}:"
        yield from entries[name]
    yield "}"


def _joined(segments: Iterator[Segment]) -> tuple[Segment, ...]:
    joined: list[Segment] = []
    for segment in segments:
        if isinstance(segment, str) and joined and isinstance(joined[-1], str):
            joined[-1] += segment
        elif segment != "":
            joined.append(segment)
    return tuple(joined)


# Learning ------------------------------------------------------------------------------------------------------------


def json_template(contract: SourceContract, line: bytes) -> LineTemplate | None:
    """Return the shape of a JSON line that the strict parser accepted, None if its like must all go there."""
    if b"\\" in line or contract.schemas:
        return None
    try:
        record = _Record(line)
        if not isinstance(record.root, dict):
            return None
        plan = _Plan(contract, record.root, is_csv=False)
        return _template(plan, contract, record.are_numbers, record.constants())
    except _NoTemplateError:
        return None


def csv_template(contract: SourceContract, columns: Sequence[str], present: Sequence[bool]) -> LineTemplate | None:
    """Return the shape of the CSV lines in which exactly these columns are present."""
    record: dict[str, _Node] = {
        name: _Text(index) for index, (name, is_present) in enumerate(zip(columns, present, strict=True)) if is_present
    }
    try:
        return _template(_Plan(contract, record, is_csv=True), contract, [False] * len(columns), ())
    except _NoTemplateError:
        return None


def _template(
    plan: _Plan,
    contract: SourceContract,
    are_numbers: Sequence[bool],
    constants: tuple[bytes, ...],
) -> LineTemplate:
    event = contract.event
    origins = dict(zip(("source", "id", "type", "subject"), event.origins, strict=True))
    texts = {name: plan.text(origin) for name, origin in origins.items()}
    hashed = {name: plan.hashed(origin) for name, origin in origins.items() if origin.derive == "hash"}
    time, quantity, data = plan.time(), plan.quantity(), plan.data()
    for index, is_number in enumerate(are_numbers):
        if is_number and index not in plan.numbers:
            plan.numbers[index] = NumberRule(index, None, None)
    return LineTemplate(
        are_numbers=tuple(are_numbers),
        constants=constants,
        texts={name: variable for name, variable in texts.items() if variable is not None},
        hashed=hashed,
        time=time,
        time_digits={"unix_seconds": 6, "unix_milliseconds": 3}.get(event.time.format, 0),
        is_naive_time=event.time.time_zone is not None,
        quantity=quantity,
        numbers=tuple(plan.numbers.values()),
        data=data,
        filled=frozenset(plan.filled),
    )
