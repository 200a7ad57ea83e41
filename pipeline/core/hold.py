"""Holds: an account that gets no document of a period until somebody releases it; all others are billed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason why an account is held in a period; ``released_at`` is None while it is."""

    hold_id: int
    period_id: str
    account_id: str
    reason: str
    held_at: datetime
    held_by: str
    released_at: datetime | None = None
    released_by: str | None = None
    release_reason: str | None = None
