"""CSV and its relatives: one physical line is one record, and a contract says what a line of it looks like."""

from __future__ import annotations

import csv
import re
from collections.abc import Set

from pipeline.core.contract import SourceContract
from pipeline.core.json_text import shown
from pipeline.core.reason import QuarantineReason, RejectedError, over_limit

HEADER_SHOWN = 80  # characters


def csv_values(line: bytes, contract: SourceContract) -> list[str]:
    """Return the values of one line; raises ``RejectedError`` if it is not one whole record."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise RejectedError(QuarantineReason.INVALID_ENCODING, f"byte {error.start + 1} is not UTF-8") from None
    if not contract.quoted:
        return text.split(contract.delimiter)
    try:
        return next(csv.reader([text], delimiter=contract.delimiter, strict=True))
    except (csv.Error, StopIteration):
        raise RejectedError(
            QuarantineReason.MALFORMED_LINE, "not one CSV record: a quote is not closed, or stands inside a value"
        ) from None


def is_fields_line(contract: SourceContract, line: bytes) -> bool:
    """Tell whether a line is the ``#Fields:`` comment that names the columns."""
    return contract.comment is not None and line.startswith(f"{contract.comment}Fields:".encode())


def column_names(contract: SourceContract, header: bytes | None) -> tuple[str, ...]:
    """Return the columns of an object, checked; raises ``RejectedError`` if its lines cannot be read by them."""
    if contract.header == "columns":
        names = contract.columns
    elif header is None:
        raise ValueError("the columns of this contract are in a header line, and none was given")
    elif contract.header == "fields_comment":
        names = _names_of_comment(header, contract)
    else:
        names = tuple(csv_values(header, contract))
    if len(names) > contract.limits.columns_max:
        raise RejectedError(
            QuarantineReason.TOO_MANY_COLUMNS,
            over_limit(f"the header has {len(names):,} columns", contract.limits.columns_max, "columns_max"),
        )
    check_columns(contract, names, mapped_fields(contract), needed_fields(contract), _found(contract, header))
    return names


def _found(contract: SourceContract, header: bytes | None) -> str:
    """Return what a message says of the header: its first characters, and what they were cut at."""
    if header is None:
        return ""
    text = header.decode(errors="replace")
    text = text if len(text) <= HEADER_SHOWN else text[:HEADER_SHOWN] + "..."
    return f"; found {text!r} with the delimiter {contract.delimiter!r}"


def _names_of_comment(header: bytes, contract: SourceContract) -> tuple[str, ...]:
    try:
        text = header.decode().partition("Fields:")[2]
    except UnicodeDecodeError as error:
        raise RejectedError(QuarantineReason.INVALID_ENCODING, f"byte {error.start + 1} is not UTF-8") from None
    return tuple(name for name in re.split(rf"[\s{re.escape(contract.delimiter)}]+", text) if name)


def check_columns(
    contract: SourceContract, names: tuple[str, ...], mapped: Set[str], needed: Set[str], found: str = ""
) -> None:
    """Raise ``RejectedError`` if columns are missing, twice there, or unknown where the contract refuses unknown.

    ``found`` ends the message of a wrong header: what the header is.
    """
    present = set(names)
    problems = [f"lacks {shown(name)}" for name in sorted(needed - present)]
    problems += [
        f"lacks {' and '.join(shown(name) for name in origin.first_of)}"
        for origin in contract.event.origins
        if origin.first_of and not present.intersection(origin.first_of)
    ]
    problems += [f"has {shown(name)} twice" for name in sorted(present) if names.count(name) > 1]
    if problems:
        raise RejectedError(QuarantineReason.WRONG_HEADER, f"the header {', '.join(problems[:5])}{found}")
    unknown = [name for name in names if name not in mapped]
    if unknown and contract.unknown_fields == "quarantine":
        raise unknown_fields_error(unknown)


def mapped_fields(contract: SourceContract) -> frozenset[str]:
    """Return every field of a record that the contract reads by name."""
    event = contract.event
    declared = [*event.data.values(), *([event.quantity] if event.quantity is not None else [])]
    texts = [name for origin in event.origins for name in origin.fields]
    return frozenset([*texts, *event.time.columns, *(field.field for field in declared)])


def needed_fields(contract: SourceContract) -> frozenset[str]:
    """Return the fields without which no record of the contract can be read."""
    event = contract.event
    declared = [*event.data.values(), *([event.quantity] if event.quantity is not None else [])]
    texts = [name for origin in event.origins if origin.first_of is None for name in origin.fields]
    return frozenset([*texts, *event.time.columns, *(field.field for field in declared if field.required)])


def unknown_fields_error(names: list[str]) -> RejectedError:
    """Return the rejection of fields that are not in the contract."""
    listed = ", ".join(shown(name) for name in names[:5])
    return RejectedError(QuarantineReason.UNKNOWN_FIELD, f"not in the contract: {listed}")
