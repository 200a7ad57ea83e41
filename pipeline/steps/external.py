"""External reports: read when they are collected, pinned with a reconciliation, and matched three ways.

A report is kept as evidence: it has no line that is billed. Its newest version counts, so a provider corrects a report
by writing it again, or by another object about other days.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pipeline.adapters.external_reports import report_rows
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.completeness import Evidence, EvidenceKind, newest_versions
from pipeline.core.decimals import plain_text
from pipeline.core.external import FIGURE_LIMIT, ExternalContract, ExternalFigure, external_figures
from pipeline.core.external_match import ExternalMatch, external_controls, report_controls
from pipeline.core.manifest import canonical_json
from pipeline.core.money import exact
from pipeline.core.reconciliation import Control
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.publish import pin_file
from pipeline.steps.workspace import Workspace

EXTERNAL_QUERY = "external_matches"
EXTERNAL_FIGURES = (
    ("account_id", "VARCHAR"),
    ("sku", "VARCHAR"),
    ("used_on", "VARCHAR"),
    ("quantity", "DECIMAL(38, 9)"),
    ("amount", "DECIMAL(38, 9)"),
)
EXTERNAL_DAYS = (("used_on", "VARCHAR"), ("is_newest", "BOOLEAN"))


def read_report(contract: ExternalContract, key: str, content: bytes) -> Evidence:
    """Return what a report says; of one that cannot be read, why. Reading never stops a collection."""
    try:
        figures = external_figures(contract, report_rows(contract, content))
    except ValueError as error:
        return unreadable_report(contract, key, str(error))
    rows = [[*one[:3], *(None if number is None else plain_text(number) for number in one[3:])] for one in figures]
    return _evidence(contract, key, {"fault": "", "figures": rows})


def unreadable_report(contract: ExternalContract, key: str, fault: str) -> Evidence:
    """Return a report of which only is known why nothing of it can be read."""
    return _evidence(contract, key, {"fault": fault, "figures": []})


def _evidence(contract: ExternalContract, key: str, content: Mapping[str, Any]) -> Evidence:
    return Evidence(contract.name, EvidenceKind.EXTERNAL_REPORT, key, canonical_json(content).decode())


def pin_external(workspace: Workspace) -> str | None:
    """Keep every contract and the newest version of every report in the lake, and return their SHA-256."""
    if not workspace.project.externals:
        return None
    reports = []
    for contract in workspace.project.externals:
        known = newest_versions(workspace.control_plane.evidence(contract.name))
        said = {one.evidence.key: json.loads(one.evidence.content) for one in known}
        reports.append({"contract": contract.model_dump(mode="json"), "reports": dict(sorted(said.items()))})
    return pin_file(workspace, canonical_json(reports))


def external_controls_of(
    workspace: Workspace,
    warehouse: Warehouse,
    pin: str,
    period_id: str,
    period_pins: Mapping[str, Any],
    known_accounts: Mapping[str, Any],
    *,
    is_whole: bool,
) -> list[Control]:
    """Return the controls of every report about a period, whose usage and line items are in the warehouse."""
    units = {meter["sku"]: meter["unit"] for meter in json.loads(_pinned(workspace, period_pins["billed_meters"]))}
    controls: list[Control] = []
    for entry in json.loads(_pinned(workspace, pin)):
        contract = ExternalContract.model_validate(entry["contract"])
        figures = _figures_of(period_id, entry["reports"])
        days = _days_of(contract, period_pins["usage"], workspace.project.settings.window.length, figures)
        faults = {key: said["fault"] for key, said in entry["reports"].items() if said["fault"]}
        if too_large := _too_large(figures):
            faults, days = {**faults, too_large: "its figures add up to more than 16 digits"}, []
        controls += report_controls(contract, period_id, faults, is_missing=not days, is_whole=is_whole)
        if not days:
            continue
        warehouse.table_rows("external_figures", EXTERNAL_FIGURES, figures)
        warehouse.table_rows("external_days", EXTERNAL_DAYS, [(day, day == days[-1]) for day in days])
        by_account, by_day = contract.columns.account is not None, contract.columns.day is not None
        parameters = {"by_account": by_account, "by_day": by_day, "currency": contract.currency or ""}
        matches = [
            ExternalMatch(
                period_id=period_id,
                unit=units.get(row["sku"], "units"),
                is_known=row["sku"] in units and (not by_account or row["account_id"] in known_accounts),
                **row,
            )
            for row in warehouse.select(EXTERNAL_QUERY, parameters)
        ]
        controls += external_controls(contract, matches, is_whole=is_whole)
    return controls


def _pinned(workspace: Workspace, sha256: str) -> bytes:
    return workspace.lake.get_bytes(f"pins/{sha256}")


def _too_large(figures: Iterable[ExternalFigure]) -> str:
    """Return the account and SKU whose figures of all reports are more than a control can keep, if there is one."""
    sums: dict[str, Decimal] = {}
    with exact():
        for one in figures:
            name = "/".join(filter(None, (one.account_id, one.sku)))
            largest = max(number.copy_abs() for number in (one.quantity, one.amount) if number is not None)
            sums[name] = sums.get(name, Decimal(0)) + largest
    return next((name for name, total in sorted(sums.items()) if total >= 10 * FIGURE_LIMIT), "")


def _figures_of(period_id: str, reports: Mapping[str, Any]) -> list[ExternalFigure]:
    return [
        ExternalFigure(account_id, sku, on, *(None if text is None else Decimal(text) for text in numbers))
        for said in reports.values()
        for account_id, sku, on, *numbers in said["figures"]
        if on[:7] == period_id
    ]


def _days_of(
    contract: ExternalContract, windows: Mapping[str, str], length: timedelta, figures: list[ExternalFigure]
) -> list[str]:
    """Return the days of the period that the report has and whose windows are all counted; or the period itself."""
    reported = sorted({one.on for one in figures})
    if contract.columns.day is None:
        return reported
    covered: Counter[str] = Counter()
    for window_id in windows:
        covered[parse_window(window_id, length).start.strftime("%Y-%m-%d")] += 1
    return [day for day in reported if covered[day] == ONE_DAY // length]
