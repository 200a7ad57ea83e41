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

from pipeline.core.dataset import (
    AMOUNT,
    INSTANT,
    INVOICES,
    LINE_ITEMS,
    QUANTITY,
    RAW_EVENTS,
    USAGE,
    USAGE_EVENTS,
    USAGE_LEVELS,
)
from pipeline.core.errors import CheckFailed

CHECK_RESULTS = "check_results"
CHECKED = (RAW_EVENTS, USAGE_EVENTS, USAGE, LINE_ITEMS, INVOICES)

_Relations = dict[str, tuple[tuple[str, str], ...]]

REFERENCES: _Relations = {
    "run": (
        ("window_start", INSTANT),
        ("window_end", INSTANT),
        ("cutoff_at", INSTANT),
        ("grain", "INTERVAL"),
        ("future_tolerance", "INTERVAL"),
    ),
    "accounts": (("account_id", "VARCHAR"), ("currency", "VARCHAR"), ("plan", "VARCHAR")),
    "account_validity": (("account_id", "VARCHAR"), ("valid_from", INSTANT), ("valid_to", INSTANT)),
    "account_periods": (  # of the period of line items and invoices; empty beside the others
        ("account_id", "VARCHAR"),
        ("period_id", "VARCHAR"),
        ("period_start", INSTANT),
        ("period_end", INSTANT),
    ),
    "meters": tuple((name, "VARCHAR") for name in ("sku", "event_type", "aggregation", "unit", "billed_unit")),
    "currencies": (("currency", "VARCHAR"), ("minor_unit", AMOUNT)),
    "price_books": (("version", "VARCHAR"),),
    "slo": (("name", "VARCHAR"), ("percent", QUANTITY)),
}

_RAW_COUNTS: _Relations = {
    "exclusions": (("reason", "VARCHAR"), ("event_count", "BIGINT")),  # of the window
    "night": (("line_count", "BIGINT"), ("quarantine_count", "BIGINT")),  # of the objects received in it
    "volume_history": (("window_id", "VARCHAR"), ("event_count", "BIGINT")),
}
_ACCOUNT_HISTORY: _Relations = {
    "account_limits": (("spike_factor", QUANTITY), ("events_min", "BIGINT"), ("window_count", "BIGINT")),
    "account_history": (  # usage that is summed, of the windows it is compared with
        ("account_id", "VARCHAR"),
        ("sku", "VARCHAR"),
        ("quantity", QUANTITY),
        ("event_count", "BIGINT"),
        ("window_count", "BIGINT"),  # in how many of them there was some
    ),
}

# What the SQL of an expectation may read beside its dataset: relations by name, their columns with SQL types.
RELATIONS_BESIDE: dict[str, _Relations] = {
    RAW_EVENTS.name: {**REFERENCES, **_RAW_COUNTS},
    USAGE_EVENTS.name: REFERENCES,
    USAGE.name: {**REFERENCES, USAGE_LEVELS.name: USAGE_LEVELS.columns, **_ACCOUNT_HISTORY},
    LINE_ITEMS.name: REFERENCES,
    INVOICES.name: {
        **REFERENCES,
        LINE_ITEMS.name: LINE_ITEMS.columns,
        "held_accounts": (("account_id", "VARCHAR"), ("reason", "VARCHAR")),
    },
}


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
    is_checked: bool = True  # false: there was too little to compare with, as `observed` says


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
