"""Rate: the usage of a billing period, from one revision of each of its windows, becomes draft line items.

A period is rated as a whole each time, because a tier counts across nights. Windows that are not accepted yet
are not in the draft; the window that is being billed takes part with the revision at hand. The SQL rater makes the
lines, the reference rater rates them once more (P7), and an account on which the two differ is held: its lines are in
the draft, it gets no invoice, and the accounts that are clean go on. The draft is published as ``line_items`` of the
period; nothing is issued here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.agreement import Agreement, rated_twice
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import PricingError, PublicationError
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.manifest import Manifest, Receipt, canonical_json
from pipeline.core.rating import unpriced
from pipeline.core.reconciliation import Equation
from pipeline.core.revision import WindowRevision
from pipeline.core.terms import PeriodTerms
from pipeline.steps.aggregate import find_revision
from pipeline.steps.period_usage import PERIOD_QUERIES, period_inputs, periods_touched, pinned_terms, view_period
from pipeline.steps.pinned import pin_sql, pinned_sql
from pipeline.steps.publish import pin_file, publish_next
from pipeline.steps.rate_slices import Slice, compare_slices, cut_slices, problems_of_slices, rate_slices
from pipeline.steps.sql_rater import SQL_RATER_QUERIES
from pipeline.steps.workspace import Workspace, require_price_book

log = logging.getLogger(__name__)

COMPARE_QUERIES = ("differing_lines",)
RATE_QUERIES = (*PERIOD_QUERIES, *SQL_RATER_QUERIES)
DISAGREEMENT = "the SQL rater and the reference rater do not agree"
TOO_LARGE = "warehouse.number_too_large"


@dataclass(frozen=True, slots=True)
class RatedPeriod:
    """The files of a period's line items, in order, and the window revisions and usage (by window) they come from.

    ``pins`` names what ``period_usage`` read; see ``view_period``. ``agreement`` is that of the two raters.
    """

    period_id: str
    files: tuple[Path, ...]
    line_count: int
    revisions: tuple[WindowRevision, ...]
    usage: Mapping[str, Receipt]
    pins: Mapping[str, Any]
    agreement: Agreement


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
        with rated_period(workspace, period_id, at_hand, beside) as rated:
            if rated.line_count or workspace.control_plane.publication(LINE_ITEMS.name, f"period={period_id}"):
                receipts.append(publish_draft(workspace, rated, at))
    return receipts


def rate_period(workspace: Workspace, period_id: str, at: datetime, candidate: WindowRevision | None) -> Receipt:
    """Publish the draft of an open period, also an empty one; the same usage and prices publish nothing new."""
    with rated_period(workspace, period_id, candidate) as rated:
        return publish_draft(workspace, rated, at)


@contextmanager
def rated_period(
    workspace: Workspace,
    period_id: str,
    candidate: WindowRevision | None,
    beside: Sequence[WindowRevision] = (),
    accounts: Collection[str] | None = None,
) -> Iterator[RatedPeriod]:
    """Rate a period from the newest accepted revision of each window, or the candidate of its own; files last as long.

    An accepted revision gives way to one of ``beside``, as in ``rate``. A revision whose usage is not published yet
    raises ``NotReadyError``: a draft never leaves out a night silently. Usage without a price raises one
    ``PricingError`` that names all of it. With ``accounts`` only these are rated, which the pins say, too.
    """
    require_price_book(workspace.project)
    inputs = period_inputs(workspace, period_id, candidate, beside)
    sql = {query: sql_text(query) for query in (*RATE_QUERIES, *COMPARE_QUERIES)}
    with scratch_folder(workspace.scratch, "rate") as folder:
        with Warehouse(workspace.scratch) as warehouse:
            view_period(warehouse, workspace, inputs.pins, inputs.terms)
            if accounts is None:
                _require_terms(warehouse, inputs.terms)
            slices = _slices(warehouse, inputs.terms, folder, sql, accounts)
        agreement = _rate_twice(workspace, period_id, slices)
        yield RatedPeriod(
            period_id,
            tuple(one.lines for one in slices),
            agreement.line_count,
            inputs.revisions,
            inputs.usage,
            inputs.pins if accounts is None else {**inputs.pins, "accounts": sorted(accounts)},
            agreement,
        )


def pinned_lines(
    workspace: Workspace, draft: Manifest, own_files: Mapping[tuple[str, str], Sequence[Path]], folder: Path
) -> list[Path]:
    """Return the line items of a published draft once more, from its pins, as files in order.

    ``own_files`` are as in ``view_period``. The SQL that is pinned rates again, alone: what it came to was compared
    when it was published.
    """
    terms = pinned_terms(workspace, draft.pins, draft.pins["period_id"])
    sql = pinned_sql(workspace, draft.pins["sql"])
    accounts = draft.pins.get("accounts")
    with Warehouse(workspace.scratch, sql=sql) as warehouse:
        view_period(warehouse, workspace, draft.pins, terms, own_files)
        slices = _slices(warehouse, terms, folder, sql, accounts)
    rate_slices(slices)
    return [one.lines for one in slices]


def publish_draft(workspace: Workspace, rated: RatedPeriod, at: datetime, scope: str | None = None) -> Receipt:
    """Publish the line items of an open period, and hold the accounts that the raters do not agree on.

    A final period is refused, because its invoices rest on what it has; a ``scope`` of its own is not the period's.
    """
    if scope is None and workspace.control_plane.period_state(rated.period_id) == "final":
        raise PublicationError(
            "rate.period_is_final",
            f"period {rated.period_id} is final and is never rated again",
            ["its invoices rest on the line items it was closed with; nothing was published"],
        )
    pins = {
        "agreement": pin_file(workspace, canonical_json(rated.agreement.to_json())),
        "period_id": rated.period_id,
        "sql": pin_sql(workspace, RATE_QUERIES),
        **rated.pins,
    }
    scope = scope or f"period={rated.period_id}"
    receipt = publish_next(workspace, LINE_ITEMS, scope, rated.files, pins, at)
    for account_id, lines in rated.agreement.accounts.items():
        log.error("account %s of period %s is held: %s", account_id, rated.period_id, DISAGREEMENT)
        for line in lines:
            log.error("%s", line.sentence)
        control = Equation.RATED_TWICE.value
        workspace.control_plane.hold_for_control(rated.period_id, account_id, control, DISAGREEMENT, at)
    return receipt


def line_items_in(warehouse: Warehouse) -> Iterator[LineItem]:
    """Yield the rows of ``line_items`` in a warehouse, in their order; until the last one it can do nothing else."""
    for row in warehouse.rows(LINE_ITEMS.name):
        line = LineItem(*row)
        yield line._replace(kind=LineKind(line.kind))


def pinned_agreement(workspace: Workspace, pins: Mapping[str, Any]) -> Agreement:
    """Return how the raters agreed, from the pins of a draft."""
    return Agreement.from_json(json.loads(workspace.lake.get_bytes(f"pins/{pins['agreement']}")))


def _slices(
    warehouse: Warehouse,
    terms: PeriodTerms,
    folder: Path,
    sql: Mapping[str, str],
    accounts: Collection[str] | None,
) -> list[Slice]:
    """Return the slices of all accounts with terms, or of some; without any there is one, of nobody."""
    chosen = [one for account_id, one in terms.accounts.items() if accounts is None or account_id in accounts]
    return cut_slices(warehouse, sorted(chosen, key=lambda one: one.account.account_id), folder, sql)


def _require_terms(warehouse: Warehouse, terms: PeriodTerms) -> None:
    """Refuse usage of accounts that have no terms: nobody would be billed for it."""
    problems = []
    for account_id, sku, *_, unit, quantity, _count in warehouse.rows("period_usage"):
        if account_id not in terms.accounts and quantity:
            where = f"account {account_id}, SKU {sku}, {quantity.normalize():f} {unit}"
            missing = "the account is not in accounts.csv any more; its usage would vanish"
            problems.append(f"{where}: {terms.problems.get(account_id, missing)}")
    if problems:
        raise unpriced(problems, terms.period_id)


def _rate_twice(workspace: Workspace, period_id: str, slices: Sequence[Slice]) -> Agreement:
    try:
        rated = rate_slices(slices)
    except PricingError as error:
        if error.code != TOO_LARGE:
            raise
        _refuse_unpriced(slices, None, period_id, error)
        raise
    refused = {row["account_id"] for one in rated for row in one.unpriced}
    if refused:
        _refuse_unpriced(slices, refused, period_id, None)
    line_count = sum(one.line_count for one in rated)
    terms = [terms for one in slices for terms in one.terms]
    lines_max = workspace.project.settings.rating.reference_lines_max
    chosen = rated_twice(terms, line_count, lines_max, workspace.control_plane.held_accounts(period_id))
    compared = compare_slices(slices, chosen)
    problems = [problem for one in compared for _, problem in one.problems]
    if problems:
        raise unpriced(problems, period_id)
    return Agreement(
        account_count=len(terms),
        line_count=line_count,
        compared_account_count=sum(one.account_count for one in compared),
        compared_line_count=sum(one.line_count for one in compared),
        disagreements=tuple(
            sorted((line for one in compared for line in one.disagreements), key=lambda line: line.line_item_id)
        ),
    )


def _refuse_unpriced(
    slices: Sequence[Slice], accounts: Collection[str] | None, period_id: str, cause: Exception | None
) -> None:
    """Raise what the reference rater says of usage that the SQL rater has no price or no room for."""
    compared = [problem for one in problems_of_slices(slices, accounts) for _, problem in one.problems]
    if compared:
        raise unpriced(compared, period_id) from cause
    if accounts is not None:
        named = ", ".join(sorted(accounts)[:10])
        raise PricingError(
            "rate.raters_refuse_differently",
            f"the SQL rater has no price for usage that the reference rater prices ({len(accounts)} accounts)",
            [f"accounts {named}", f"nothing of period {period_id} was rated; this is a defect of one of the raters"],
        )
