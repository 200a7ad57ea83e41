"""What a piece of work costs this machine: CPU time of the process and of the processes it started."""

from __future__ import annotations

import resource
from decimal import Decimal

_THOUSANDTH = Decimal("0.001")


class CpuClock:
    """Runs from when it is made; children count when they have ended."""

    def __init__(self) -> None:
        self._start = _cpu_seconds()

    def seconds(self) -> Decimal:
        """Return the CPU seconds since, user and system."""
        return (_cpu_seconds() - self._start).quantize(_THOUSANDTH)


def _cpu_seconds() -> Decimal:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum((Decimal(f"{one.ru_utime:.6f}") + Decimal(f"{one.ru_stime:.6f}") for one in spent), Decimal(0))
