"""Check: every expectation of the suites over what a window revision has computed; the first gate.

Checked are ``usage_events`` and ``usage`` of the revision, and the newest draft of ``line_items`` of each open
period that the window touches. Beside the dataset itself, the SQL of an expectation may read:

    run               one row: window_start, window_end, cutoff_at, grain, future_tolerance
    accounts          account_id, currency, plan
    account_validity  account_id, valid_from, valid_to
    account_periods   account_id, period_id, period_start, period_end (of the line items' period)
    meters            sku, event_type, aggregation, unit, billed_unit (as pinned by the revisions that were counted)
    currencies        currency, minor_unit
    price_books       version
    usage_levels      the levels of the revision (beside `usage` alone)

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
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.check import CheckReport, CheckResult, require_checks_passed
from pipeline.core.dataset import (
    AMOUNT,
    EXCLUDED_EVENTS,
    INSTANT,
    LINE_ITEMS,
    USAGE,
    USAGE_EVENTS,
    USAGE_LEVELS,
    Dataset,
)
from pipeline.core.errors import NotReadyError
from pipeline.core.manifest import Receipt
from pipeline.core.money import minor_unit_digits
from pipeline.core.revision import WindowRevision
from pipeline.core.window import BillingWindow
from pipeline.steps.aggregate import find_revision
from pipeline.steps.inputs import pinned_meters, view_usage_events
from pipeline.steps.late import periods_touched
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

CHECK_RESULTS = "check_results"


@dataclass(frozen=True, slots=True)
class _Checked:
    """One publication under check: its rows, and the revisions whose meters counted them.

    Of ``usage_events``, which is not stored, it is that of the excluded events that define it.
    """

    dataset: Dataset
    receipt: Receipt
    counted_by: tuple[WindowRevision, ...]
    period_id: str = ""


def check(workspace: Workspace, window_id: str, revision: int, at: datetime) -> CheckReport:
    """Store and return what the expectations found; ``CheckFailed`` after storing if a critical one does not hold."""
    window = find_revision(workspace, window_id, revision)
    return _check(workspace, window, list(_publications(workspace, window)), _scope(window_id, revision), at)


def check_period(workspace: Workspace, line_items: Receipt, at: datetime) -> CheckReport:
    """Check the line items that a period is about to be closed with; the last gate before invoices.

    They are those of the last night unless prices or the directory changed since, which no night has checked.
    """
    rated = _rated_revisions(workspace, line_items)
    if not rated:
        return CheckReport("", 0, ())
    window = max(rated, key=lambda revision: revision.window_start)
    period_id, _, _ = line_items.scope.removeprefix("period=").partition("/")
    checked = _Checked(LINE_ITEMS, line_items, rated, period_id)
    return _check(workspace, window, [checked], line_items.scope, at)


def _check(
    workspace: Workspace, window: WindowRevision, checked: list[_Checked], scope: str, at: datetime
) -> CheckReport:
    datasets = {publication.dataset.name: publication.dataset for publication in checked}
    suites = {name: load_suite(dataset) for name, dataset in datasets.items()}
    results: list[CheckResult] = []
    for publication in checked:
        with Warehouse(workspace.scratch, sql=pinned_sql(workspace, window.pins["sql"])) as warehouse:
            files = manifest_files(workspace, publication.receipt.manifest_hash)
            if publication.dataset is USAGE_EVENTS:
                view_usage_events(warehouse, workspace, window, files)
            else:
                warehouse.view_files(publication.dataset.name, publication.dataset, files)
            if publication.dataset is USAGE:
                levels = dataset_files(workspace, USAGE_LEVELS, window.scope, window.revision)
                warehouse.view_files(USAGE_LEVELS.name, USAGE_LEVELS, levels)
            for name, columns, rows in _reference_tables(workspace, window, publication):
                warehouse.table_rows(name, columns, rows)
            suite = suites[publication.dataset.name]
            results += run_suite(suite, publication.receipt.scope, warehouse.connection)
    report = CheckReport(window.window_id, window.revision, tuple(results))
    pins = {
        "accounts.csv": pin_file(workspace, workspace.project.files["accounts.csv"]),
        "checked": [[p.dataset.name, p.receipt.scope, p.receipt.manifest_hash] for p in checked],
        "expectations": {name: pin_file(workspace, suite.content) for name, suite in suites.items()},
        "inputs_hash": window.inputs_hash,
        "price_books": [priced.version for priced in workspace.project.price_books],
    }
    publish_document(workspace, CHECK_RESULTS, scope, report.to_json(), pins, at)
    require_checks_passed(report)
    return report


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
    for dataset, published in ((USAGE_EVENTS, EXCLUDED_EVENTS), (USAGE, USAGE)):
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


def _reference_tables(
    workspace: Workspace, window: WindowRevision, checked: _Checked
) -> Iterator[tuple[str, Sequence[tuple[str, str]], list[tuple[Any, ...]]]]:
    """Yield the relations that expectations may read beside the dataset: name, columns, rows."""
    accounts = workspace.project.directory.accounts().values()
    yield (
        "run",
        (
            ("window_start", INSTANT),
            ("window_end", INSTANT),
            ("cutoff_at", INSTANT),
            ("grain", "INTERVAL"),
            ("future_tolerance", "INTERVAL"),
        ),
        [
            (
                window.window_start,
                window.window_end,
                window.cutoff_at,
                timedelta(seconds=window.pins["grain_seconds"]),
                timedelta(seconds=window.pins["future_tolerance_seconds"]),
            )
        ],
    )
    yield (
        "accounts",
        (("account_id", "VARCHAR"), ("currency", "VARCHAR"), ("plan", "VARCHAR")),
        sorted({(row.account_id, row.currency, row.plan) for row in workspace.project.directory.rows}),
    )
    yield (
        "account_validity",
        (("account_id", "VARCHAR"), ("valid_from", INSTANT), ("valid_to", INSTANT)),
        [(row.account_id, row.valid_from, row.valid_to) for row in workspace.project.directory.rows],
    )
    periods = account_periods(workspace, checked.period_id) if checked.period_id else {}
    yield (
        "account_periods",
        (("account_id", "VARCHAR"), ("period_id", "VARCHAR"), ("period_start", INSTANT), ("period_end", INSTANT)),
        [(account_id, period.period_id, period.start, period.end) for account_id, period in periods.items()],
    )
    yield (
        "meters",
        tuple((name, "VARCHAR") for name in ("sku", "event_type", "aggregation", "unit", "billed_unit")),
        sorted(_meters(workspace, checked.counted_by)),
    )
    yield (
        "currencies",
        (("currency", "VARCHAR"), ("minor_unit", AMOUNT)),
        [(code, Decimal(1).scaleb(-minor_unit_digits(code))) for code in sorted({a.currency for a in accounts})],
    )
    yield ("price_books", (("version", "VARCHAR"),), [(version,) for version in _price_books(workspace, checked)])


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
