"""The commands ``billing price ...``: how finance changes a price."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import settings
from pipeline.cli_text import JsonOption, ProjectOption, now, print_json, table

price_app = typer.Typer(help="Price books: check, publish, approve, compare.", no_args_is_help=True)

UserOption = Annotated[
    str | None, typer.Option("--by", help="Who does this; recorded in the audit log; default: $BILLING_USER.")
]
BookArgument = Annotated[str, typer.Argument(metavar="BOOK", help="A version, its beginning, or a file (.toml).")]


@price_app.command(epilog="Example: billing price check price_books/2026-07.toml --project my-billing")
def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Default: all drafts.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check price books against the meters and accounts of the project; every problem is said with its line."""
    from pipeline.adapters.project_files import load_project
    from pipeline.steps.price_books import check_files

    checked = check_files(load_project(settings.project_folder(project), with_price_books=False), files or [])
    if as_json:
        print_json(checked)
        return
    for book in checked:
        named = (("plans", book.plan_count), ("charges", book.charge_count), ("overrides", book.override_count))
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
