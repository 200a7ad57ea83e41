"""Trials of a price book: cases, a quote, the nightly canary. Both raters rate, and nothing is published."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from pipeline.core.canary import takes_part
from pipeline.core.errors import BillingError, CheckFailed, InputError, PricingError
from pipeline.core.line_item import LineItem
from pipeline.core.manifest import canonical_json, sha256_hex
from pipeline.core.money import exact, minor_unit_digits
from pipeline.core.price_book import PriceBook
from pipeline.core.price_cases import PriceCase, inputs_of, of_book, outcome_of, parse_cases
from pipeline.core.price_comparison import CurrencyComparison
from pipeline.core.rating import unpriced
from pipeline.core.revision import WindowRevision
from pipeline.steps.aggregate import find_revision
from pipeline.steps.book_trial import (
    TriedLines,
    as_if_in_force,
    compared_currencies,
    rate_tried,
    read_lines,
    tried_slices,
    write_price_changes,
)
from pipeline.steps.period_usage import PeriodInputs, period_inputs, periods_touched, view_period
from pipeline.steps.publish import pin_file
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE
from pipeline.steps.workspace import Workspace, require_price_book


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
    """What an account's period would cost under a book, with its usage so far, beside the live book.

    ``usage_until`` is the end of the last window that was counted; None where no usage of the period is known.
    """

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


# ---- cases ----


def require_cases(paths: Sequence[Path], book: PriceBook | None, scratch: Path) -> int:
    """Rate the cases of files with both raters and return how many there are; all that fail are in one refusal."""
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


def case_failures(cases: Sequence[PriceCase], scratch: Path, sql: Mapping[str, str] | None = None) -> list[str]:
    """Return, as sentences, each amount of a case that is not the expected one, under either rater.

    ``sql`` holds the queries to rate with instead of those of today.
    """
    inputs = [inputs_of(case) for case in cases]
    try:
        with scratch_folder(scratch, "cases") as folder:
            with Warehouse(scratch) as warehouse:
                usage = [astuple(row) for one in inputs for row in one.usage]
                values = [astuple(row) for one in inputs for row in one.values]
                warehouse.table_rows("period_usage", PERIOD_USAGE, usage)
                warehouse.table_rows("event_values", EVENT_VALUES, values)
                slices = tried_slices(warehouse, [one.terms for one in inputs], folder, sql)
            rated = rate_tried(slices)
            lines_of = _lines_by_account(scratch, rated)
    except PricingError as error:  # a number that has no place in a table
        if len(cases) == 1:
            return [f"{cases[0].where}: {error.summary}: {error.details[0]}"]
        return [failure for case in cases for failure in case_failures([case], scratch, sql)]
    failures: list[str] = []
    for case, one in zip(cases, inputs, strict=True):
        account_id = one.terms.account.account_id
        outcome = outcome_of(case, lines_of[account_id], rated.problems.get(account_id, ()))
        failures += outcome.differences()
    return failures


def _lines_by_account(scratch: Path, rated: TriedLines) -> defaultdict[str, list[LineItem]]:
    lines_of: defaultdict[str, list[LineItem]] = defaultdict(list)
    with Warehouse(scratch) as warehouse:
        for line in read_lines(warehouse, rated.files):
            lines_of[line.account_id].append(line)
    return lines_of


# ---- a period under another book ----


@contextmanager
def rated_under(
    workspace: Workspace,
    period_id: str,
    tried: PriceBookFile | None,
    account_ids: Collection[str],
    candidate: WindowRevision | None = None,
    beside: Sequence[WindowRevision] = (),
    until: datetime | None = None,
) -> Iterator[TriedLines]:
    """Rate a period for some accounts under a book, or under the live ones; the lines last as long as the context.

    Live are the books in force, or those that a final period was closed with. ``until`` leaves out windows that begin
    then or later. Nothing is put into the lake.
    """
    files = {} if tried is None else {tried.name: tried.content}
    project = replace(workspace.project, files={**workspace.project.files, **files})
    with scratch_folder(workspace.scratch, "trial") as folder:
        trial = replace(workspace, project=project, lake=WriteBesideLake(workspace.lake, folder / "lake"))
        book = None if tried is None else as_if_in_force(tried)
        inputs = period_inputs(trial, period_id, candidate, beside, book)
        chosen = [one for name, one in inputs.terms.accounts.items() if name in account_ids]
        without_terms = {name: [why] for name, why in inputs.terms.problems.items() if name in account_ids}
        pins = inputs.pins if until is None else _pins_until(inputs, until)
        with Warehouse(workspace.scratch) as warehouse:
            view_period(warehouse, trial, pins, inputs.terms, account_ids=account_ids)
            slices = tried_slices(warehouse, chosen, folder / "slices")
        rated = rate_tried(slices)
        known_until = max((one.window_end for one in _until(inputs, until)), default=None)
        yield replace(rated, unpriced={**rated.unpriced, **without_terms}, known_until=known_until)


def _until(inputs: PeriodInputs, until: datetime | None) -> list[WindowRevision]:
    """Return the revisions of the windows that begin before an instant, or of all."""
    return [revision for revision in inputs.revisions if until is None or revision.window_start < until]


def _pins_until(inputs: PeriodInputs, until: datetime) -> dict[str, Any]:
    """Return the pins of a period without the windows that begin at an instant or later."""
    kept = _until(inputs, until)
    windows = {revision.window_id for revision in kept}
    pins = dict(inputs.pins)
    for name in ("usage", "usage_levels", "usage_values"):
        pins[name] = {window_id: pin for window_id, pin in pins[name].items() if window_id in windows}
    if kept:
        pins["levels_until"] = max(revision.window_end for revision in kept).isoformat()
    return pins


def quote(workspace: Workspace, account_id: str, file: PriceBookFile, period_id: str, as_of: date | None) -> Quote:
    """Return what the account's period would cost under a book, with the usage up to the end of a day, or all of it.

    The day is one of the account's own zone; the window that the day ends in takes part. The live side of a final
    period is rated under the books that it was closed with.
    """
    account = workspace.project.directory.accounts().get(account_id)
    if account is None:
        raise InputError(
            "account.unknown", f"account {account_id} is not in accounts.csv", ["nothing was rated; name another one"]
        )
    until = None
    if as_of is not None:
        until = datetime.combine(as_of + timedelta(days=1), time.min, ZoneInfo(account.time_zone))
    new_lines, problems, known_until = _quoted(workspace, period_id, file, account_id, until)
    if problems:
        raise unpriced(problems, period_id)
    live_lines: list[LineItem] = []
    live_problems = ["no price book is in force"]
    if workspace.project.price_books or workspace.control_plane.period_state(period_id) == "final":
        live_lines, live_problems, _ = _quoted(workspace, period_id, None, account_id, until)
    return Quote(
        account_id,
        period_id,
        known_until,
        account.currency,
        file.priced.version,
        sorted({line.price_book_version for line in live_lines}),
        live_problems,
        _side_by_side(live_lines, new_lines),
        *(_total(lines, account.currency) for lines in (live_lines, new_lines)),
    )


def _quoted(
    workspace: Workspace,
    period_id: str,
    file: PriceBookFile | None,
    account_id: str,
    until: datetime | None,
) -> tuple[list[LineItem], list[str], datetime | None]:
    """Return the lines of an account, or none and why, and up to when its usage is known."""
    with rated_under(workspace, period_id, file, {account_id}, until=until) as rated:
        if problems := rated.problems.get(account_id):
            return [], problems, rated.known_until
        return _lines_by_account(workspace.scratch, rated)[account_id], [], rated.known_until


def _total(lines: Iterable[LineItem], currency: str) -> Decimal:
    with exact():
        return _in_minor_units(sum((line.amount for line in lines), Decimal(0)), currency)


def _in_minor_units(amount: Decimal, currency: str) -> Decimal:
    """Return a rounded amount with the decimals of its currency: a table of lines keeps four for all of them."""
    with exact():
        return amount.quantize(Decimal(1).scaleb(-minor_unit_digits(currency)))


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
                    live_amount=_in_minor_units(before.amount, before.currency) if before else None,
                    new_amount=_in_minor_units(after.amount, after.currency) if after else None,
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
            currencies, problems = _canary_period(workspace, period_id, file, sample, revision, beside)
        except BillingError as error:
            currencies, problems = [], [str(error)]
        documents = [one.to_json() for one in currencies]
        periods.append({"period_id": period_id, "problems": problems, "currencies": documents})
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
) -> tuple[list[CurrencyComparison], list[str]]:
    """Return what changes, and why accounts that are not in it are not."""
    require_price_book(workspace.project)
    with (
        scratch_folder(workspace.scratch, "canary") as folder,
        rated_under(workspace, period_id, None, sample, revision, beside) as live,
        rated_under(workspace, period_id, file, sample, revision, beside) as other,
        Warehouse(workspace.scratch) as warehouse,
    ):
        left_out = live.problems.keys() | other.problems.keys()
        changes = write_price_changes(warehouse, live.files, other.files, folder / "changes.parquet", left_out)
        currencies = compared_currencies(warehouse, [changes])
    problems = [f"account {name}: {sentence}" for name, found in other.problems.items() for sentence in found]
    return currencies, problems


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
