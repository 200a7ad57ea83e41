"""What finance does besides documents and prices: breaks, holds, overrides of gates, the sign-off of a period."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import settings
from pipeline.cli_text import (
    AccountOption,
    ByOption,
    JsonOption,
    PeriodOption,
    ProjectOption,
    ReasonOption,
    now,
    parse,
    print_json,
    table,
)
from pipeline.cli_text import as_json as as_json_value
from pipeline.core.errors import InputError
from pipeline.core.reconciliation import readable
from pipeline.core.window import billing_period

if TYPE_CHECKING:
    from pipeline.core.approval import Decision, Override, PeriodFigures
    from pipeline.steps.workspace import Workspace

break_app = typer.Typer(help="Differences that a control found: who looks into one, and why it is settled.")
override_app = typer.Typer(help="A revision that gates refused, accepted by two people.", no_args_is_help=True)
sign_off_app = typer.Typer(help="What a period bills, approved before it closes.", no_args_is_help=True)

BreakArgument = Annotated[int, typer.Argument(metavar="BREAK", help="The number that `billing breaks` shows.")]
WindowName = Annotated[str, typer.Option("--window", help="The billing window, such as 2026-01-15 (UTC).")]
RevisionOption = Annotated[int, typer.Option("--revision", min=1, help="The revision that was refused.")]
FiguresOption = Annotated[
    str | None,
    typer.Option(
        "--figures", metavar="HASH", help="The hash that `sign-off prepare` or `show` printed; others are refused."
    ),
]


def breaks(
    show_all: Annotated[bool, typer.Option("--all/--open", help="Resolved ones, too; default: open.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the differences that controls found, by age: what, how much, since when, who looks into it."""
    from pipeline.core.breaks import age_bucket, breaks_by_age
    from pipeline.steps.workspace import open_workspace

    control_plane = open_workspace(settings.project_folder(project)).control_plane
    found, at = control_plane.breaks(include_resolved=show_all), now()
    if as_json:
        aged = [(one, age_bucket(one.opened_at, one.resolved_at or at)) for one in found]
        print_json([{**as_json_value(one), "delta": as_json_value(one.delta), "age_days": age} for one, age in aged])
        return
    header = ["break", "days", "class", "control", "of", "account", "expected", "actual", "delta", "unit", "owner", ""]
    rows = [
        [
            *(str(one.break_id), age, one.break_class.value, one.control, one.window_id or one.period_id or ""),
            *(one.account_id or "", readable(one.expected), readable(one.actual), readable(one.delta), one.unit),
            *(one.owner or "", "open" if one.is_open else f"resolved by {one.resolved_by}: {one.resolution}"),
        ]
        for age, of_age in breaks_by_age(found, at).items()
        for one in of_age
    ]
    for line in table([header, *rows], right=(0, 6, 7, 8)) if rows else ["none"]:
        typer.echo(line)


@break_app.command(epilog="Example: billing break assign 12 --to eve --by ben")
def assign(
    number: BreakArgument,
    to: Annotated[str, typer.Option("--to", help="Who looks into it.")],
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say who looks into a break."""
    from pipeline.steps.workspace import open_workspace

    changed = open_workspace(settings.project_folder(project)).control_plane.assign_break(number, to, now(), by)
    print_json(changed) if as_json else typer.echo(f"break {number} is with {changed.owner}")


@break_app.command(epilog='Example: billing break note 12 --text "provider resends on Monday" --by eve')
def note(
    number: BreakArgument,
    text: Annotated[str, typer.Option("--text", help="What is known of it by now.")],
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is known of a break; what was noted before stays in the audit log."""
    from pipeline.steps.workspace import open_workspace

    changed = open_workspace(settings.project_folder(project)).control_plane.note_break(number, text, now(), by)
    print_json(changed) if as_json else typer.echo(f"break {number}: {changed.note}")


@break_app.command(epilog='Example: billing break resolve 12 --reason "provider corrected its report" --by eve')
def resolve(
    number: BreakArgument,
    reason: ReasonOption,
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Settle a break; if its control fails again, another one is opened."""
    from pipeline.steps.workspace import open_workspace

    changed = open_workspace(settings.project_folder(project)).control_plane.resolve_break(number, reason, now(), by)
    print_json(changed) if as_json else typer.echo(f"break {number} is resolved: {changed.resolution}")


def hold(
    account: AccountOption,
    period: PeriodOption,
    reason: ReasonOption,
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give an account no document of a period until it is released; all others are billed."""
    from pipeline.steps.holds import hold_account
    from pipeline.steps.workspace import open_workspace

    _period(period)
    held = hold_account(open_workspace(settings.project_folder(project)), period, account, reason, now(), by)
    print_json(held) if as_json else typer.echo(f"account {account} is held in {period}: {held.reason}")


def release(
    account: AccountOption,
    period: PeriodOption,
    reason: ReasonOption,
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release an account that is held; the next `billing close` of the period issues its invoice."""
    from pipeline.steps.holds import release_account
    from pipeline.steps.workspace import open_workspace

    _period(period)
    released = release_account(open_workspace(settings.project_folder(project)), period, account, reason, now(), by)
    if as_json:
        print_json({"account_id": account, "period_id": period, "released": released})
        return
    typer.echo(f"account {account} is released in {period}; next: billing close --period {period}")


def holds(
    period: Annotated[str | None, typer.Option(help="The billing period; default: all.")] = None,
    released: Annotated[bool, typer.Option("--released", help="Show those that were released, too.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the accounts that get no document of a period, and why."""
    from pipeline.steps.workspace import open_workspace

    control_plane = open_workspace(settings.project_folder(project)).control_plane
    found = [one for one in control_plane.holds(period) if released or one.released_at is None]
    if as_json:
        print_json(found)
        return
    rows = [[one.period_id, one.account_id, one.held_by, one.reason, one.release_reason or ""] for one in found]
    for line in table([["period", "account", "held by", "reason", "released because"], *rows]) if rows else ["none"]:
        typer.echo(line)


@override_app.command(
    "request",
    epilog='Example: billing override request --window 2026-01-15 --revision 2 --reason "known outage" --by ana',
)
def request_override(
    window: WindowName,
    revision: RevisionOption,
    reason: ReasonOption,
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask that a revision be accepted although gates refused it; somebody else has to approve it."""
    from pipeline.steps import overrides
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    asked = overrides.request_override(workspace, window, revision, reason, now(), by)
    if as_json:
        print_json(asked)
        return
    _say_override(asked)
    typer.echo(f"next: billing override approve --window {window} --revision {revision} --by SOMEBODY_ELSE")


@override_app.command("approve", epilog="Example: billing override approve --window 2026-01-15 --revision 2 --by ben")
def approve_override(
    window: WindowName,
    revision: RevisionOption,
    by: ByOption,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve what somebody else asked for, and accept the revision; the report prints both names and the reason."""
    from pipeline.steps import overrides
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    approved = overrides.approve_override(
        workspace, window, revision, now(), by, lambda line: typer.echo(line, err=True)
    )
    if as_json:
        print_json(approved)
        return
    _say_override(approved)
    typer.echo(f"window {window}: revision {revision} is accepted")


@override_app.command("list", epilog="Example: billing override list")
def list_overrides(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List every override that was asked for, with what it overrides."""
    from pipeline.steps.workspace import open_workspace

    found = open_workspace(settings.project_folder(project)).control_plane.overrides()
    if as_json:
        print_json(found)
        return
    for override in found:
        _say_override(override)
    if not found:
        typer.echo("none")


def _say_override(override: Override) -> None:
    approved = "not approved" if override.approved_by is None else f"approved by {override.approved_by}"
    typer.echo(
        f"window {override.window_id} revision {override.revision}: asked for by {override.requested_by}, {approved}: "
        f"{override.reason}"
    )
    for failure in override.failures:
        typer.echo(f"  {failure}")


@sign_off_app.command("prepare", epilog="Example: billing sign-off prepare --period 2026-01 --by ben")
def prepare_sign_off(
    period: PeriodOption, by: ByOption, project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Rate, check and reconcile a period that is about to close; show what it would bill, and the figures' hash."""
    from pipeline.steps.sign_off import prepare_figures
    from pipeline.steps.workspace import open_workspace

    _period(period)
    workspace = open_workspace(settings.project_folder(project))
    _show_figures(workspace, prepare_figures(workspace, period, now(), by), as_json)


@sign_off_app.command("show", epilog="Example: billing sign-off show --period 2026-01")
def show_sign_off(period: PeriodOption, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show the figures that were prepared last, and what was decided about them; computes and changes nothing."""
    from pipeline.steps.sign_off import newest_preparation
    from pipeline.steps.workspace import open_workspace

    _period(period)
    workspace = open_workspace(settings.project_folder(project))
    prepared = newest_preparation(workspace, period)
    if prepared is None:
        raise InputError(
            "sign_off.not_prepared",
            f"nobody has prepared the figures of period {period} yet",
            [f"billing sign-off prepare --period {period} --by NAME; nothing was changed"],
        )
    if not as_json:
        at = prepared.prepared_at.isoformat(timespec="seconds")
        typer.echo(f"prepared at {at} by {prepared.prepared_by or 'the pipeline'}")
    _show_figures(workspace, prepared.figures, as_json)


def _show_figures(workspace: Workspace, figures: PeriodFigures, as_json: bool) -> None:
    from pipeline.steps.sign_off import newest_sign_off

    newest = newest_sign_off(workspace, figures.period_id)
    if as_json:
        print_json({"figures": figures.to_json(), "newest": newest})
        return
    _say_figures(figures)
    if newest is None:
        typer.echo("nobody has signed it")
    else:
        these = "these figures" if newest.content_hash == figures.content_hash else "other figures"
        typer.echo(f"{these}: {newest.decision.value} by {newest.signed_by}: {newest.reason}")


@sign_off_app.command("list", epilog="Example: billing sign-off list --period 2026-01")
def list_sign_offs(
    period: Annotated[str | None, typer.Option(help="The billing period; default: all.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the decisions about periods, oldest first."""
    from pipeline.steps.workspace import open_workspace

    found = open_workspace(settings.project_folder(project)).control_plane.sign_offs(period)
    if as_json:
        print_json(found)
        return
    rows = [
        [one.period_id, one.decision.value, one.signed_at.isoformat(timespec="minutes"), one.signed_by,
         one.content_hash[:12], one.reason]
        for one in found
    ]  # fmt: skip
    for line in table([["period", "decision", "when", "by", "figures", "reason"], *rows]) if rows else ["none"]:
        typer.echo(line)


@sign_off_app.command("approve", epilog='Example: billing sign-off approve --period 2026-01 --reason "ties" --by ben')
def approve_period(
    period: PeriodOption,
    reason: ReasonOption,
    by: ByOption,
    figures: FiguresOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve what a period would bill now; `billing close` issues exactly that."""
    from pipeline.core.approval import Decision

    _decide(Decision.APPROVE, period, reason, by, [], figures, project, as_json)


@sign_off_app.command(
    "hold",
    epilog='Example: billing sign-off hold --period 2026-01 --account acct-7 --reason "disputed" --by ben',
)
def hold_accounts(
    period: PeriodOption,
    account: Annotated[list[str], typer.Option("--account", help="The account; may be repeated.")],
    reason: ReasonOption,
    by: ByOption,
    figures: FiguresOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve what a period would bill now, without these accounts, which are held."""
    from pipeline.core.approval import Decision

    _decide(Decision.HOLD, period, reason, by, account, figures, project, as_json)


@sign_off_app.command("reject", epilog='Example: billing sign-off reject --period 2026-01 --reason "EUR" --by ben')
def reject_period(
    period: PeriodOption,
    reason: ReasonOption,
    by: ByOption,
    figures: FiguresOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reject what a period would bill now: it does not close before other figures, or another decision."""
    from pipeline.core.approval import Decision

    _decide(Decision.REJECT, period, reason, by, [], figures, project, as_json)


def _decide(
    decision: Decision,
    period: str,
    reason: str,
    by: str,
    accounts: list[str],
    content_hash: str | None,
    project: ProjectOption,
    as_json: bool,
) -> None:
    from pipeline.core.approval import Decision
    from pipeline.steps.sign_off import sign_off
    from pipeline.steps.workspace import open_workspace

    _period(period)
    workspace = open_workspace(settings.project_folder(project))
    made = sign_off(workspace, period, decision, reason, now(), by, accounts=accounts, content_hash=content_hash)
    if as_json:
        print_json(made)
        return
    said = {Decision.APPROVE: "approved", Decision.HOLD: f"approved without {', '.join(accounts)}"}
    typer.echo(f"period {period}: figures {made.content_hash[:12]} {said.get(decision, 'rejected')} by {by}")
    if made.allows_issuing:
        typer.echo(f"next: billing close --period {period}")


def _say_figures(figures: PeriodFigures) -> None:
    typer.echo(f"period {figures.period_id}: {figures.verdict}")
    typer.echo(f"  figures {figures.content_hash}")
    typer.echo(
        f"  {figures.accounts:,} accounts, {figures.line_items:,} line items, {figures.open_breaks:,} open breaks"
    )
    for currency, amount in sorted(figures.net.items()):
        typer.echo(f"  {amount:>20,f} {currency} before taxes")
    for currency, amount in sorted(figures.held_net.items()):
        typer.echo(f"  {amount:>20,f} {currency} of held accounts, not in it")
    for account_id, why in figures.held.items():
        typer.echo(f"  held: {account_id}: {why}")


def _period(text: str) -> None:
    parse(text, "--period", lambda name: billing_period(name, "UTC"))
