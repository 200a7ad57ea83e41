"""Why a line or an event is not billed: the closed lists of reason codes, each with its sentence for people (P3).

*Quarantine* holds what could not be read as an event (decided once, at collection). *Exclusion* is an
event that was read and is not billed in a window revision (decided again by every revision).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class QuarantineReason(StrEnum):
    """Why a line, or a whole object (line number 0), was quarantined at collection."""

    EMPTY_OBJECT = "empty_object"
    UNREADABLE_OBJECT = "unreadable_object"
    TRUNCATED_OBJECT = "truncated_object"
    OBJECT_TOO_LARGE = "object_too_large"
    COMPRESSION_RATIO_TOO_HIGH = "compression_ratio_too_high"
    TOO_MANY_EVENT_DATES = "too_many_event_dates"
    WRONG_HEADER = "wrong_header"
    INVALID_ENCODING = "invalid_encoding"
    LINE_TOO_LONG = "line_too_long"
    MALFORMED_LINE = "malformed_line"
    NESTED_TOO_DEEP = "nested_too_deep"
    TOO_MANY_COLUMNS = "too_many_columns"
    DUPLICATE_JSON_KEY = "duplicate_json_key"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    WRONG_TYPE = "wrong_type"
    INVALID_TIME = "invalid_time"
    TIME_IN_THE_FUTURE = "time_in_the_future"
    INVALID_QUANTITY = "invalid_quantity"
    NOT_A_NUMBER = "not_a_number"
    NUMBER_TOO_LARGE = "number_too_large"
    BELOW_MINIMUM = "below_minimum"
    ABOVE_MAXIMUM = "above_maximum"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    SCHEMA_VIOLATION = "schema_violation"
    UNREADABLE_EVIDENCE = "unreadable_evidence"


QUARANTINE_SENTENCES: dict[QuarantineReason, str] = {
    QuarantineReason.EMPTY_OBJECT: "the object holds no line at all",
    QuarantineReason.UNREADABLE_OBJECT: "the object is not what its contract says (format or compression)",
    QuarantineReason.TRUNCATED_OBJECT: "the compressed data ends early, so no line of the object is trusted",
    QuarantineReason.OBJECT_TOO_LARGE: "the object is larger than the limit of its contract once decompressed",
    QuarantineReason.COMPRESSION_RATIO_TOO_HIGH: "the object grows more by decompression than its contract accepts",
    QuarantineReason.TOO_MANY_EVENT_DATES: "the events of the object are of more dates than its contract accepts",
    QuarantineReason.WRONG_HEADER: "the header row lacks a column that the contract needs",
    QuarantineReason.INVALID_ENCODING: "the line is not UTF-8",
    QuarantineReason.LINE_TOO_LONG: "the line is longer than the limit of its contract",
    QuarantineReason.MALFORMED_LINE: "the line is not one whole record of its format",
    QuarantineReason.NESTED_TOO_DEEP: "the record is nested deeper than the limit of its contract",
    QuarantineReason.TOO_MANY_COLUMNS: "there are more columns, or keys in one JSON object, than the contract accepts",
    QuarantineReason.DUPLICATE_JSON_KEY: "a JSON key occurs twice, so the value is ambiguous",
    QuarantineReason.MISSING_FIELD: "a required field is missing",
    QuarantineReason.UNKNOWN_FIELD: "a field is not in the contract",
    QuarantineReason.WRONG_TYPE: "a field has the wrong type",
    QuarantineReason.INVALID_TIME: "the event time is not of the form that the contract declares",
    QuarantineReason.TIME_IN_THE_FUTURE: "the event time is later than the receipt by more than the contract accepts",
    QuarantineReason.INVALID_QUANTITY: "a quantity is no plain decimal",
    QuarantineReason.NOT_A_NUMBER: "a value is NaN or infinite",
    QuarantineReason.NUMBER_TOO_LARGE: "a number has more digits than fit (29 before the point and 9 after it)",
    QuarantineReason.BELOW_MINIMUM: "a quantity is below the minimum of the contract",
    QuarantineReason.ABOVE_MAXIMUM: "a quantity is above the maximum of the contract",
    QuarantineReason.UNKNOWN_EVENT_TYPE: "the event type is not in the contract",
    QuarantineReason.SCHEMA_VIOLATION: "the data is not what the JSON Schema of its event type accepts",
    QuarantineReason.UNREADABLE_EVIDENCE: "a control file, heartbeat or manifest is not what its contract declares",
}


class Rejection(NamedTuple):
    """Why a line, or a whole object, is quarantined; the message names the field, what was found, what is accepted."""

    reason: QuarantineReason
    message: str


def over_limit(found: str, accepted: int, key: str) -> str:
    """Return the message of what is over a limit of the contract.

    >>> over_limit(f"{1_100_171:,} bytes", 1_048_576, "line_bytes_max")
    '1,100,171 bytes, accepted 1,048,576 (limits.line_bytes_max)'
    """
    return f"{found}, accepted {accepted:,} (limits.{key})"


class RejectedError(Exception):
    """Carries a rejection out of the depth of a record; never leaves the parser."""

    def __init__(self, reason: QuarantineReason, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection(reason, message)


class ExclusionReason(StrEnum):
    """Why a raw event of the window is not billed in this revision."""

    EXACT_DUPLICATE = "exact_duplicate"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    VOIDED = "voided"
    LATE = "late"
    WITHDRAWAL = "withdrawal"
    IN_THE_FUTURE = "in_the_future"
    ORPHANED_ACCOUNT = "orphaned_account"
    UNKNOWN_SKU = "unknown_sku"
    UNREADABLE_QUANTITY = "unreadable_quantity"


EXCLUSION_SENTENCES: dict[ExclusionReason, str] = {
    ExclusionReason.EXACT_DUPLICATE: "the same event was already received; one copy is billed",
    ExclusionReason.CONFLICTING_DUPLICATE: (
        "the same key with other content, or a second replacement of one event; the first received stands"
    ),
    ExclusionReason.VOIDED: "another event, which is shown as the one that stands, withdraws this one",
    ExclusionReason.LATE: "received at or after the cutoff; carried to the next revision",
    ExclusionReason.WITHDRAWAL: "this event withdraws another one and is no usage itself",
    ExclusionReason.IN_THE_FUTURE: "the event time is after its receipt by more than the tolerance",
    ExclusionReason.ORPHANED_ACCOUNT: "no account of the directory owns the subject at the event time",
    ExclusionReason.UNKNOWN_SKU: "no meter counts this event",
    ExclusionReason.UNREADABLE_QUANTITY: "a meter counts this event, but its value is missing or no exact decimal",
}
