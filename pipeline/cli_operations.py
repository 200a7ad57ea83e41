"""The commands about how well billing works: ``billing slis``, ``metrics``, ``spend`` and ``alert``."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from pipeline import settings
from pipeline.cli_text import JsonOption, ProjectOption, now, parse, print_json, print_problems, table
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.window import billing_period


def slis(
    window: Annotated[str | None, typer.Option(help="The billing window; default: the newest one.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the service levels of a night: what was measured, the target, and what is left of the error budget."""
    from pipeline.steps.run_costs import cost_level
    from pipeline.steps.service_levels import newest_service_levels
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    found = newest_service_levels(workspace, window)
    if found is None:
        raise NotReadyError(
            "slis.not_measured",
            "no night was measured" if window is None else f"window {window} was not measured",
            ["each night that is accepted or rejected is measured: billing run"],
        )
    cost = cost_level(workspace)
    levels = [*found.levels, *([cost] if cost else [])]
    if as_json:
        shown = [{**level.to_json(), "sentence": level.sentence} for level in levels]
        print_json({"window_id": found.window_id, "revision": found.revision, "levels": shown})
        return
    typer.echo(f"window {found.window_id}, revision {found.revision}")
    rows = [
        [
            level.title,
            {True: "met", False: "missed", None: "-"}[level.is_met],
            _percent(level.budget_left_percent),
            level.burn.value,
            level.sentence,
        ]
        for level in levels
    ]
    for line in table([["indicator", "target", "budget left", "burn", "measured"], *rows], right=(2,)):
        typer.echo(line)


def _percent(share: Decimal | None) -> str:
    return "-" if share is None else f"{share.quantize(Decimal(1))} %"


def metrics(
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Put them into a file as a whole.")
    ] = None,
    project: ProjectOption = None,
) -> None:
    """Print the metrics as OpenMetrics text, or write them for Prometheus' node exporter."""
    from pipeline.steps.metrics import metrics_text, write_metrics
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    if write is None:
        typer.echo(metrics_text(workspace), nl=False)
        return
    typer.echo(f"{write_metrics(workspace, write)} is written")


def spend(
    period: Annotated[str | None, typer.Option(help="The billing period; default: all.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the thresholds of spend that accounts reached, as spend_thresholds.toml names them."""
    from pipeline.steps.alerts import SPEND_ALERTS, reached_thresholds
    from pipeline.steps.workspace import open_workspace

    if period is not None:
        parse(period, "--period", lambda text: billing_period(text, "UTC"))
    workspace = open_workspace(settings.project_folder(project))
    scopes = workspace.control_plane.published_scopes(SPEND_ALERTS) if period is None else [f"period={period}"]
    periods = [scope.removeprefix("period=") for scope in scopes]
    reached = {period_id: reached_thresholds(workspace, period_id) for period_id in periods}
    if as_json:
        print_json(reached)
        return
    rows = [
        [period_id, one.account_id, one.threshold, one.window_id, one.amount, one.currency]
        for period_id, of_period in reached.items()
        for one in of_period
    ]
    header = ["period", "account", "threshold", "window", "amount", "currency"]
    for line in table([header, *rows], right=(4,)) if rows else ["none"]:
        typer.echo(line)


def alert(
    test: Annotated[bool, typer.Option("--test", help="Send an alert that says it is a test.")] = False,
    project: ProjectOption = None,
) -> None:
    """Try whether alerts arrive: in Slack, at the webhook, by mail, as [alerts] of billing.toml names them."""
    from pipeline.adapters.project_files import load_settings
    from pipeline.core.operations import Alert
    from pipeline.steps.alerts import send_alert

    if not test:
        raise InputError("cli.wrong_option", "say --test: nothing else is sent by hand", [])
    project_settings = load_settings(settings.project_folder(project))
    title = f"{project_settings.name}: a test, nothing happened"
    at = now().isoformat(timespec="seconds")
    problems = send_alert(project_settings, Alert("alert.test", f"test/{at}", "ticket", title, (f"sent at {at}",)))
    print_problems(problems)
    if problems:
        raise typer.Exit(NotReadyError.exit_code)
    receivers = [
        name for name in ("slack_url", "webhook_url", "mail") if getattr(settings.alerts(project_settings), name)
    ]
    typer.echo(f"sent to {', '.join(receivers)}" if receivers else "nobody is named: see [alerts] of billing.toml")
