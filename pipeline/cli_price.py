"""The commands ``billing price ...``: how finance changes a price."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import settings
from pipeline.cli_text import JsonOption, ProjectOption, now, parse, print_json, table
from pipeline.core.errors import PricingError
from pipeline.core.price_book_text import number

if TYPE_CHECKING:
    from pipeline.core.price_comparison import AmountChange
    from pipeline.steps.backtest import Backtest

price_app = typer.Typer(help="Price books: check, publish, approve, compare.", no_args_is_help=True)

UserOption = Annotated[
    str | None, typer.Option("--by", help="Who does this; recorded in the audit log; default: $BILLING_USER.")
]
SENTENCES_PRINTED_MAX = 20
BookArgument = Annotated[str, typer.Argument(metavar="BOOK", help="A version, its beginning, or a file (.toml).")]


@price_app.command(epilog="Example: billing price check price_books/2026-07.toml --project my-billing")
def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Default: all drafts.")] = None,
    cases: Annotated[
        list[Path] | None,
        typer.Option("--cases", metavar="FILE.jsonl", help="Rating cases; alone, they need no project."),
    ] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check price books against the meters and accounts of the project; every problem is said with its line.

    Rating cases are rated by both engines: those of --cases, and those in price_books/cases/ beside the books.
    """
    from pipeline.adapters.project_files import load_project
    from pipeline.steps.price_books import check_files
    from pipeline.steps.price_trials import require_cases

    with TemporaryDirectory(prefix="billing-price-") as scratch:
        if cases and not files:
            count = require_cases(cases, None, Path(scratch))
            if as_json:
                print_json({"case_count": count})
            else:
                typer.echo(f"{count:,} cases: both engines come to the expected amounts")
            return
        checked = check_files(
            load_project(settings.project_folder(project), with_price_books=False),
            files or [],
            Path(scratch),
            cases or [],
        )
    if as_json:
        print_json(checked)
        return
    for book in checked:
        named = [("plans", book.plan_count), ("charges", book.charge_count), ("overrides", book.override_count)]
        named += [("cases passed", book.case_count)]
        counts = ", ".join(f"{name}: {count:,}" for name, count in named)
        typer.echo(f"{book.file}: no problem; {book.version}, effective from {book.effective_from}; {counts}")


@price_app.command(epilog='Example: billing price publish price_books/2026-07.toml --by ana --reason "summer prices"')
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The draft, such as price_books/2026-07.toml.")],
    reason: Annotated[str, typer.Option(help="Why prices change; recorded in the audit log.")],
    by: UserOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a price book: checked, immutable, named by its content. It rates once somebody else approves it."""
    from pipeline.steps.price_books import publish_book
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project), with_price_books=False)
    result = publish_book(workspace, file, settings.user(by), reason, now())
    if as_json:
        print_json(result)
        return
    version = result.version
    state = "is published" if result.is_new else f"is already published, by {version.published_by}"
    typer.echo(f"{version.version} {state}, effective from {version.effective_from}")
    if version.approved_by is None:
        typer.echo(f"next: somebody else runs: billing price approve {version.version} --by NAME")


@price_app.command(epilog="Example: billing price approve standard@0123456789ab --by ben --project my-billing")
def approve(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As `billing price list` names it.")],
    by: UserOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a published book, as somebody who neither wrote nor published it; from now on it rates."""
    from pipeline.steps.price_books import approve_book
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project), with_price_books=False)
    result = approve_book(workspace, version, settings.user(by), now())
    if as_json:
        print_json(result)
        return
    approved = result.version
    state = "is approved" if result.is_new else f"is already approved, by {approved.approved_by}"
    typer.echo(f"{approved.version} {state} and rates from {approved.effective_from} on")
    if result.replaces:
        typer.echo(f"it replaces {result.replaces}, which has the same date")


@price_app.command("list", epilog="Example: billing price list --project my-billing")
def list_versions(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List the versions: state, effective date, who wrote and approved them, and the periods that they rate."""
    from pipeline.steps.price_books import list_books
    from pipeline.steps.workspace import open_workspace

    folder = settings.project_folder(project)
    workspace = open_workspace(folder, with_price_books=False)
    if workspace.project.settings.price_books.approval == "files":
        workspace = open_workspace(folder)
    books = list_books(workspace)
    if as_json:
        print_json(books)
        return
    if not books:
        typer.echo("no price book is published; next: billing price publish price_books/FILE.toml --reason TEXT")
        return
    header = ["version", "state", "effective", "author", "published by", "approved by", "rated periods"]
    rows = [
        [
            *(book.version, book.state, book.effective_from.isoformat(), book.author),
            *(book.published_by or "", book.approved_by or "", ", ".join(book.rated_periods)),
        ]
        for book in books
    ]
    for line in table([header, *rows]):
        typer.echo(line)


@price_app.command(epilog="Example: billing price show standard@0123456789ab --project my-billing")
def show(
    book: BookArgument,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print the bytes of the file.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a price book: its policy, each plan with its charges and tiers, and the overrides."""
    from pipeline.core.price_book_text import book_lines
    from pipeline.steps.price_books import find_book
    from pipeline.steps.workspace import open_workspace

    file = find_book(open_workspace(settings.project_folder(project), with_price_books=False), book)
    if as_toml:
        typer.echo(file.content, nl=False)
    elif as_json:
        print_json({"version": file.priced.version, **file.priced.book.model_dump(mode="json", exclude_none=True)})
    else:
        typer.echo(file.priced.version)
        for rows in book_lines(file.priced.book):
            for line in table(rows, right=()):
                typer.echo(line)


@price_app.command(epilog="Example: billing price diff standard@0123456789ab price_books/2026-07.toml")
def diff(
    before: BookArgument,
    after: BookArgument,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two books: prices by plan, SKU and currency, overrides, policy."""
    from pipeline.core.price_book_text import book_changes
    from pipeline.steps.price_books import find_book
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project), with_price_books=False)
    books = [find_book(workspace, name).priced for name in (before, after)]
    changes = book_changes(books[0].book, books[1].book)
    if as_json:
        print_json({"before": books[0].version, "after": books[1].version, "changes": changes})
        return
    typer.echo(f"{books[0].version} to {books[1].version}: {len(changes) or 'no'} changes")
    subject = None
    for change in changes:
        if change.subject != subject:
            typer.echo(change.subject)
            subject = change.subject
        if change.key in ("added", "removed"):
            typer.echo(f"  {change.key}: {change.new or change.old}")
        else:
            typer.echo(f"  {change.key}: {change.old or 'none'} -> {change.new or 'none'}")


@price_app.command(epilog="Example: billing price quote --account acct-7 --as-of 2026-01-20 --price-book draft.toml")
def quote(
    account: Annotated[str, typer.Option(help="The account, as accounts.csv names it.")],
    price_book: Annotated[str, typer.Option("--price-book", metavar="BOOK", help="A draft (.toml) or a version.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Usage up to the end of this day of the account; default: all.")
    ] = None,
    period: Annotated[str | None, typer.Option(help="The billing period; default: that of --as-of, or now.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an account's period would cost under a price book, line by line beside the live one; a dry run."""
    from pipeline.core.window import billing_period, calendar_date
    from pipeline.steps.price_books import find_sound_book
    from pipeline.steps.price_trials import quote as quote_step
    from pipeline.steps.workspace import open_workspace

    day = None if as_of is None else parse(as_of, "--as-of", calendar_date)
    period_id = period or (day or now().date()).strftime("%Y-%m")
    parse(period_id, "--period", lambda text: billing_period(text, "UTC"))
    workspace = open_workspace(settings.project_folder(project))
    quoted = quote_step(workspace, account, find_sound_book(workspace, price_book), period_id, day)
    if as_json:
        print_json(quoted)
        return
    live = ", ".join(quoted.live_versions) or "live"
    until = quoted.usage_until
    known = "no usage known" if until is None else f"usage until {until:%Y-%m-%d %H:%M} UTC"
    of_account = f"{quoted.account_id}, {quoted.period_id}, in {quoted.currency}, {known}"
    typer.echo(f"{of_account}: {live} beside {quoted.new_version}")
    header = ["line", "description", "quantity", "unit", "live", "new", "change"]
    rows = [
        [
            *(line.line_item_id.removeprefix(f"{quoted.account_id}/"), line.description),
            number(line.new_quantity or line.live_quantity or Decimal(0)),
            *(line.unit, *_amounts(line.live_amount, line.new_amount)),
        ]
        for line in quoted.lines
    ]
    total = ["total", "", "", "", *_amounts(quoted.live_total, quoted.new_total)]
    for text in table([header, *rows, total], right=(2, 4, 5, 6)):
        typer.echo(text)
    for problem in quoted.live_problems:
        typer.echo(f"the live book does not price it: {problem}", err=True)


@price_app.command(epilog="Example: billing price backtest price_books/2026-07.toml --from 2025-12 --to 2026-02")
def backtest(
    book: BookArgument,
    first: Annotated[str, typer.Option("--from", metavar="YYYY-MM", help="The first period.")],
    last: Annotated[str | None, typer.Option("--to", metavar="YYYY-MM", help="The last one; default: --from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the page; default: out/ of the project.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rate past periods again under a price book, from their pinned usage, and say what changes; nothing is published.

    A page and a Parquet file go into OUT/backtests/VERSION. Exit code 1 says that usage has no price under the book,
    or that the two raters do not agree.
    """
    from pipeline.steps.backtest import backtest as backtest_step
    from pipeline.steps.backtest import periods_between
    from pipeline.steps.price_books import find_book
    from pipeline.steps.workspace import open_workspace

    parse(first, "--from", lambda text: periods_between(text, text))
    period_ids = parse(last or first, "--to", lambda text: periods_between(first, text))
    workspace = open_workspace(settings.project_folder(project), with_price_books=False)
    result = backtest_step(workspace, find_book(workspace, book), period_ids, out or workspace.out)
    if as_json:
        print_json(result)
    else:
        _print_backtest(result)
    if not result.is_sound:
        raise typer.Exit(PricingError.exit_code)


def _print_backtest(result: Backtest) -> None:
    periods = ", ".join(f"{one.period_id} ({one.state})" for one in result.periods)
    typer.echo(f"{result.version} over {periods}")
    if result.left_out:
        typer.echo(f"left out, without line items: {', '.join(result.left_out)}")
    for one in result.currencies:
        typer.echo()
        header = [one.currency, "accounts", "changed", "now", "then", "change", "%"]
        named = [("total", one.total), *((f"plan {each.name}", each) for each in one.by_plan)]
        named += [(f"SKU {each.name}", each) for each in one.by_sku]
        rows = [
            [name, f"{each.accounts:,}", f"{each.changed_accounts:,}", *_change_cells(each, one.currency)]
            for name, each in named
        ]
        for text in table([header, *rows], right=range(1, 7)):
            typer.echo(text)
        for label, accounts in (("pay more", one.pay_more), ("pay less", one.pay_less)):
            rows = [[each.name, *_change_cells(each, one.currency)] for each in accounts]
            for text in table([[label, *header[3:]], *rows], right=range(1, 5)) if rows else ():
                typer.echo(text)
    for sentences, what in ((result.unpriced, "without a price, counted as zero"), (result.disagreements, "disagree")):
        if sentences:
            typer.echo(f"\n{what} ({len(sentences):,}):", err=True)
            for sentence in sentences[:SENTENCES_PRINTED_MAX]:
                typer.echo(f"  {sentence}", err=True)
            if len(sentences) > SENTENCES_PRINTED_MAX:
                typer.echo(f"  and {len(sentences) - SENTENCES_PRINTED_MAX:,} more", err=True)
    typer.echo(f"\npage: {result.page}\nevery account and SKU: {result.changes}")


def _change_cells(change: AmountChange, currency: str) -> list[str]:
    from pipeline.adapters.text_formats import format_amount

    now, then, difference = (
        format_amount(each, currency) for each in (change.amount_now, change.amount_then, change.change)
    )
    percent = "" if change.percent is None else f"{'+' if change.percent > 0 else ''}{change.percent:,f}"
    return [now, then, f"+{difference}" if change.change > 0 else difference, percent]


canary_app = typer.Typer(help="A book that rates a share of the accounts in the shadow.", no_args_is_help=True)
price_app.add_typer(canary_app, name="canary")


@canary_app.command("set", epilog="Examples: billing price canary set price_books/2026-07.toml; ... canary set off")
def set_canary(
    book: Annotated[str, typer.Argument(metavar="BOOK|off", help="A draft (.toml) or a version; off ends it.")],
    by: UserOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a book rate a share of the accounts each night, beside the live one; only the report shows it."""
    from pipeline.steps.price_books import find_sound_book
    from pipeline.steps.price_trials import set_canary as set_step
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project), with_price_books=False)
    version = set_step(workspace, None if book == "off" else find_sound_book(workspace, book), settings.user(by), now())
    percent = workspace.project.settings.price_books.canary_percent
    if as_json:
        print_json({"version": version, "percent": percent})
    elif version is None:
        typer.echo("no canary from the next night on")
    else:
        typer.echo(f"{version} rates {number(percent)} % of the accounts in the shadow from the next night on")


@canary_app.command("show", epilog="Example: billing price canary show --project my-billing")
def show_canary(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Say which book is the canary."""
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project), with_price_books=False)
    canary = workspace.control_plane.canary()
    if as_json:
        print_json(canary)
    elif canary is None:
        typer.echo("no book is the canary")
    else:
        typer.echo(f"{canary.version}, since {canary.set_at:%Y-%m-%d %H:%M} UTC, set by {canary.set_by}")


def _amounts(live: Decimal | None, new: Decimal | None) -> list[str]:
    """Return an amount before, after and the change, as texts."""
    change = (new or Decimal(0)) - (live or Decimal(0))
    sign = "+" if change > 0 else ""
    return ["" if live is None else f"{live:,f}", "" if new is None else f"{new:,f}", f"{sign}{change:,f}"]
