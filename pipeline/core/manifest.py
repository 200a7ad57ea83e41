"""Manifests: which files a revision of a dataset is made of, and what it was computed from (P1).

A manifest is canonical JSON (sorted keys, no spaces, UTF-8), so its SHA-256 names it. It holds no clock
and no machine: the same inputs make the same manifest anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Return the one byte form of a JSON value; floats are refused because their digits are not exact.

    >>> canonical_json({"b": 1, "a": ["x", None]})
    b'{"a":["x",null],"b":1}'
    """
    _refuse_floats(value)
    return _encode(value).encode()


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_NO_FLOAT_INSIDE = frozenset((str, int, bool, type(None)))  # most values; a document has hundreds of them


def _refuse_floats(value: Any) -> None:
    if isinstance(value, dict):
        items: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple):
        items = value
    elif isinstance(value, float):
        raise TypeError(f"canonical JSON holds no float, got {value!r}; write a decimal as a string")
    else:
        return
    for item in items:
        if type(item) not in _NO_FLOAT_INSIDE:
            _refuse_floats(item)


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of the bytes as 64 hexadecimal digits.

    >>> sha256_hex(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class DataFile:
    """One content-addressed file of the lake: ``path`` below the lake's root, its SHA-256, rows and bytes."""

    path: str
    sha256: str
    row_count: int
    byte_count: int
    partition: str = ""  # the event date of a raw_events file; empty elsewhere


@dataclass(frozen=True, slots=True)
class Manifest:
    """One revision of one dataset: files, rows, content hash, and the pins it was computed from.

    ``scope`` names what the revision is about (``window=2026-01-15``, ``period=2026-01``,
    ``collection=<hash>``); ``pins`` names every input by hash.
    """

    dataset: str
    scope: str
    revision: int
    files: tuple[DataFile, ...]
    row_count: int
    content_hash: str
    pins: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        return canonical_json(asdict(self))

    @property
    def manifest_hash(self) -> str:
        return sha256_hex(self.to_bytes())

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        fields = json.loads(content)
        fields["files"] = tuple(DataFile(**file) for file in fields["files"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a step hands to the next one: names and numbers, never rows."""

    dataset: str
    scope: str
    revision: int
    manifest_hash: str
    row_count: int
    content_hash: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
