"""What a source contract may declare as evidence that a window has everything (P9), as the tables of its TOML file.

``[completeness]`` says how a source is shown to be complete: contiguous ``offsets`` in the keys of its objects, a
producer's ``control_file`` for each hour, a ``heartbeat`` object, or ``elapsed`` time, the default and the weakest.
``[manifest]`` stands beside any of them: of that source only objects that a manifest lists are collected. A
``key_pattern`` is a regular expression that matches the whole key; what follows from all this is in ``completeness``.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"key_pattern is not a regular expression: {error}") from None
    return text


KeyPattern = Annotated[str, Field(min_length=1), AfterValidator(_regular_expression)]
DottedPath = Annotated[str, Field(min_length=1)]


class EvidenceModel(BaseModel):
    """Base of the evidence tables: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _groups(key_pattern: str) -> set[str]:
    return set(re.compile(key_pattern).groupindex)


class Offset(NamedTuple):
    """Where the first record of an object stands: topic (empty where the pattern has none), partition, offset."""

    topic: str
    partition: str
    offset: int


class Elapsed(EvidenceModel):
    """Nothing but time: the source counts as complete once collection has reached the cutoff."""

    evidence: Literal["elapsed"] = "elapsed"


class Offsets(EvidenceModel):
    """The key of each object holds the offset of its first record; the next object starts where it ends.

    ``first_offset`` is where every partition starts; left out, the smallest offset seen is taken for it.
    """

    evidence: Literal["offsets"]
    key_pattern: KeyPattern
    first_offset: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _named_groups(self) -> Self:
        groups = _groups(self.key_pattern)
        if not {"partition", "offset"} <= groups <= {"partition", "offset", "topic"}:
            raise ValueError(
                "key_pattern needs the named groups partition and offset, and may have topic; "
                f"got {', '.join(sorted(groups)) or 'none'}"
            )
        return self

    def offset_of(self, key: str) -> Offset | None:
        """Return where the first record of an object stands, None for a key that does not say it.

        >>> pattern = "topics/(?P<topic>[^/]+)/.*[+](?P<partition>[0-9]+)[+](?P<offset>[0-9]+)[.]json[.]gz"
        >>> evidence = Offsets(evidence="offsets", key_pattern=pattern)
        >>> evidence.offset_of("topics/calls/year=2026/calls+3+0000041207.json.gz")
        Offset(topic='calls', partition='3', offset=41207)
        """
        match = re.fullmatch(self.key_pattern, key)
        if match is None or not (match["offset"] or "").isdecimal():
            return None
        return Offset(match.groupdict().get("topic") or "", match["partition"] or "", int(match["offset"]))


class ControlFile(EvidenceModel):
    """Control objects (JSON) say how many events a source sent in an hour, and what their quantities add up to.

    ``sources`` are those that must have one for each hour; left out, every source that was ever seen.
    """

    evidence: Literal["control_file"]
    key_pattern: KeyPattern
    sources: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class Heartbeat(EvidenceModel):
    """An object says up to when the source is complete.

    The group ``until`` of ``key_pattern`` is that instant; the group ``hour`` is the start of an hour that is complete.
    With neither of them the object is JSON, ``{"complete_until": "2026-01-15T06:00:00Z"}``.
    """

    evidence: Literal["heartbeat"]
    key_pattern: KeyPattern

    @model_validator(mode="after")
    def _one_group(self) -> Self:
        groups = _groups(self.key_pattern)
        if groups - {"until", "hour"} or len(groups) > 1:
            raise ValueError(
                f"key_pattern has the named group until, or hour, or none; got {', '.join(sorted(groups))}"
            )
        return self


Completeness = Annotated[Elapsed | Offsets | ControlFile | Heartbeat, Field(discriminator="evidence")]


class ManifestFile(EvidenceModel):
    """A producer's manifest (JSON) lists the objects that are to be read.

    ``entries`` is the dotted path to the list, empty when the document is the list. ``key``, ``bytes`` and ``records``
    are dotted paths inside an entry; without ``key`` the entry itself is the key. A key is ``s3://bucket/key``, or
    starts with ``/`` at the top of the bucket, or is relative to ``base``: the manifest's folder when left out.
    """

    key_pattern: KeyPattern
    entries: str = ""
    key: DottedPath | None = None
    base: str | None = None
    bytes: DottedPath | None = None
    records: DottedPath | None = None

    @model_validator(mode="after")
    def _entry_is_the_key(self) -> Self:
        if self.key is None and (self.bytes is not None or self.records is not None):
            raise ValueError("bytes and records are paths inside an entry, so key has to be one too")
        return self
