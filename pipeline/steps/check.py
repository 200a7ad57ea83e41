"""Check: every expectation of the suites over what a window revision has computed; the first gate.

Checked are the ``raw_events`` of the window, ``usage_events`` and ``usage`` of the revision, and the newest draft of
``line_items`` of each open period that the window touches; when a period is closed, its line items and ``invoices``.
What the SQL of an expectation may read beside its dataset is ``RELATIONS_BESIDE`` in core/check.py, and docs/checks.md.

The report is stored before the gate decides, so a refused revision shows why. It belongs to the revision, and
checking again what has not changed stores nothing new; a mended suite or another draft makes the next report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pipeline.adapters.checks import load_suite, run_suite
from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.check import (
    CHECK_RESULTS,
    REFERENCES,
    RELATIONS_BESIDE,
    CheckReport,
    CheckResult,
    require_checks_passed,
)
from pipeline.core.dataset import (
    EXCLUDED_EVENTS,
    INVOICES,
    LINE_ITEMS,
    RAW_EVENTS,
    USAGE,
    USAGE_EVENTS,
    USAGE_LEVELS,
    Dataset,
)
from pipeline.core.errors import NotReadyError
from pipeline.core.invoice import PreparedDocument
from pipeline.core.manifest import Receipt
from pipeline.core.money import minor_unit_digits
from pipeline.core.revision import LedgerObject, RevisionState, WindowRevision
from pipeline.core.slo import same_weekday_windows, too_little_history
from pipeline.core.window import BillingWindow
from pipeline.steps.aggregate import find_revision
from pipeline.steps.control_totals import night_of
from pipeline.steps.inputs import pinned_meters, view_raw_event_files, view_usage_events
from pipeline.steps.late import periods_touched
from pipeline.steps.outcomes import published_outcomes
from pipeline.steps.period_usage import account_periods, closed_pins
from pipeline.steps.pinned import pinned_sql
from pipeline.steps.publish import (
    dataset_files,
    manifest_files,
    pin_file,
    publish_document,
    read_document,
    read_manifest,
)
from pipeline.steps.workspace import Workspace

_RelationRows = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class _Checked:
    """One publication under check: its rows, and the revisions whose meters counted them.

    Of raw events and ``usage_events``, which are not stored by window, it is that of the excluded events that define
    them; of ``invoices``, that of the line items they are made from, and ``rows`` are theirs.
    """

    dataset: Dataset
    receipt: Receipt
    counted_by: tuple[WindowRevision, ...]
    period_id: str = ""
    rows: Sequence[tuple[Any, ...]] = ()


def check(workspace: Workspace, window_id: str, revision: int, at: datetime) -> CheckReport:
    """Store and return what the expectations found; ``CheckFailed`` after storing if a critical one does not hold.

    A revision that is accepted was accepted with what they found, by an override if need be: it is not refused again.
    """
    window = find_revision(workspace, window_id, revision)
    report = _check(workspace, window, list(_publications(workspace, window)), _scope(window_id, revision), at)
    if window.state is not RevisionState.ACCEPTED:
        require_checks_passed(report)
    return report


def check_period(workspace: Workspace, line_items: Receipt, at: datetime) -> CheckReport:
    """Check the line items that a period is about to be closed with; the last gate before invoices.

    They are those of the last night unless prices or the directory changed since, which no night has checked.
    """
    return _check_of_period(workspace, LINE_ITEMS, line_items, (), line_items.scope, at)


def check_invoices(
    workspace: Workspace, line_items: Receipt, documents: Iterable[PreparedDocument], at: datetime
) -> CheckReport:
    """Check the documents that a period is about to be closed with, before any of them has a number."""
    period_id = _period_id(line_items)
    rows = [(one.account_id, period_id, one.currency, one.issue_date, one.subtotal, one.total) for one in documents]
    return _check_of_period(workspace, INVOICES, line_items, rows, f"{line_items.scope}/invoices", at)


def _check_of_period(
    workspace: Workspace,
    dataset: Dataset,
    line_items: Receipt,
    rows: Sequence[tuple[Any, ...]],
    scope: str,
    at: datetime,
) -> CheckReport:
    rated = _rated_revisions(workspace, line_items)
    if not rated:
        return CheckReport("", 0, ())
    window = max(rated, key=lambda revision: revision.window_start)
    checked = _Checked(dataset, line_items, rated, _period_id(line_items), rows)
    report = _check(workspace, window, [checked], scope, at)
    require_checks_passed(report)
    return report


def _period_id(line_items: Receipt) -> str:
    period_id, _, _ = line_items.scope.removeprefix("period=").partition("/")
    return period_id


def _check(
    workspace: Workspace, window: WindowRevision, checked: list[_Checked], scope: str, at: datetime
) -> CheckReport:
    history = _history(workspace, window)
    datasets = {publication.dataset.name: publication.dataset for publication in checked}
    suites = {name: load_suite(dataset, workspace.project.files) for name, dataset in datasets.items()}
    results: list[CheckResult] = []
    with Warehouse(workspace.scratch, sql=_sql(workspace, window)) as warehouse:
        for name, rows in _reference_rows(workspace, window).items():
            warehouse.table_rows(name, REFERENCES[name], rows)
        for publication in checked:
            _name_relations(warehouse, workspace, window, publication, history)
            suite = suites[publication.dataset.name]
            results += run_suite(suite, publication.receipt.scope, warehouse.connection, history.too_little)
    report = CheckReport(window.window_id, window.revision, tuple(results))
    pins = {
        "accounts.csv": pin_file(workspace, workspace.project.files["accounts.csv"]),
        "checked": [[p.dataset.name, p.receipt.scope, p.receipt.manifest_hash] for p in checked],
        "expectations": {
            name: pin_file(workspace, content) for suite in suites.values() for name, content in suite.contents.items()
        },
        "history": history.pins,
        "inputs_hash": window.inputs_hash,
        "price_books": [priced.version for priced in workspace.project.price_books],
        "slo": workspace.project.settings.slo.model_dump(mode="json"),
    }
    publish_document(workspace, CHECK_RESULTS, scope, report.to_json(), pins, at)
    return report


def _name_relations(
    warehouse: Warehouse, workspace: Workspace, window: WindowRevision, checked: _Checked, history: _History
) -> None:
    """Name the dataset and everything that its expectations may read beside it."""
    files = manifest_files(workspace, checked.receipt.manifest_hash)
    beside = _rows_of_publication(workspace, checked)
    if checked.dataset is RAW_EVENTS:
        warehouse.view_files(EXCLUDED_EVENTS.name, EXCLUDED_EVENTS, files)
        beside["exclusions"] = [(row["reason"], row["event_count"]) for row in warehouse.select("exclusion_counts", {})]
        view_raw_event_files(warehouse, workspace, window.pins["raw_event_files"], "raw_event_files")
        warehouse.view_span(RAW_EVENTS.name, "raw_event_files", "event_at", window.window_start, window.window_end)
        night = _objects_of_the_night(workspace, window)
        beside["night"] = [(sum(one.line_count for one in night), sum(one.quarantine_count for one in night))]
        beside["volume_history"] = history.volumes
    elif checked.dataset is USAGE_EVENTS:
        view_usage_events(warehouse, workspace, window, files)
    elif checked.dataset is INVOICES:
        warehouse.view_files(LINE_ITEMS.name, LINE_ITEMS, files)
        warehouse.table_rows(INVOICES.name, INVOICES.columns, checked.rows)
        beside["held_accounts"] = sorted(workspace.control_plane.held_accounts(checked.period_id).items())
    else:
        warehouse.view_files(checked.dataset.name, checked.dataset, files)
    if checked.dataset is USAGE:
        levels = dataset_files(workspace, USAGE_LEVELS, window.scope, window.revision)
        warehouse.view_files(USAGE_LEVELS.name, USAGE_LEVELS, levels)
        settings = workspace.project.settings.slo
        limits = (settings.account_spike_factor, settings.account_events_min, len(history.windows))
        beside["account_limits"] = [limits]
        earlier = () if history.too_little else history.windows
        usage = [file for one in earlier for file in dataset_files(workspace, USAGE, one.scope, one.revision)]
        warehouse.view_files("usage_history", USAGE, usage)
        length = window.window_end - window.window_start
        warehouse.build("account_history", {"window_length": length}, keeps_order=True)
    columns = RELATIONS_BESIDE[checked.dataset.name]
    for name, rows in beside.items():
        warehouse.table_rows(name, columns[name], rows)


def _sql(workspace: Workspace, window: WindowRevision) -> dict[str, str]:
    """Return the SQL that the revision pins, and that of today for what only checks."""
    own = {query: sql_text(query) for query in ("account_history", "exclusion_counts")}
    return {**own, **pinned_sql(workspace, window.pins["sql"])}


@dataclass(frozen=True, slots=True)
class _History:
    """The accepted revisions that a window is compared with, how many events each had, or why there are too few."""

    windows: tuple[WindowRevision, ...]
    volumes: list[tuple[Any, ...]]
    too_little: str

    @property
    def pins(self) -> list[list[Any]]:
        return [[one.window_id, one.revision, one.inputs_hash] for one in self.windows]


def _history(workspace: Workspace, window: WindowRevision) -> _History:
    settings = workspace.project.settings.slo
    accepted = workspace.control_plane.accepted_revisions()
    earlier = same_weekday_windows(BillingWindow(window.window_start, window.window_end), settings.history_weeks)
    found = tuple(accepted[one.window_id] for one in earlier if one.window_id in accepted)
    outcomes = [(one.window_id, published_outcomes(workspace, one)) for one in found]
    volumes: list[tuple[Any, ...]] = [(name, one.window_event_count) for name, one in outcomes if one is not None]
    return _History(found, volumes, too_little_history(settings, found))


def _objects_of_the_night(workspace: Workspace, window: WindowRevision) -> list[LedgerObject]:
    night = night_of(workspace, window)
    return workspace.control_plane.objects_received(night.start, night.end)


def check_report(workspace: Workspace, window_id: str, revision: int) -> CheckReport | None:
    """Return the newest stored report of a window revision, if it was checked."""
    receipt = workspace.control_plane.publication(CHECK_RESULTS, _scope(window_id, revision))
    if receipt is None:
        return None
    return CheckReport.from_json(read_document(workspace, receipt.manifest_hash))


def _scope(window_id: str, revision: int) -> str:
    return f"window={window_id}/revision={revision}"


def _publications(workspace: Workspace, window: WindowRevision) -> Iterator[_Checked]:
    """Yield what is to be checked. The line items of a final period were checked before their invoices went out."""
    for dataset, published in ((RAW_EVENTS, EXCLUDED_EVENTS), (USAGE_EVENTS, EXCLUDED_EVENTS), (USAGE, USAGE)):
        receipt = workspace.control_plane.publication(published.name, window.scope, window.revision)
        if receipt is None:
            raise NotReadyError(
                "check.not_published",
                f"{dataset.name} of window {window.window_id} revision {window.revision} is not published",
                [f"expected {dataset.name} to be computed before it is checked", "run the window's steps in order"],
            )
        yield _Checked(dataset, receipt, (window,))
    touched = periods_touched(workspace, BillingWindow(window.window_start, window.window_end))
    for period_id in sorted(touched - workspace.control_plane.final_periods()):
        receipt = workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
        if receipt is not None:
            yield _Checked(LINE_ITEMS, receipt, _rated_revisions(workspace, receipt), period_id)


def _rated_revisions(workspace: Workspace, line_items: Receipt) -> tuple[WindowRevision, ...]:
    """Return the window revisions whose usage a draft was rated from, as its manifest pins them."""
    usage = [
        read_manifest(workspace, manifest_hash)
        for manifest_hash in read_manifest(workspace, line_items.manifest_hash).pins["usage"].values()
    ]
    known = {(revision.scope, revision.revision): revision for revision in workspace.control_plane.window_revisions()}
    return tuple(known[manifest.scope, manifest.revision] for manifest in usage)


def _reference_rows(workspace: Workspace, window: WindowRevision) -> _RelationRows:
    """Return the rows of ``REFERENCES`` that are the same beside each dataset."""
    directory = workspace.project.directory
    currencies = sorted({row.currency for row in directory.rows})
    grain = timedelta(seconds=window.pins["grain_seconds"])
    tolerance = timedelta(seconds=window.pins["future_tolerance_seconds"])
    return {
        "run": [(window.window_start, window.window_end, window.cutoff_at, grain, tolerance)],
        "accounts": sorted({(row.account_id, row.currency, row.plan) for row in directory.rows}),
        "account_validity": [(row.account_id, row.valid_from, row.valid_to) for row in directory.rows],
        "currencies": [(code, Decimal(1).scaleb(-minor_unit_digits(code))) for code in currencies],
        "slo": list(workspace.project.settings.slo.percents()),
    }


def _rows_of_publication(workspace: Workspace, checked: _Checked) -> _RelationRows:
    """Return the rows of ``REFERENCES`` that depend on what is checked: its meters, period and price books."""
    periods = account_periods(workspace, checked.period_id) if checked.period_id else {}
    return {
        "account_periods": [
            (account_id, period.period_id, period.start, period.end) for account_id, period in periods.items()
        ],
        "meters": sorted(_meters(workspace, checked.counted_by)),
        "price_books": [(version,) for version in _price_books(workspace, checked)],
    }


def _price_books(workspace: Workspace, checked: _Checked) -> list[str]:
    """Return the versions that may price: those of the project, and those that a final period was closed with."""
    closed = closed_pins(workspace, checked.period_id) if checked.period_id else None
    return sorted({*(closed["price_books"] if closed else ()), *(one.version for one in workspace.project.price_books)})


def _meters(workspace: Workspace, revisions: Iterable[WindowRevision]) -> set[tuple[str, str, str, str, str]]:
    by_hash = {revision.pins["meters.toml"]: revision for revision in revisions}
    return {
        (meter.sku, meter.event_type, meter.aggregation.value, meter.unit, meter.billed_unit)
        for revision in by_hash.values()
        for meter in pinned_meters(workspace, revision)
    }
