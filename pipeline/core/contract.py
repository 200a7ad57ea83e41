"""Source contracts: where the files of a feed are, what format they have, and how a line becomes an event.

One TOML file per feed in ``sources/``. The canonical event is CloudEvents 1.0 (``source``, ``id``, ``type``,
``time``, ``subject``, ``data``); its idempotency key is ``(source, id)``. A contract maps each canonical field to
exactly one origin: a field of the record, a constant, a part of the object's key, or a derivation.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.core.decimals import Quantity


class StrictModel(BaseModel):
    """Base of every file model: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class FileFormat(StrEnum):
    """How records are laid out in an object; compression is sniffed, never declared."""

    NDJSON = "ndjson"
    CSV = "csv"


class FieldOrigin(StrictModel):
    """Where the text of a canonical field comes from; exactly one key is set.

    ``field``: a column name (CSV) or a dotted path into the record (NDJSON). ``constant``: the same
    text for every event. ``object_key``: a regular expression with one group, searched in the object's
    key. ``derive``: ``object_and_line`` (key, version and line) or ``hash`` (of the fields in ``of``).
    """

    field: str | None = None
    constant: str | None = None
    object_key: str | None = None
    derive: Literal["object_and_line", "hash"] | None = None
    of: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [self.field, self.constant, self.object_key, self.derive]
        if sum(origin is not None for origin in origins) != 1:
            raise ValueError("set exactly one of field, constant, object_key, derive")
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


class TimeOrigin(StrictModel):
    """Where the event time comes from. RFC 3339 with an offset unless ``time_zone`` declares naive times."""

    field: str = "time"
    time_zone: Literal["UTC"] | None = None


class DataField(StrictModel):
    """One entry of the event's ``data``: its origin, its type and what is accepted."""

    field: str
    type: Literal["decimal", "text"] = "text"
    required: bool = True
    minimum: Quantity | None = None
    maximum: Quantity | None = None


class EventMapping(StrictModel):
    """How a record becomes a canonical event; the defaults are CloudEvents itself."""

    source: FieldOrigin = FieldOrigin(field="source")
    id: FieldOrigin = FieldOrigin(field="id")
    type: FieldOrigin = FieldOrigin(field="type")
    subject: FieldOrigin = FieldOrigin(field="subject")
    time: TimeOrigin = TimeOrigin()
    quantity: DataField | None = None
    data: dict[str, DataField] = {}


class Limits(StrictModel):
    """Bounds against hostile input; crossing one quarantines the line or the object."""

    line_bytes_max: Annotated[int, Field(ge=1_024, le=16_777_216)] = 1_048_576
    object_bytes_max: Annotated[int, Field(ge=1_024)] = 8_589_934_592
    quarantined_raw_bytes_max: Annotated[int, Field(ge=0, le=1_048_576)] = 4_096


class SourceContract(StrictModel):
    """The contract of one feed. An object belongs to the one contract whose prefix and suffixes match its key."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    version: Annotated[str, Field(min_length=1)]
    description: str = ""
    prefix: str
    suffixes: tuple[str, ...] = ("",)
    format: FileFormat
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    event_types: tuple[str, ...] = ()
    unknown_fields: Literal["quarantine", "keep", "ignore"] = "quarantine"
    received: Literal["last_modified", "event_time"] = "last_modified"
    event: EventMapping = EventMapping()
    limits: Limits = Limits()

    def covers(self, key: str) -> bool:
        """Tell whether an object of this key belongs to the feed."""
        return key.startswith(self.prefix) and key.endswith(self.suffixes)
