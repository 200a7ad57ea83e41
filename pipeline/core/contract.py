"""Source contracts: where the files of a feed are, what format they have, and how a record becomes an event.

One TOML file per feed in ``sources/``. The canonical event is CloudEvents 1.0 (``source``, ``id``, ``type``,
``time``, ``subject``, ``data``); its idempotency key is ``(source, id)``. A contract maps each canonical field to
exactly one origin: a field of the record, a constant, a part of the object's key, or a derivation. The defaults
are strict: what a contract does not name is refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from pipeline.core.decimals import Quantity
from pipeline.core.duration import Duration
from pipeline.core.evidence import Completeness, Elapsed, ManifestFile, Offsets


class StrictModel(BaseModel):
    """Base of every file model: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class FileFormat(StrEnum):
    """How records are laid out in an object; compression is sniffed, never declared.

    ``json`` is JSON values one after another: one array, or objects with or without anything between them.
    """

    NDJSON = "ndjson"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class FieldOrigin(StrictModel):
    """Where the text of a canonical field comes from; exactly one key is set.

    ``field``: a column name (CSV) or a dotted path into the record. ``first_of``: the first of several fields that is
    present and not null. ``constant``: the same text for every event. ``object_key``: a regular expression
    with one group, searched in the object's key. ``derive``: ``object_and_line`` (key, version and line),
    ``key_and_line`` (key and line: a file that is rewritten longer keeps its ids), ``offset`` (topic, partition and
    offset, from the key pattern of the completeness evidence) or ``hash`` (of the fields in ``of``).
    """

    field: str | None = None
    first_of: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    constant: str | None = None
    object_key: str | None = None
    derive: Literal["object_and_line", "key_and_line", "offset", "hash"] | None = None
    of: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [self.field, self.first_of, self.constant, self.object_key, self.derive]
        if sum(origin is not None for origin in origins) != 1:
            raise ValueError("set exactly one of field, first_of, constant, object_key, derive")
        if self.object_key is not None:
            try:
                groups = re.compile(self.object_key).groups
            except re.error as error:
                raise ValueError(f"object_key is not a regular expression: {error}") from None
            if groups != 1:
                raise ValueError(f"object_key needs exactly one group, got {groups} in {self.object_key!r}")
        if (self.derive == "hash") != bool(self.of):
            raise ValueError('`of` lists the fields of derive = "hash", and is set only with it')
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the fields of the record that this origin reads."""
        return (*((self.field,) if self.field is not None else ()), *(self.first_of or ()), *self.of)


class TimeOrigin(StrictModel):
    """Where the event time comes from and how it is written.

    RFC 3339 with an offset unless ``time_zone`` declares naive times, or seconds or milliseconds since 1970 as an exact
    decimal. ``fields`` names columns that are joined with ``T``, such as a date and a time. Digits beyond
    microseconds are cut off.
    """

    field: str = "time"
    fields: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    format: Literal["rfc3339", "unix_seconds", "unix_milliseconds"] = "rfc3339"
    time_zone: Literal["UTC"] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.fields is not None and "field" in self.model_fields_set:
            raise ValueError("set exactly one of field, fields")
        if self.format != "rfc3339" and (self.fields is not None or self.time_zone is not None):
            raise ValueError(f'fields and time_zone are for format = "rfc3339", got format = "{self.format}"')
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the fields of the record that the time is read from."""
        return self.fields or (self.field,)


class DataField(StrictModel):
    """One entry of the event's ``data``: its origin, its type and what is accepted."""

    field: str
    type: Literal["decimal", "text"] = "text"
    required: bool = True
    minimum: Quantity | None = None
    maximum: Quantity | None = None


class EventMapping(StrictModel):
    """How a record becomes a canonical event; the defaults are CloudEvents itself.

    ``data_object`` is the dotted path of the object that is taken as data where no field of data is declared.
    """

    source: FieldOrigin = FieldOrigin(field="source")
    id: FieldOrigin = FieldOrigin(field="id")
    type: FieldOrigin = FieldOrigin(field="type")
    subject: FieldOrigin = FieldOrigin(field="subject")
    time: TimeOrigin = TimeOrigin()
    quantity: DataField | None = None
    data_object: Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")] = "data"
    data: dict[str, DataField] = {}

    @property
    def origins(self) -> tuple[FieldOrigin, FieldOrigin, FieldOrigin, FieldOrigin]:
        """Return the origins of source, id, type and subject, in this order."""
        return self.source, self.id, self.type, self.subject


class WithdrawalRule(StrictModel):
    """Events of a type that withdraw another event, which they name by its key ``(source, id)``.

    ``id`` and ``source`` are paths of data; without ``source`` an event withdraws one of its own source. One that
    ``replaces`` is usage itself, in the place of what it withdraws; any other is never billed.
    """

    event_type: Annotated[str, Field(min_length=1)]
    id: Annotated[str, Field(pattern=r"^data\.[A-Za-z0-9_.]+$")] = "data.id"
    source: Annotated[str, Field(pattern=r"^data\.[A-Za-z0-9_.]+$")] | None = None
    replaces: bool = False


class Limits(StrictModel):
    """Bounds against hostile input; crossing one quarantines the line or the object.

    ``columns_max`` bounds the columns of CSV and Parquet and the keys of each JSON object; ``json_depth_max`` counts
    objects and arrays, the record included; ``future_max`` is how far an event may be ahead of its receipt.
    """

    line_bytes_max: Annotated[int, Field(ge=1_024, le=16_777_216)] = 1_048_576
    object_bytes_max: Annotated[int, Field(ge=1_024)] = 8_589_934_592
    decompression_ratio_max: Annotated[int, Field(ge=1)] = 1_000
    json_depth_max: Annotated[int, Field(ge=1, le=256)] = 64
    columns_max: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    quarantined_raw_bytes_max: Annotated[int, Field(ge=0, le=1_048_576)] = 4_096
    event_dates_max: Annotated[int, Field(ge=1, le=40_000)] = 1_100
    future_max: Duration = timedelta(days=7)


class SourceContract(StrictModel):
    """The contract of one feed. An object belongs to the one contract whose prefix and suffixes match its key."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    version: Annotated[str, Field(min_length=1)]
    description: str = ""
    prefix: str
    suffixes: tuple[str, ...] = ("",)
    format: FileFormat
    delimiter: Annotated[str, Field(min_length=1, max_length=1, pattern=r'^[^"\r\n]$')] = ","
    quoted: bool = True
    comment: Annotated[str, Field(min_length=1)] | None = None
    header: Literal["first_line", "fields_comment", "columns"] = "first_line"
    columns: tuple[str, ...] = ()
    null_text: Annotated[str, Field(min_length=1)] | None = None
    doubles: Literal["refuse", "shortest"] = "refuse"
    event_types: tuple[str, ...] = ()
    unknown_fields: Literal["quarantine", "keep", "ignore"] = "quarantine"
    received: Literal["last_modified", "event_time"] = "last_modified"
    event: EventMapping = EventMapping()
    schemas: dict[str, str] = {}
    withdrawals: tuple[WithdrawalRule, ...] = ()
    limits: Limits = Limits()
    completeness: Completeness = Elapsed()
    manifest: ManifestFile | None = None

    _schema_documents: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _fits_its_format(self) -> Self:
        for name, formats in _KEYS_OF_FORMATS.items():
            if name in self.model_fields_set and self.format not in formats:
                accepted = " or ".join(f'"{file_format.value}"' for file_format in formats)
                raise ValueError(f'{name} is for format = {accepted}, got format = "{self.format.value}"')
        if self.header == "fields_comment" and self.comment is None:
            raise ValueError('header = "fields_comment" needs comment, such as comment = "#"')
        if (self.header == "columns") != bool(self.columns):
            raise ValueError('columns lists the columns of header = "columns", and is set only with it')
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns names a column twice")
        if any(origin.derive == "offset" for origin in self.event.origins) and not isinstance(
            self.completeness, Offsets
        ):
            raise ValueError('derive = "offset" needs [completeness] with evidence = "offsets" and its key_pattern')
        undeclared = sorted(set(self.schemas) - set(self.event_types)) if self.event_types else []
        if undeclared:
            raise ValueError(f"schemas names {', '.join(undeclared)}, which event_types does not")
        withdrawing = [rule.event_type for rule in self.withdrawals]
        undeclared = sorted(set(withdrawing) - set(self.event_types)) if self.event_types else []
        if undeclared:
            raise ValueError(f"withdrawals names {', '.join(undeclared)}, which event_types does not")
        if len(set(withdrawing)) != len(withdrawing):
            raise ValueError("withdrawals names an event type twice")
        return self

    def covers(self, key: str) -> bool:
        """Tell whether an object of this key belongs to the feed."""
        return key.startswith(self.prefix) and key.endswith(self.suffixes)

    @property
    def schema_documents(self) -> Mapping[str, str]:
        """Return the JSON Schema of each event type that has one, as text; empty until the project is loaded."""
        return self._schema_documents

    def with_schema_documents(self, documents: Mapping[str, str]) -> Self:
        """Return the same contract with the text of its JSON Schemas, by event type."""
        loaded = self.model_copy()
        loaded._schema_documents = dict(documents)
        return loaded


_KEYS_OF_FORMATS: dict[str, tuple[FileFormat, ...]] = {
    **dict.fromkeys(("delimiter", "quoted", "comment", "header", "columns", "null_text"), (FileFormat.CSV,)),
    "doubles": (FileFormat.PARQUET,),
    "schemas": (FileFormat.NDJSON, FileFormat.JSON, FileFormat.PARQUET),
}
