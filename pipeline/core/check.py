"""Checks: what the expectations say about the datasets of one window revision, as values.

An *expectation* is one sentence about one dataset, with the reason why it matters. ``critical`` stops the
window, ``warning`` is reported. A result holds counts and keys as text, never a clock or a random id: the
same rows give the same result, to the byte (P1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pipeline.core.errors import CheckFailed


class Severity(StrEnum):
    """Critical: nothing is accepted or issued. Warning: people look at it, the run goes on."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one expectation found in one dataset.

    ``scope`` names the rows (``window=2026-01-15``, ``period=2026-01``); ``column`` is empty when the
    expectation is about whole rows; ``sample_keys`` are the first wrong rows in order of their key.
    """

    dataset: str
    scope: str
    expectation: str
    column: str
    severity: Severity
    expected: str
    why: str
    success: bool
    observed: str
    unexpected_count: int
    sample_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Every expectation that was checked for one window revision, in the order of the suites."""

    window_id: str
    revision: int
    results: tuple[CheckResult, ...]

    def failed(self, severity: Severity) -> tuple[CheckResult, ...]:
        """Return the results of one severity that do not hold."""
        return tuple(result for result in self.results if result.severity is severity and not result.success)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> CheckReport:
        results = tuple(
            CheckResult(**{**row, "severity": Severity(row["severity"]), "sample_keys": tuple(row["sample_keys"])})
            for row in fields["results"]
        )
        return cls(fields["window_id"], fields["revision"], results)


def require_checks_passed(report: CheckReport) -> None:
    """Raise ``CheckFailed`` that names every failed critical expectation: expected, actual, an example, why.

    >>> require_checks_passed(CheckReport("2026-01-15", 1, ()))
    """
    failed = report.failed(Severity.CRITICAL)
    if failed:
        raise CheckFailed(
            "check.critical_failed",
            f"window {report.window_id} revision {report.revision}: "
            f"{len(failed)} of {len(report.results)} expectations are critical and do not hold",
            [*_failure_lines(failed), "nothing was accepted or issued; see docs/runbook.md"],
        )


def failed_check_sentences(report: CheckReport) -> tuple[str, ...]:
    """Return one sentence for each critical expectation that does not hold: what an override would override."""
    return tuple(
        f"{one.dataset} {one.scope}, {one.expectation}: expected {one.expected}, got {one.observed}"
        for one in report.failed(Severity.CRITICAL)
    )


def _failure_lines(failed: Iterable[CheckResult]) -> Iterable[str]:
    for result in failed:
        yield f"{result.dataset} {result.scope}, {result.expectation}"
        yield f"  expected {result.expected}, got {result.observed}"
        if result.sample_keys:
            yield f"  for example {'; '.join(result.sample_keys)}"
        yield f"  {result.why}"
