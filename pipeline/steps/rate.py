"""Rate: the usage of a billing period, from one revision of each of its windows, becomes draft line items.

A period is rated as a whole each time, because a tier counts across nights. Windows that are not accepted yet
are not in the draft; the window that is being billed takes part with the revision at hand. The draft is published
as ``line_items`` of the period; nothing is issued here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import PublicationError
from pipeline.core.manifest import Manifest, Receipt
from pipeline.core.project import book_on
from pipeline.core.rate_usage import LineItem, PeriodUsage, rate_usage
from pipeline.core.revision import WindowRevision
from pipeline.steps.aggregate import find_revision
from pipeline.steps.inputs import pinned_directory
from pipeline.steps.period_usage import (
    PERIOD_QUERIES,
    period_inputs,
    period_usage_rows,
    periods_touched,
    pinned_terms,
    view_period,
)
from pipeline.steps.pinned import pin_sql, pinned_price_books, pinned_sql
from pipeline.steps.publish import publish_next
from pipeline.steps.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RatedPeriod:
    """The line items of a period, and the window revisions and usage (by window) that they come from.

    ``pins`` names what ``period_usage`` read; see ``view_period``.
    """

    period_id: str
    lines: tuple[LineItem, ...]
    revisions: tuple[WindowRevision, ...]
    usage: Mapping[str, Receipt]
    pins: Mapping[str, Any]


def rate(
    workspace: Workspace, window_id: str, revision: int, at: datetime, beside: Sequence[WindowRevision] = ()
) -> list[Receipt]:
    """Publish the draft of each open period that the window touches in a time zone of the accounts.

    A final period keeps the line items that its invoices rest on. A period without usage has no draft,
    unless an earlier draft has to give way to it. ``beside`` are computed revisions that are about to supersede the
    accepted ones of their windows: the draft takes them instead, so that all windows are counted by one meter.
    """
    at_hand = find_revision(workspace, window_id, revision)
    receipts = []
    for period_id in periods_touched(workspace, at_hand):
        if workspace.control_plane.period_state(period_id) == "final":
            log.info("period %s is final: its line items stay as they were invoiced", period_id)
            continue
        rated = rated_period(workspace, period_id, at_hand, beside)
        if rated.lines or workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}"):
            receipts.append(publish_draft(workspace, rated, at))
    return receipts


def rate_period(workspace: Workspace, period_id: str, at: datetime, candidate: WindowRevision | None) -> Receipt:
    """Publish the draft of an open period, also an empty one; the same usage and prices publish nothing new."""
    return publish_draft(workspace, rated_period(workspace, period_id, candidate), at)


def rated_period(
    workspace: Workspace,
    period_id: str,
    candidate: WindowRevision | None,
    beside: Sequence[WindowRevision] = (),
) -> RatedPeriod:
    """Return the line items of a period from the newest accepted revision of each window, or the candidate of its own.

    An accepted revision gives way to one of ``beside``, as in ``rate``. A revision whose usage is not published yet
    raises ``NotReadyError``: a draft never leaves out a night silently.
    """
    inputs = period_inputs(workspace, period_id, candidate, beside)
    project = workspace.project
    with Warehouse(workspace.scratch) as warehouse:
        view_period(warehouse, workspace, inputs.pins, inputs.terms)
        period_usage = _old_rows(warehouse)
    lines = rate_usage(period_usage, period_id, project.directory.accounts(), project.price_book_on)
    return RatedPeriod(period_id, tuple(lines), inputs.revisions, inputs.usage, inputs.pins)


def write_lines(warehouse: Warehouse, lines: Iterable[LineItem], folder: Path) -> Path:
    """Write line items as a file of ``line_items``."""
    rows = [tuple(getattr(line, column) for column in LINE_ITEMS.column_names) for line in lines]
    warehouse.table_rows(LINE_ITEMS.name, LINE_ITEMS.columns, rows)
    return warehouse.write_table(LINE_ITEMS.name, folder / "line_items.parquet", LINE_ITEMS)


def pinned_lines(
    workspace: Workspace, draft: Manifest, own_files: Mapping[tuple[str, str], Sequence[Path]]
) -> list[LineItem]:
    """Return the line items of a published draft once more, from its pins; ``own_files`` as in ``view_period``."""
    period_id = draft.scope.removeprefix("period=")
    terms = pinned_terms(workspace, draft.pins, period_id)
    books = pinned_price_books(workspace, draft.pins["price_books"])
    directory = pinned_directory(workspace, draft.pins["accounts.csv"])
    with Warehouse(workspace.scratch, sql=pinned_sql(workspace, draft.pins["sql"])) as warehouse:
        view_period(warehouse, workspace, draft.pins, terms, own_files)
        period_usage = _old_rows(warehouse)
    return rate_usage(period_usage, period_id, directory.accounts(), lambda day: book_on(books, day))


def publish_draft(workspace: Workspace, rated: RatedPeriod, at: datetime) -> Receipt:
    """Publish the line items of an open period; a final one is refused, because its invoices rest on what it has."""
    if workspace.control_plane.period_state(rated.period_id) == "final":
        raise PublicationError(
            "rate.period_is_final",
            f"period {rated.period_id} is final and is never rated again",
            ["its invoices rest on the line items it was closed with; nothing was published"],
        )
    pins = {
        "sql": pin_sql(workspace, PERIOD_QUERIES),
        **rated.pins,
    }
    with (
        scratch_folder(workspace.scratch, "rate") as folder,
        Warehouse(workspace.scratch) as warehouse,
    ):
        draft = write_lines(warehouse, rated.lines, folder)
        return publish_next(workspace, LINE_ITEMS, f"period={rated.period_id}", draft, pins, at)


def _old_rows(warehouse: Warehouse) -> list[PeriodUsage]:
    names = ("account_id", "sku", "unit", "quantity", "aggregation")
    return [PeriodUsage(**{name: row[name] for name in names}) for row in period_usage_rows(warehouse)]
