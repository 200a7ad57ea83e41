"""Trials of a price book: cases, a quote, the nightly canary. Both engines rate, and nothing is published.

A book that is tried counts as in force for the whole period, whatever its ``effective_from``: the question is what the
period would cost under it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.adapters.lake import WriteBesideLake
from pipeline.adapters.price_book_files import PriceBookFile, read_price_book
from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.canary import BookComparison, compared, comparison_document, takes_part
from pipeline.core.decimals import plain_text
from pipeline.core.errors import BillingError, CheckFailed, InputError, PricingError
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.price_book import PriceBook
from pipeline.core.price_cases import CaseInputs, PriceCase, inputs_of, of_book, outcome_of, parse_cases
from pipeline.core.project import PricedBook
from pipeline.core.rating import rate_account, unpriced
from pipeline.core.revision import WindowRevision
from pipeline.core.terms import AccountTerms
from pipeline.steps.aggregate import find_revision
from pipeline.steps.period_usage import PeriodInputs, period_inputs, periods_touched, view_period
from pipeline.steps.publish import pin_file
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE, rate_in_sql, table_terms
from pipeline.steps.workspace import Workspace, require_price_book

ALWAYS = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Rated:
    """What both engines made of the same accounts: the lines of the reference, and what stands in their way.

    ``problems`` are by account: usage that has no price, or a line on which the engines disagree.
    """

    lines: list[LineItem]
    problems: Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class QuotedLine:
    """One line under the live book and under the new one; None where it has no such line."""

    line_item_id: str
    sku: str
    description: str
    kind: str
    unit: str
    live_quantity: Decimal | None
    new_quantity: Decimal | None
    live_amount: Decimal | None
    new_amount: Decimal | None


@dataclass(frozen=True, slots=True)
class Quote:
    """What an account's period would cost under a book, with its usage so far, beside the live book."""

    account_id: str
    period_id: str
    usage_until: datetime | None
    currency: str
    new_version: str
    live_versions: list[str]
    live_problems: list[str]
    lines: list[QuotedLine]
    live_total: Decimal
    new_total: Decimal


# ---- both engines ----


def rate_twice(warehouse: Warehouse, terms: Mapping[str, AccountTerms]) -> Rated:
    """Rate the accounts with both engines, from ``period_usage`` and ``event_values`` of the warehouse."""
    usage: defaultdict[str, list[PeriodUsage]] = defaultdict(list)
    values: defaultdict[str, list[EventValue]] = defaultdict(list)
    for row in _rows(warehouse, "period_usage"):
        usage[row["account_id"]].append(PeriodUsage(**row))
    for row in _rows(warehouse, "event_values"):
        values[row["account_id"]].append(EventValue(**row))
    problems: defaultdict[str, list[str]] = defaultdict(list)
    lines: list[LineItem] = []
    for account_id, one in terms.items():
        rated = rate_account(one, usage[account_id], values[account_id])
        lines += rated.lines
        problems[account_id] += rated.problems
    in_sql, refused = _sql_lines(warehouse, terms)
    for account_id, disagreement in _disagreements(lines, in_sql):
        if not problems[account_id]:
            problems[account_id].append(disagreement)
    for account_id, found in refused.items():
        if not problems[account_id]:
            problems[account_id] += [f"the SQL rater alone refuses: {sentence}" for sentence in found]
    return Rated(lines, {account_id: found for account_id, found in problems.items() if found})


def _rows(warehouse: Warehouse, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = warehouse.connection.table(table).to_arrow_table().to_pylist()
    return found


def _sql_lines(warehouse: Warehouse, terms: Mapping[str, AccountTerms]) -> tuple[list[LineItem], dict[str, list[str]]]:
    table_terms(warehouse, terms.values())
    rate_in_sql(warehouse)
    lines = [LineItem(**{**row, "kind": LineKind(row["kind"])}) for row in warehouse.select("line_items", {})]
    refused: dict[str, list[str]] = {}
    for row in warehouse.select("unpriced_usage", {}):
        refused.setdefault(row["account_id"], []).append(f"SKU {row['sku']}: {row['reason']}")
    return lines, refused


def _disagreements(reference: Iterable[LineItem], in_sql: Iterable[LineItem]) -> list[tuple[str, str]]:
    """Return each line that the engines do not make alike, to the last digit, as (account, sentence)."""
    sides = [{line.line_item_id: line for line in side} for side in (reference, in_sql)]
    found = []
    for line_item_id in sorted(sides[0].keys() | sides[1].keys()):
        figures = [_figures(side.get(line_item_id)) for side in sides]
        if figures[0] != figures[1]:
            line = sides[0].get(line_item_id) or sides[1][line_item_id]
            found.append((line.account_id, f"{line_item_id}: reference {_said(figures[0])}, SQL {_said(figures[1])}"))
    return found


def _figures(line: LineItem | None) -> tuple[Decimal, Decimal, Decimal] | None:
    return None if line is None else (line.quantity, line.amount_exact, line.amount)


def _said(figures: tuple[Decimal, Decimal, Decimal] | None) -> str:
    if figures is None:
        return "has no such line"
    return "quantity {}, exact {}, amount {}".format(*map(plain_text, figures))


# ---- cases ----


def require_cases(paths: Sequence[Path], book: PriceBook | None, scratch: Path) -> int:
    """Rate the cases of files with both engines and return how many there are; all that fail are in one refusal."""
    failures: list[str] = []
    count = 0
    for path in paths:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("price.no_file", f"{path} cannot be read: {error}", ["name a file of cases"]) from None
        here = Path.cwd()
        cases = parse_cases(text, str(path.relative_to(here) if path.is_relative_to(here) else path))
        named = [case for case in cases if case.charge is None]
        if book is None and named:
            raise InputError(
                "price.no_file",
                f"{named[0].where} names a plan, and no price book is named",
                ["billing price check BOOK.toml --cases FILE.jsonl"],
            )
        cases = cases if book is None else of_book(cases, book)
        failures += case_failures(cases, scratch)
        count += len(cases)
    if failures:
        raise CheckFailed(
            "price.cases_failed",
            f"rating cases are not met: {len(failures):,} differences in {count:,} cases",
            [*failures, "nothing was done; correct the price book or the case"],
        )
    return count


def case_failures(cases: Sequence[PriceCase], scratch: Path) -> list[str]:
    """Return, as sentences, each amount of a case that is not the expected one, under either engine."""
    inputs = [inputs_of(case) for case in cases]
    try:
        rated = _rated_cases(inputs, scratch)
    except PricingError as error:
        if len(cases) == 1:
            return [f"{cases[0].where}: {error.summary}: {error.details[0]}"]
        return [failure for case in cases for failure in case_failures([case], scratch)]
    lines_of: defaultdict[str, list[LineItem]] = defaultdict(list)
    for line in rated.lines:
        lines_of[line.account_id].append(line)
    failures: list[str] = []
    for case, one in zip(cases, inputs, strict=True):
        account_id = one.terms.account.account_id
        outcome = outcome_of(case, lines_of[account_id], rated.problems.get(account_id, ()))
        failures += outcome.differences()
    return failures


def _rated_cases(inputs: Sequence[CaseInputs], scratch: Path) -> Rated:
    with Warehouse(scratch) as warehouse:
        usage = [astuple(row) for one in inputs for row in one.usage]
        values = [astuple(row) for one in inputs for row in one.values]
        warehouse.table_rows("period_usage", PERIOD_USAGE, usage)
        warehouse.table_rows("event_values", EVENT_VALUES, values)
        return rate_twice(warehouse, {one.terms.account.account_id: one.terms for one in inputs})


# ---- a period under another book ----


def rate_under(
    workspace: Workspace,
    period_id: str,
    books: Sequence[PricedBook],
    files: Mapping[str, bytes],
    account_ids: Collection[str],
    candidate: WindowRevision | None = None,
    beside: Sequence[WindowRevision] = (),
    until: datetime | None = None,
) -> Rated:
    """Return what accounts pay for a period under some books; ``until`` leaves out windows that begin then or later.

    ``files`` hold the bytes of the books. Nothing is put into the lake.
    """
    project = replace(workspace.project, price_books=tuple(books), files={**workspace.project.files, **files})
    with scratch_folder(workspace.scratch, "trial") as folder, Warehouse(workspace.scratch) as warehouse:
        tried = replace(workspace, project=project, lake=WriteBesideLake(workspace.lake, folder))
        inputs = period_inputs(tried, period_id, candidate, beside)
        chosen = {name: one for name, one in inputs.terms.accounts.items() if name in account_ids}
        refused = {name: [sentence] for name, sentence in inputs.terms.problems.items() if name in account_ids}
        pins = inputs.pins if until is None else _pins_until(inputs, until)
        view_period(warehouse, tried, pins, inputs.terms, account_ids=account_ids)
        rated = rate_twice(warehouse, chosen)
    return Rated(rated.lines, {**rated.problems, **refused})


def _pins_until(inputs: PeriodInputs, until: datetime) -> dict[str, Any]:
    """Return the pins of a period without the windows that begin at an instant or later."""
    kept = [revision for revision in inputs.revisions if revision.window_start < until]
    windows = {revision.window_id for revision in kept}
    pins = dict(inputs.pins)
    for name in ("usage", "usage_levels", "usage_values"):
        pins[name] = {window_id: pin for window_id, pin in pins[name].items() if window_id in windows}
    if kept:
        pins["levels_until"] = max(revision.window_end for revision in kept).isoformat()
    return pins


def as_if_in_force(file: PriceBookFile) -> PricedBook:
    """Return a book as one that was always in force."""
    return PricedBook(file.priced.book.model_copy(update={"effective_from": ALWAYS}), file.priced.version)


def quote(workspace: Workspace, account_id: str, file: PriceBookFile, period_id: str, as_of: date | None) -> Quote:
    """Return what the account's period would cost under a book, with the usage up to the end of a day, or all of it.

    The day is one of the account's own zone; the window that the day ends in takes part.
    """
    account = workspace.project.directory.accounts().get(account_id)
    if account is None:
        raise InputError(
            "account.unknown", f"account {account_id} is not in accounts.csv", ["nothing was rated; name another one"]
        )
    until = None
    if as_of is not None:
        until = datetime.combine(as_of + timedelta(days=1), time.min, ZoneInfo(account.time_zone))
    new = rate_under(workspace, period_id, [as_if_in_force(file)], {file.name: file.content}, {account_id}, until=until)
    if new.problems:
        raise unpriced([sentence for found in new.problems.values() for sentence in found], period_id)
    live_books = workspace.project.price_books
    live = Rated([], {account_id: ["no price book is in force"]})
    if live_books:
        live = rate_under(workspace, period_id, live_books, {}, {account_id}, until=until)
    live_lines = [] if live.problems else live.lines
    [*totals] = compared(live_lines, new.lines).totals
    return Quote(
        account_id,
        period_id,
        until,
        account.currency,
        file.priced.version,
        sorted({line.price_book_version for line in live_lines}),
        live.problems.get(account_id, []),
        _side_by_side(live_lines, new.lines),
        totals[0].live if totals else Decimal(0),
        totals[0].other if totals else Decimal(0),
    )


def _side_by_side(live: Iterable[LineItem], new: Iterable[LineItem]) -> list[QuotedLine]:
    sides = [{line.line_item_id: line for line in side} for side in (live, new)]
    lines = []
    for line_item_id in sorted(sides[0].keys() | sides[1].keys()):
        before, after = (side.get(line_item_id) for side in sides)
        line = after or before
        if line is not None:
            lines.append(
                QuotedLine(
                    *(line_item_id, line.sku, line.description, line.kind.value, line.unit),
                    live_quantity=before.quantity if before else None,
                    new_quantity=after.quantity if after else None,
                    live_amount=before.amount if before else None,
                    new_amount=after.amount if after else None,
                )
            )
    return lines


# ---- the canary ----


def set_canary(workspace: Workspace, file: PriceBookFile | None, by: str, at: datetime) -> str | None:
    """Let a book rate a share of the accounts in the shadow from the next night on, or none; return its version."""
    if file is None:
        workspace.control_plane.set_canary(None, None, by, at)
        return None
    sha256 = pin_file(workspace, file.content)
    return workspace.control_plane.set_canary(file.priced.version, sha256, by, at).version


def run_canary(workspace: Workspace, window_id: str, number: int, beside: Sequence[WindowRevision] = ()) -> bool:
    """Rate the open periods of a window under the canary book too, and keep the difference for the report.

    Return whether there is a canary. What it cannot rate is part of what is kept: it never stops a night.
    """
    canary = workspace.control_plane.canary()
    if canary is None or canary.version is None:
        return False
    revision = find_revision(workspace, window_id, number)
    percent = workspace.project.settings.price_books.canary_percent
    accounts = workspace.project.directory.accounts()
    sample = {account_id for account_id in accounts if takes_part(account_id, percent)}
    file = read_price_book(canary.version, workspace.lake.get_bytes(f"pins/{canary.sha256}"))
    periods = []
    for period_id in periods_touched(workspace, revision):
        if workspace.control_plane.period_state(period_id) == "final":
            continue
        try:
            comparison, problems = _canary_period(workspace, period_id, file, sample, revision, beside)
            periods.append({"period_id": period_id, "problems": problems, **comparison_document(comparison)})
        except BillingError as error:
            periods.append({"period_id": period_id, "problems": [str(error)], **comparison_document(compared([], []))})
    document = {
        "version": canary.version,
        "percent": f"{percent:f}",
        "account_count": len(sample),
        "all_account_count": len(accounts),
        "periods": periods,
    }
    workspace.control_plane.keep_derived_pin(_derivation(revision), pin_file(workspace, canonical_json(document)))
    return True


def _canary_period(
    workspace: Workspace,
    period_id: str,
    file: PriceBookFile,
    sample: Collection[str],
    revision: WindowRevision,
    beside: Sequence[WindowRevision],
) -> tuple[BookComparison, list[str]]:
    require_price_book(workspace.project)
    live_books = workspace.project.price_books
    live = rate_under(workspace, period_id, live_books, {}, sample, revision, beside)
    other = rate_under(
        workspace, period_id, [as_if_in_force(file)], {file.name: file.content}, sample, revision, beside
    )
    problems = [f"account {name}: {sentence}" for name, found in sorted(other.problems.items()) for sentence in found]
    left_out = live.problems.keys() | other.problems.keys()
    sides = [[line for line in one.lines if line.account_id not in left_out] for one in (live, other)]
    return compared(*sides), problems


def canary_of(workspace: Workspace, revision: WindowRevision) -> dict[str, Any] | None:
    """Return what the canary showed on the night of a revision, if there was one."""
    derivation = _derivation(revision)
    pin = workspace.control_plane.derived_pins([derivation]).get(derivation)
    if pin is None:
        return None
    document: dict[str, Any] = json.loads(workspace.lake.get_bytes(f"pins/{pin}"))
    return document


def _derivation(revision: WindowRevision) -> str:
    return sha256_hex(canonical_json(["canary", revision.window_id, revision.revision, revision.inputs_hash]))
