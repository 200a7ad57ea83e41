"""JSON as in RFC 8259, strictly: no repeated key, no ``NaN``, and every number keeps the digits the producer wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from pipeline.core.decimals import plain_text
from pipeline.core.reason import QuarantineReason, RejectedError, over_limit

NUMBER_DIGITS_MAX = 100

_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_JSON_WORDS: dict[type, str] = {
    dict: "an object",
    list: "an array",
    bool: "a boolean",
    Decimal: "a number",
    type(None): "null",
}


def shown(value: object) -> str:
    """Return what a message says of a value: a text in quotes, else the kind of value it is.

    >>> shown("req-1"), shown(None), shown([1])
    ("'req-1'", 'null', 'an array')
    """
    text = repr(value) if isinstance(value, str) else _JSON_WORDS.get(type(value), type(value).__name__)
    return text if len(text) <= 80 else text[:77] + "..."


def parse_decimal(text: str) -> Decimal | None:
    """Return the exact decimal a text writes, ``None`` if it writes none (``NaN``, `` 5``, ``1_000``, ``1,5``).

    >>> parse_decimal("1e-7"), parse_decimal("NaN"), parse_decimal("1_000")
    (Decimal('1E-7'), None, None)
    """
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def exact_number(text: str) -> Decimal:
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
        raise RejectedError(
            QuarantineReason.NUMBER_TOO_LARGE, f"a number has more than {NUMBER_DIGITS_MAX} digits, got {shown(text)}"
        )
    return number


def _refuse_constant(name: str) -> Any:
    raise RejectedError(QuarantineReason.NOT_A_NUMBER, f"{name} is not JSON")


def number_text(number: object) -> str:
    """Return the plain digits of a number of a record; anything else raises ``TypeError``."""
    if not isinstance(number, Decimal):
        raise TypeError(f"a JSON value is never a {type(number).__name__}")
    return plain_text(number)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs; a key that occurs twice is refused."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise RejectedError(QuarantineReason.DUPLICATE_JSON_KEY, f"the key {shown(repeated)} occurs twice")
    return entries


def json_decoder(object_of: Callable[[list[tuple[str, Any]]], dict[str, Any]] = unique_keys) -> json.JSONDecoder:
    """Return a decoder that is strict and keeps every digit; ``object_of`` may refuse more than repeated keys."""
    return json.JSONDecoder(
        object_pairs_hook=object_of, parse_float=exact_number, parse_int=exact_number, parse_constant=_refuse_constant
    )


encode_json = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=number_text
).encode


_ARRAY_HINT = 'format = "json" reads an array of records'
_FOUND_MAX = 20


def _not_one_object(error: json.JSONDecodeError, is_line: bool) -> str:
    """Return where a text stops being one JSON object and what stands there, with a hint at what it may be."""
    text = error.doc.rstrip()
    found = text[error.pos : error.pos + _FOUND_MAX]
    where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno} of it"
    hint = ""
    if is_line and text.lstrip().startswith(("[", "]")):
        hint = f"; {_ARRAY_HINT}"
    elif is_line and error.msg == "Extra data" and found.startswith((",", "{")):
        hint = '; format = "json" reads records with a comma or nothing between them'
    elif text.lstrip().startswith("{") and not text.endswith("}"):
        hint = "; it does not end with } and may be cut off"
    return f"not one whole JSON object: {where}, found {shown(found) if found else 'the end'}{hint}"


class JsonReader:
    """Reads one JSON object from bytes, within limits. Its numbers are ``Decimal``.

    ``is_line`` says that the object should be a line of its own; messages then name the format that reads others.
    """

    def __init__(self, depth_max: int, keys_max: int, is_line: bool = True) -> None:
        self._depth_max = depth_max
        self._keys_max = keys_max
        self._is_line = is_line
        self._decode = json_decoder(self._object_of).decode

    def read(self, line: bytes) -> dict[str, Any]:
        """Return the object that the bytes are; raises ``RejectedError`` for anything else."""
        try:
            record = self._decode(line.decode())
        except UnicodeDecodeError as error:
            raise RejectedError(QuarantineReason.INVALID_ENCODING, f"byte {error.start + 1} is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise RejectedError(QuarantineReason.MALFORMED_LINE, _not_one_object(error, self._is_line)) from None
        except RecursionError:
            raise self._too_deep() from None
        if line.count(b"{") + line.count(b"[") > self._depth_max and isinstance(record, dict | list):
            self.check(record)
        if not isinstance(record, dict):
            hint = f"; {_ARRAY_HINT}" if self._is_line and isinstance(record, list) else ""
            raise RejectedError(QuarantineReason.MALFORMED_LINE, f"expected a JSON object, got {shown(record)}{hint}")
        return record

    def check(self, value: Any) -> None:
        """Raise ``RejectedError`` if a value is nested deeper than accepted, or an object in it has too many keys."""
        level = [value]
        for _ in range(self._depth_max):
            for parent in level:
                if isinstance(parent, dict):
                    self._check_keys(len(parent))
            level = [
                child
                for parent in level
                for child in (parent.values() if isinstance(parent, dict) else parent)
                if isinstance(child, dict | list)
            ]
            if not level:
                return
        raise self._too_deep()

    def _check_keys(self, count: int) -> None:
        if count > self._keys_max:
            raise RejectedError(
                QuarantineReason.TOO_MANY_COLUMNS,
                over_limit(f"an object has {count:,} keys", self._keys_max, "columns_max"),
            )

    def _too_deep(self) -> RejectedError:
        return RejectedError(
            QuarantineReason.NESTED_TOO_DEEP, f"more than {self._depth_max:,} levels (limits.json_depth_max)"
        )

    def _object_of(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._check_keys(len(pairs))
        return unique_keys(pairs)
