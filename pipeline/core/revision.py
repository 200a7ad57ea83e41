"""Window revisions, the object ledger and collections, as values.

Revision n of a window is one published computation of it. It is never overwritten: a recomputation from
other inputs publishes n+1. Revision 1 is cut off at ``window_end + grace_period``; a later revision takes in
everything collected until it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class RevisionState(StrEnum):
    """Candidate: being computed. Accepted: every gate passed. Rejected: a gate did not."""

    CANDIDATE = "candidate"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class WindowRevision:
    """One revision of one window. ``inputs_hash`` names the inputs, ``pins`` lists them by hash."""

    window_id: str
    revision: int
    window_start: datetime
    window_end: datetime
    cutoff_at: datetime
    inputs_hash: str
    pins: Mapping[str, Any]
    reason: str
    state: RevisionState = RevisionState.CANDIDATE

    @property
    def scope(self) -> str:
        return f"window={self.window_id}"

    @property
    def document_scope(self) -> str:
        """The scope of a document about this revision, which may be published more than once."""
        return f"{self.scope}/revision={self.revision}"


@dataclass(frozen=True, slots=True)
class LedgerObject:
    """One object version that was collected. ``line_count`` = ``raw_event_count`` + ``quarantine_count`` (P3).

    A line is a record: blank lines and a header row are not counted. An object that cannot be read, or is
    empty, counts as one quarantined line (line number 0); ``fault`` is the reason then.
    """

    object_id: str
    key: str
    version: str
    byte_count: int
    sha256: str
    contract: str
    received_at: datetime
    line_count: int
    raw_event_count: int
    quarantine_count: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """One run of collect: when the bucket was listed, and the object versions that were new."""

    listed_at: datetime
    objects: tuple[LedgerObject, ...]
