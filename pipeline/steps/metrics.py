"""Metrics: the newest service levels, and how billing stands now, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from pipeline import __version__
from pipeline.adapters.open_metrics import Gauge, open_metrics_text, write_text_file
from pipeline.core.breaks import BreakClass
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.core.sli import Indicator, ServiceLevel
from pipeline.core.window import EPOCH
from pipeline.steps.alerts import SPEND_ALERTS, reached_thresholds
from pipeline.steps.run_costs import cost_level
from pipeline.steps.service_levels import PublishedServiceLevels, newest_service_levels, published_service_levels
from pipeline.steps.workspace import Workspace

ACCOUNTS_SHOWN_MAX = 100  # labels are kept for ever by whoever scrapes them

# Every metric: what it says, and its labels. Rules and dashboards name nothing else (a test compares).
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "billing_build_info": ("The version of the pipeline; always 1.", ("version",)),
    "billing_watermark_timestamp_seconds": ("Up to when everything in the bucket is collected.", ()),
    "billing_accepted_until_timestamp_seconds": ("Up to when every window is accepted.", ()),
    "billing_next_deadline_timestamp_seconds": ("When the first window that is not accepted has to be.", ()),
    "billing_windows": ("Windows by the state of their newest revision.", ("state",)),
    "billing_window_end_timestamp_seconds": ("End of the newest window that was measured.", ()),
    "billing_accepted_after_cutoff_seconds": ("How long after its cutoff that window was accepted first.", ()),
    "billing_unexplained_events": ("Events of that window that nothing explains; zero is the promise.", ()),
    "billing_failed_controls": ("Controls of that window that failed.", ()),
    "billing_sli_good_ratio": ("Share that is good, of the newest measurement.", ("indicator",)),
    "billing_sli_events": ("How many were counted in the newest measurement.", ("indicator",)),
    "billing_sli_target_ratio": ("Share that has to be good.", ("indicator",)),
    "billing_sli_error_budget_left_ratio": ("What is left of the error budget of the rolling period.", ("indicator",)),
    "billing_sli_burn_rate": ("How many times faster than evenly the budget is spent.", ("indicator", "days")),
    "billing_sli_figure": ("A figure beside the measurement; its name ends in the unit.", ("indicator", "figure")),
    "billing_objects_pending": ("Objects that the newest collection could not fetch.", ()),
    "billing_objects_unclaimed": ("Objects that no contract covers.", ()),
    "billing_held_accounts": ("Accounts that get no document of a period.", ("period_id",)),
    "billing_account_held": ("An account that is held; the first hundred of each period.", ("period_id", "account_id")),
    "billing_open_breaks": ("Differences that are not settled yet.", ("class",)),
    "billing_oldest_break_timestamp_seconds": ("When the oldest of them was opened.", ()),
    "billing_spend_thresholds_reached": ("Thresholds of spend that accounts reached.", ("period_id",)),
}

_Sample = tuple[str, tuple[str, ...], Decimal | int]


def metrics_text(ws: Workspace) -> str:
    """Return every metric of a project as OpenMetrics text."""
    samples: dict[str, list[tuple[tuple[str, ...], Decimal | int]]] = {name: [] for name in METRICS}
    for name, labels, number in _samples(ws):
        samples[name].append((labels, number))
    return open_metrics_text(
        Gauge(name, what, labels, tuple(samples[name])) for name, (what, labels) in METRICS.items() if samples[name]
    )


def write_metrics(ws: Workspace, to: Path | None = None) -> Path | None:
    """Write the metrics to a file, by default the one of the project; return it, or None if the project wants none."""
    name = ws.project.settings.operations.metrics_file
    if to is None and not name:
        return None
    path = to or ws.project.folder / name
    write_text_file(path, metrics_text(ws))
    return path


def night_figures(ws: Workspace, window_id: str, revision: int) -> dict[str, int]:
    """Return the counts of a revision's service levels by dotted names, as Airflow's metrics have them."""
    published = published_service_levels(ws, window_id, revision)
    counts = {} if published is None else {level.indicator: level.measurement for level in published.levels}
    return {
        f"billing.sli.{indicator.value}.{word}": number
        for indicator, measured in counts.items()
        for word, number in (("good", measured.good_count), ("total", measured.total_count))
    }


def _samples(ws: Workspace) -> Iterator[_Sample]:
    yield "billing_build_info", (__version__,), 1
    watermark_at = ws.control_plane.watermark_at()
    if watermark_at is not None:
        yield "billing_watermark_timestamp_seconds", (), _timestamp(watermark_at)
    newest = {revision.window_id: revision for revision in ws.control_plane.window_revisions()}
    yield from _windows(ws, list(newest.values()))
    levels = newest_service_levels(ws)
    if levels is not None:
        yield from _newest_window(ws, levels)
    cost = cost_level(ws)
    for level in (*(levels.levels if levels else ()), *([cost] if cost else ())):
        yield from _level(level)
    yield "billing_objects_pending", (), len(ws.control_plane.pending_objects())
    yield "billing_objects_unclaimed", (), len(ws.control_plane.unclaimed_objects())
    yield from _holds(ws)
    yield from _breaks(ws)
    for scope in ws.control_plane.published_scopes(SPEND_ALERTS):
        period_id = scope.removeprefix("period=")
        yield "billing_spend_thresholds_reached", (period_id,), len(reached_thresholds(ws, period_id))


def _windows(ws: Workspace, newest: list[WindowRevision]) -> Iterator[_Sample]:
    states = Counter(revision.state for revision in newest)
    for state in RevisionState:
        yield "billing_windows", (state.value,), states[state]
    accepted = {revision.window_start for revision in ws.control_plane.accepted_revisions().values()}
    settings = ws.project.settings
    accepted_until = settings.window.first_window_start
    while accepted_until in accepted:
        accepted_until += settings.window.length
    yield "billing_accepted_until_timestamp_seconds", (), _timestamp(accepted_until)
    deadline = settings.window.grace_period + settings.sli.pipeline_availability.deadline
    next_end = accepted_until + settings.window.length
    yield "billing_next_deadline_timestamp_seconds", (), _timestamp(next_end + deadline)


def _newest_window(ws: Workspace, levels: PublishedServiceLevels) -> Iterator[_Sample]:
    yield "billing_window_end_timestamp_seconds", (), _timestamp(levels.window_end)
    accepted_at = ws.control_plane.first_accepted_at(levels.window_id)
    if accepted_at is not None:
        cutoff_at = levels.window_end + ws.project.settings.window.grace_period
        yield "billing_accepted_after_cutoff_seconds", (), (accepted_at - cutoff_at) // timedelta(seconds=1)
    reconciled = levels.level(Indicator.RECONCILIATION)
    figures = {} if reconciled is None else reconciled.measurement.figures
    for name in ("unexplained_events", "failed_controls"):
        if name in figures:
            yield f"billing_{name}", (), figures[name]


def _level(level: ServiceLevel) -> Iterator[_Sample]:
    name, measured = level.indicator.value, level.measurement
    if measured.good_percent is not None:
        yield "billing_sli_good_ratio", (name,), measured.good_percent / 100
    yield "billing_sli_events", (name,), measured.total_count
    yield "billing_sli_target_ratio", (name,), level.target_percent / 100
    if level.budget_left_percent is not None:
        yield "billing_sli_error_budget_left_ratio", (name,), level.budget_left_percent / 100
    for days, rate in level.burn_rates.items():
        yield "billing_sli_burn_rate", (name, str(days)), rate
    for figure, number in measured.figures.items():
        yield "billing_sli_figure", (name, figure), number


def _holds(ws: Workspace) -> Iterator[_Sample]:
    held: dict[str, list[str]] = {}
    for hold in ws.control_plane.holds():
        if hold.released_at is None:
            held.setdefault(hold.period_id, []).append(hold.account_id)
    for period_id, accounts in sorted(held.items()):
        yield "billing_held_accounts", (period_id,), len(set(accounts))
        for account_id in sorted(set(accounts))[:ACCOUNTS_SHOWN_MAX]:
            yield "billing_account_held", (period_id, account_id), 1


def _breaks(ws: Workspace) -> Iterator[_Sample]:
    found = ws.control_plane.breaks()
    classes = Counter(one.break_class for one in found)
    for break_class in BreakClass:
        yield "billing_open_breaks", (break_class.value,), classes[break_class]
    if found:
        yield "billing_oldest_break_timestamp_seconds", (), _timestamp(min(one.opened_at for one in found))


def _timestamp(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(seconds=1)
