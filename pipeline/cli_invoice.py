"""The commands ``billing invoice`` and ``billing credit``."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import typer

from pipeline import settings
from pipeline.cli_text import (
    ByOption,
    JsonOption,
    ProjectOption,
    ReasonOption,
    now,
    parse,
    print_json,
    print_problems,
    table,
)
from pipeline.cli_text import as_json as as_json_value
from pipeline.core.decimals import plain_text
from pipeline.core.errors import PublicationError
from pipeline.core.window import billing_period, calendar_date

invoice_app = typer.Typer(help="Documents: drafts, invoices, credit notes, adjustments.", no_args_is_help=True)
credit_app = typer.Typer(help="Prepaid and promotional credits, drawn down by invoices.", no_args_is_help=True)

PeriodFilter = Annotated[str | None, typer.Option("--period", help="The billing period; default: all.")]
AccountFilter = Annotated[str | None, typer.Option("--account", help="The account; default: all.")]
NumberArgument = Annotated[str, typer.Argument(metavar="NUMBER", help="The number of the document.")]


@invoice_app.command("list", epilog="Example: billing invoice list --period 2026-01")
def list_documents(
    period: PeriodFilter = None,
    account: AccountFilter = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """List documents with their state and amounts."""
    from pipeline.steps.workspace import open_workspace

    documents = open_workspace(settings.project_folder(project)).control_plane.documents(period, account)
    if as_json:
        print_json([{**as_json_value(document), "state": document.state} for document in documents])
        return
    header = ["number", "document", "state", "period", "account", "total", "due", "currency", "corrects"]
    rows = [
        [
            *(document.number, document.kind.value, document.state.value, document.period_id, document.account_id),
            *(f"{document.total:f}", f"{document.amount_due:f}", document.currency, document.corrects or ""),
        ]
        for document in documents
    ]
    for line in table([header, *rows], right=(5, 6)) if rows else ["none"]:
        typer.echo(line)


@invoice_app.command("show", epilog="Example: billing invoice show LLM-000001")
def show(number: NumberArgument, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Print a document, checked against its hash, and say whether it is void; its JSON is the document."""
    from pipeline.steps.documents import document_bytes, find_document
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    document = find_document(workspace, number)
    content = json.loads(document_bytes(workspace, document))
    if as_json:
        print_json({**as_json_value(document), "state": document.state, "content": content})
        return
    typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
    if document.voided_at is not None:
        said = f"void since {document.voided_at.isoformat()} by {document.voided_by}: {document.void_reason}"
        typer.echo(f"document {number} is {said}", err=True)


@invoice_app.command("render", epilog="Example: billing invoice render --period 2026-01 --pdf")
def render(
    period: Annotated[str, typer.Option(help="The billing period, such as 2026-01.")],
    number: Annotated[str | None, typer.Option(help="Only the document of this number; default: all.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="PDFs, too; default: the formats of billing.toml.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the files of issued documents; what is there already, from the same document, stays as it is."""
    from pipeline.steps.render import render_period
    from pipeline.steps.workspace import open_workspace

    parse(period, "--period", lambda text: billing_period(text, "UTC"))
    workspace = open_workspace(settings.project_folder(project))
    result = render_period(workspace, period, number, ("pdf",) if pdf else ())
    if as_json:
        print_json(result)
    else:
        print_problems(result.rendered.problems)
        typer.echo(
            f"{result.rendered.written:,} files written, {result.rendered.current:,} were there: {result.folder}"
        )
    if result.rendered.problems:
        raise typer.Exit(PublicationError.exit_code)


@invoice_app.command("drafts", epilog="Example: billing invoice drafts --period 2026-01 --out drafts.jsonl")
def drafts(
    period: Annotated[str, typer.Option(help="The billing period, such as 2026-01.")],
    out: Annotated[Path | None, typer.Option(help="Write the documents here, one JSON document a line.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each account would be invoiced by the newest draft of the period; nothing is issued."""
    from pipeline.steps.drafts import write_drafts
    from pipeline.steps.workspace import open_workspace

    parse(period, "--period", lambda text: billing_period(text, "UTC"))
    found = write_drafts(open_workspace(settings.project_folder(project)), period, out, now())
    if as_json:
        print_json(found)
        return
    rows = [
        [one.account_id, f"{one.subtotal:f}", f"{one.total:f}", f"{one.amount_due:f}", one.currency, one.held]
        for one in found
    ]
    header = ["account", "net", "total", "due", "currency", "held"]
    for line in table([header, *rows], right=(1, 2, 3)) if rows else ["none"]:
        typer.echo(line)


@invoice_app.command("void", epilog='Example: billing invoice void LLM-000001 --reason "wrong address" --by ana')
def void(
    number: NumberArgument,
    reason: ReasonOption,
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a document void: its number stays, credits are given back; the next close issues another invoice."""
    from pipeline.core.invoice import DocumentKind
    from pipeline.steps.documents import void_document
    from pipeline.steps.render import render_period
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    document = void_document(workspace, number, reason, now(), by)
    render_period(workspace, document.period_id, number)
    if as_json:
        print_json(document)
        return
    typer.echo(f"document {number} is void")
    if document.kind is DocumentKind.INVOICE:
        typer.echo(f"next: billing close --period {document.period_id}, which issues another invoice")


@invoice_app.command("verify", epilog="Example: billing invoice verify --period 2026-01")
def verify(period: PeriodFilter = None, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Read every document of a period, or all, and check hash, figures, numbers and credits; exit code 1 says no."""
    from pipeline.steps.documents import verify_documents
    from pipeline.steps.workspace import open_workspace

    result = verify_documents(open_workspace(settings.project_folder(project)), period)
    if as_json:
        print_json(result)
    else:
        print_problems(result.problems)
        verdict = f"{len(result.problems):,} problems" if result.problems else "all as they were issued"
        typer.echo(f"{result.document_count:,} documents: {verdict}")
    if result.problems:
        raise typer.Exit(PublicationError.exit_code)


@credit_app.command(
    "grant",
    epilog='Example: billing credit grant --account acct-7 --amount 100 --currency EUR --reason "welcome" --by ana',
)
def grant(
    account: Annotated[str, typer.Option(help="The account, as accounts.csv names it.")],
    amount: Annotated[str, typer.Option(help="How much, in the currency, exactly: 100 or 99.50.")],
    currency: Annotated[str, typer.Option(help="The account's currency, such as EUR.")],
    reason: ReasonOption,
    by: ByOption,
    kind: Annotated[str, typer.Option(help="prepaid (the customer paid for it) or promotional.")] = "prepaid",
    priority: Annotated[int, typer.Option(help="Smaller ones are drawn first.")] = 0,
    expires: Annotated[
        str | None, typer.Option(help="The last day of a period that may draw it, such as 2026-12-31.")
    ] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Grant a credit to an account; its next invoices draw it down, after tax. The reason is printed on them."""
    from pipeline.core.credit import CreditKind
    from pipeline.steps.credits import grant_credit
    from pipeline.steps.workspace import open_workspace

    granted = grant_credit(
        open_workspace(settings.project_folder(project)),
        account,
        currency,
        parse(kind, "--kind", CreditKind),
        parse(amount, "--amount", _decimal),
        reason,
        now(),
        by,
        priority=priority,
        expires_on=None if expires is None else parse(expires, "--expires", calendar_date),
    )
    if as_json:
        print_json(granted)
        return
    typer.echo(f"{granted.grant_id}: {granted.amount:f} {granted.currency} for account {account}")


@credit_app.command("list", epilog="Example: billing credit list --account acct-7")
def list_credits(account: AccountFilter = None, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List credits in the order they were granted, with what is left of them."""
    from pipeline.steps.workspace import open_workspace

    found = open_workspace(settings.project_folder(project)).control_plane.credit_balances(account)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            *(one.grant.grant_id, one.grant.account_id, one.grant.kind.value, plain_text(one.grant.amount)),
            *("revoked" if one.is_revoked else plain_text(one.balance), one.grant.currency, str(one.grant.priority)),
            *("" if one.grant.expires_on is None else one.grant.expires_on.isoformat(), one.grant.reason),
        ]
        for one in found
    ]
    header = ["credit", "account", "kind", "granted", "left", "currency", "priority", "expires", "reason"]
    for line in table([header, *rows], right=(3, 4, 6)) if rows else ["none"]:
        typer.echo(line)


@credit_app.command("revoke", epilog='Example: billing credit revoke credit-000001 --reason "granted twice" --by ana')
def revoke(
    credit: Annotated[str, typer.Argument(metavar="CREDIT", help="The id that `billing credit list` shows.")],
    reason: ReasonOption,
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back what is left of a credit; what was drawn stays drawn."""
    from pipeline.steps.workspace import open_workspace

    control_plane = open_workspace(settings.project_folder(project)).control_plane
    amount = control_plane.revoke_credit(credit, reason, now(), by)
    if as_json:
        print_json({"grant_id": credit, "revoked": amount})
        return
    typer.echo(f"{credit} is revoked; {amount:f} of it was left")


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no decimal number such as 99.50") from None
