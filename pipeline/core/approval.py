"""Decisions of people that the pipeline waits for: the override of a gate, and the sign-off of a period.

Both name the hash of what was looked at, so that what changes afterwards has to be looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Override:
    """A revision that may be accepted although gates failed, asked for by one person and approved by another.

    ``failures`` are the sentences of what failed, ``failures_hash`` their SHA-256: nothing else is overridden.
    """

    override_id: int
    window_id: str
    revision: int
    failures: tuple[str, ...]
    failures_hash: str
    reason: str
    requested_at: datetime
    requested_by: str
    approved_at: datetime | None = None
    approved_by: str | None = None


class Decision(StrEnum):
    """What was said about a period that is about to close; ``hold`` is an approval of all but the held accounts."""

    APPROVE = "approve"
    HOLD = "hold"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class SignOff:
    """A decision about a period; the newest one holds.

    ``content_hash`` is the SHA-256 of what every account would be billed; ``figures`` are what was shown beside it.
    """

    sign_off_id: int
    period_id: str
    decision: Decision
    content_hash: str
    figures: Mapping[str, Any]
    reason: str
    signed_at: datetime
    signed_by: str

    @property
    def allows_issuing(self) -> bool:
        return self.decision is not Decision.REJECT
