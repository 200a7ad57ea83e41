"""Durations as people write them in project files: ``15m``, ``6h``, ``1d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator

DURATION_MAX = timedelta(days=366)
_DURATION_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_duration(text: object) -> timedelta:
    """Return the duration written as ``15m``, ``6h`` or ``1d``; anything else raises ``ValueError``.

    >>> parse_duration("6h")
    datetime.timedelta(seconds=21600)
    """
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,6}[dhms]", text):
        raise ValueError("expected a duration such as 15m, 6h or 1d")
    duration = timedelta(seconds=int(text[:-1]) * _DURATION_UNITS[text[-1]])
    if duration > DURATION_MAX:
        raise ValueError(f"expected a duration of at most {DURATION_MAX.days}d")
    return duration


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
