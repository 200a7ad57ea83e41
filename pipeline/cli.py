"""The console script ``billing``: the same steps as the DAGs, without Airflow.

Exit code 0 on success, 1 on a business refusal (a gate, not ready), 2 on wrong use (a command, a project file), 3 on a
defect of the pipeline itself (with its traceback).
With ``--json`` standard output is one JSON document, also for a refusal; progress goes to standard error.
This module is an edge: it reads the clock and the arguments, calls one step and prints what the step returned.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from pipeline import settings
from pipeline.cli_finance import break_app, breaks, hold, holds, override_app, release, sign_off_app
from pipeline.cli_invoice import credit_app, invoice_app
from pipeline.cli_operations import alert, metrics, slis, spend
from pipeline.cli_price import price_app, quote
from pipeline.cli_text import JsonOption, PeriodOption, ProjectOption
from pipeline.cli_text import as_json as _as_json
from pipeline.cli_text import now as _now
from pipeline.cli_text import parse as _parse
from pipeline.cli_text import print_json as _print_json
from pipeline.cli_text import print_problems as _print_problems
from pipeline.cli_text import table as _table
from pipeline.core.access import Action, require_allowed
from pipeline.core.change import totals_of
from pipeline.core.decimals import plain_text
from pipeline.core.errors import BillingError, InputError, NotReadyError
from pipeline.core.window import billing_period, parse_window

if TYPE_CHECKING:
    from pipeline.core.window import BillingWindow
    from pipeline.steps.adjust import AdjustResult
    from pipeline.steps.diff import WindowDiff
    from pipeline.steps.rerun import RerunResult
    from pipeline.steps.run import LeftOutWindow, WindowResult
    from pipeline.steps.workspace import Workspace

DEFECT = 3
LEFT_OUT_SHOWN_MAX = 10
LIST_SHOWN_MAX = 10
HELD_SHOWN_MAX = 5
WINDOWS_SHOWN_MAX = 30
CHANGES_SHOWN_MAX = 20

app = typer.Typer(
    name="billing",
    help="Nightly usage billing that can be re-run and proved.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

source_app = typer.Typer(help="Source contracts that come with the package.", no_args_is_help=True)
app.add_typer(source_app, name="source")
app.add_typer(invoice_app, name="invoice")
app.add_typer(credit_app, name="credit")
app.add_typer(price_app, name="price")
app.add_typer(break_app, name="break")
app.add_typer(override_app, name="override")
app.add_typer(sign_off_app, name="sign-off")
app.command(epilog="Example: billing breaks --all --project my-billing")(breaks)
app.command(epilog='Example: billing hold --account acct-7 --period 2026-01 --reason "disputed" --by ana')(hold)
app.command(epilog='Example: billing release --account acct-7 --period 2026-01 --reason "settled" --by ana')(release)
app.command(epilog="Example: billing holds --period 2026-01 --project my-billing")(holds)
app.command(epilog="Example: billing quote --account acct-7 --as-of 2026-01-20 --price-book draft.toml")(quote)
app.command(epilog="Example: billing slis --project my-billing")(slis)
app.command(epilog="Example: billing metrics --write /var/lib/node_exporter/billing.prom")(metrics)
app.command(epilog="Example: billing spend --period 2026-01 --project my-billing")(spend)
app.command(epilog="Example: billing alert --test --project my-billing")(alert)


class ReportFormat(StrEnum):
    """In which formats a report is written."""

    HTML = "html"
    XLSX = "xlsx"
    JSON = "json"
    PARQUET = "parquet"
    ALL = "all"


WindowOption = Annotated[str, typer.Option(help="The billing window, such as 2026-01-15 (UTC).")]
ActorOption = Annotated[
    str | None, typer.Option("--by", help="Who does this; needed where billing.toml says who has which role.")
]


def main() -> None:
    """Run the console script; a refusal becomes its sentence and its exit code, never a traceback."""
    gc.set_threshold(settings.GARBAGE_THRESHOLD)
    as_json = "--json" in sys.argv
    try:
        exit_code = app(standalone_mode=False)
    except BillingError as error:
        if as_json:
            _print_json({"error": {"code": error.code, "summary": error.summary, "details": error.details}})
        else:
            typer.echo(str(error), err=True)
        exit_code = error.exit_code
    except TyperException as error:  # an option or command that does not exist
        summary = getattr(error, "format_message", error.__str__)()
        if as_json:
            _print_json({"error": {"code": "cli.usage", "summary": summary, "details": ["see: billing --help"]}})
        else:
            typer.echo(f"cli.usage: {summary}\n  see: billing --help", err=True)
        exit_code = InputError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        exit_code = 130
    except Exception:
        traceback.print_exc()
        typer.echo("this is a defect of the pipeline, not of the data; nothing was accepted or issued", err=True)
        exit_code = DEFECT
    _end(exit_code)


def _end(exit_code: int | None) -> NoReturn:
    """End the process without taking it apart: freeing object by object takes as long as a quarter of the imports."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # what was said did not arrive: the interpreter says so, and has an exit code for it
        raise SystemExit(exit_code) from None
    os._exit(exit_code or 0)


def _progress(as_json: bool) -> Callable[[str], None]:
    return lambda sentence: typer.echo(sentence, err=as_json)


@app.command(epilog="Example: billing init my-billing")
def init(
    path: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    as_json: JsonOption = False,
) -> None:
    """Write a small billing project to start from: settings, a source contract, meters, accounts, a price book."""
    from pipeline.adapters.project_files import write_starter_project

    files = write_starter_project(path)
    if as_json:
        _print_json({"project": path, "files": files})
        return
    typer.echo(f"{path} is a billing project now:")
    for file in files:
        typer.echo(f"  {file}")
    typer.echo(f"next: edit {path / 'billing.toml'}, then: billing status --project {path}")
    typer.echo("prices rate once two people have looked at them:")
    typer.echo(f"  billing price publish price_books/standard.toml --by YOU --reason TEXT --project {path}")
    typer.echo(f"  billing price approve standard --by SOMEBODY_ELSE --project {path}")


@app.command(epilog="Example: billing demo")
def demo(as_json: JsonOption = False) -> None:
    """Bill three nights of sample usage in the real DAGs, against a real S3 server, and say what came out."""
    script = Path(__file__).resolve().parent.parent / "examples" / "llm_api" / "demo.py"
    if not script.is_file():
        raise InputError(
            "demo.not_in_a_checkout", f"the demo needs the repository's {script}", ["clone the repository"]
        )
    command = [sys.executable, str(script), *(["--json"] if as_json else [])]
    raise SystemExit(subprocess.run(command, check=False).returncode)


@app.command(epilog="Example: billing collect --project my-billing")
def collect(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Fetch the objects of the raw bucket that are new, into raw events and quarantine."""
    from pipeline.steps.run_costs import collect_at_cost
    from pipeline.steps.workspace import open_workspace

    result = collect_at_cost(open_workspace(settings.project_folder(project)), _now(), _progress(as_json))
    if as_json:
        _print_json(result)
        return
    typer.echo(
        f"{result.new_objects:,} new objects: {result.raw_events:,} raw events, {result.quarantined:,} quarantined"
    )
    for reason, count in result.by_reason.items():
        typer.echo(f"  {count:>7,}  {reason}")
    for key, why in result.pending.items():
        typer.echo(f"  pending, collected next time: {key}: {why.splitlines()[0]}")
    for key in result.replaced_keys:
        typer.echo(f"  replaced since it was collected, the new version is collected beside the one before: {key}")
    for key in result.unclaimed_keys:
        typer.echo(f"  nobody claims {key}: no contract covers it, or no manifest lists it")


@app.command(epilog="Examples: billing run --window 2026-01-15 --project my-billing; billing run --due")
def run(
    window: Annotated[str | None, typer.Option(help="The billing window, such as 2026-01-15 (UTC).")] = None,
    due: Annotated[
        bool, typer.Option("--due", help="Every window that is past its cutoff and not accepted, or got late events.")
    ] = False,
    include_late: Annotated[
        bool,
        typer.Option(
            "--include-late",
            help="Make the next revision for late events alone; one made anyway takes them in.",
        ),
    ] = False,
    accept_incomplete: Annotated[
        str | None,
        typer.Option(
            "--accept-incomplete",
            metavar="REASON",
            help="Close a window although evidence is missing; the reason is recorded and printed in the report.",
        ),
    ] = None,
    by: ActorOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute billing windows: deduplicate, aggregate, rate, check, reconcile, accept, report.

    A window whose accepted revision has the inputs of now is left as it is. Other inputs (files that came since,
    another directory, meter or setting) make the next revision, which takes in all late events.

    With --due a window that lacks evidence is left out and the others are billed; exit code 1 says that one was.
    """
    from pipeline.steps.run import LeftOutWindow, run_due_windows, run_window

    if (window is None) != due:
        raise InputError("cli.wrong_option", "name one --window, or --due for every window that is due", [])
    if due and accept_incomplete is not None:
        raise InputError("cli.wrong_option", "--accept-incomplete is about one --window, which somebody looked at", [])
    workspace = _workspace_for(Action.RUN, by, project)
    if window is not None:
        result = run_window(
            workspace,
            _window(workspace, window),
            _now(),
            _progress(as_json),
            include_late=include_late,
            accept_incomplete=accept_incomplete,
        )
        _print_json(result) if as_json else _say_window(result)
        return
    results = []
    left_out_count = 0
    for due_result in run_due_windows(workspace, _now, _progress(as_json)):
        results.append(due_result)
        left_out_count += isinstance(due_result, LeftOutWindow)
        if not as_json and (left_out_count <= LEFT_OUT_SHOWN_MAX or not isinstance(due_result, LeftOutWindow)):
            _say_window(due_result)
    if as_json:
        _print_json(results)
    elif not results:
        typer.echo("no window is due")
    elif left_out_count > LEFT_OUT_SHOWN_MAX:
        typer.echo(f"and {left_out_count - LEFT_OUT_SHOWN_MAX:,} more are left out, see `billing status`", err=True)
    if left_out_count:
        raise typer.Exit(NotReadyError.exit_code)


def _say_window(result: WindowResult | LeftOutWindow) -> None:
    from pipeline.steps.run import LeftOutWindow

    if isinstance(result, LeftOutWindow):
        typer.echo("\n".join([f"left out: {result.summary}", *(f"  {line}" for line in result.details)]), err=True)
        return
    state = "accepted" if result.is_new else "is current"
    excluded = ", ".join(f"{count:,} {reason}" for reason, count in result.excluded_events.items()) or "none"
    typer.echo(f"window {result.window_id}: revision {result.revision} {state}; report {result.report}")
    typer.echo(f"  {result.billed_events:,} events billed, excluded: {excluded}")
    for text, counts in (
        ("withdrawals without effect", result.idle_withdrawals),
        ("replacements that take an event back and are not billed themselves", result.unbilled_replacements),
    ):
        if counts:
            typer.echo(f"  {text}: {', '.join(f'{count:,} {reason}' for reason, count in counts.items())}")
    if "late" in result.excluded_events:
        typer.echo(f"  late events wait for the next revision: billing run --window {result.window_id} --include-late")


@app.command(epilog="Example: billing estimate --account acct-7 --period 2026-01 --project my-billing")
def estimate(
    account: Annotated[str | None, typer.Option(help="The account, as accounts.csv names it; default: all.")] = None,
    period: Annotated[str | None, typer.Option(help="The billing period; default: the newest one estimated.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what accounts will pay for a whole period, as estimated on the last night. Nothing is billed by it."""
    from pipeline.steps.estimate import largest_estimates, newest_estimates, totals_by_currency
    from pipeline.steps.workspace import open_workspace

    if period is not None:
        _parse(period, "--period", lambda text: billing_period(text, "UTC"))
    rows = newest_estimates(open_workspace(settings.project_folder(project)), period, account)
    totals = totals_by_currency(rows)
    if as_json:
        _print_json({"totals": totals, "accounts": rows})
        return
    for total in totals:
        expected = "no account has a forecast yet"
        if total["forecast_amount"] is not None:
            interval = f"({total['low_amount']:f} to {total['high_amount']:f})"
            expected = f"{total['forecast_amount']:f} expected of the whole period {interval}"
        typer.echo(
            f"period {total['period_id']} as of {_as_json(total['as_of'])}: {total['currency']} "
            f"{total['amount_to_date']:f} to date, {expected}, {total['account_count']:,} accounts"
        )
    header = ("account", "days", "to date", "forecast", "low", "high", "currency")
    shown = [
        (
            *(row["account_id"], f"{row['days_known']} of {row['days']}", f"{row['amount_to_date']:f}"),
            *(f"{row[name]:f}" for name in ("forecast_amount", "low_amount", "high_amount")),
            row["currency"],
        )
        for row in largest_estimates(rows, LIST_SHOWN_MAX)
    ]
    if shown:
        typer.echo("\n".join(_table([header, *shown], right=(2, 3, 4, 5))))
    without = [row for row in rows if row["problem"]]
    for row in without[:LIST_SHOWN_MAX]:
        typer.echo(f"account {row['account_id']} has no forecast: {row['problem']}")
    if len(without) > LIST_SHOWN_MAX:
        typer.echo(f"and {len(without) - LIST_SHOWN_MAX:,} more without a forecast")


@app.command(epilog="Example: billing backfill --from 2026-01-01 --to 2026-01-31 --at-most 2 --project my-billing")
def backfill(
    first: Annotated[str, typer.Option("--from", help="The first window, such as 2026-01-01 (UTC).")],
    last: Annotated[str, typer.Option("--to", help="The last window, which is included.")],
    at_most: Annotated[int, typer.Option(min=1, max=64, help="How many windows are computed at once.")] = 1,
    include_late: Annotated[
        bool,
        typer.Option(
            "--include-late", help="Make next revisions for late events alone; one made anyway takes them in."
        ),
    ] = False,
    by: ActorOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run many windows in order; a second call skips what is current and goes on where the first one ended.

    A window that lacks evidence is left out and the others are billed (exit code 1); any other refusal ends it.
    """
    from pipeline.steps.backfill import backfill as backfill_step
    from pipeline.steps.backfill import windows_of_backfill
    from pipeline.steps.run import LeftOutWindow

    workspace = _workspace_for(Action.RUN, by, project)
    windows = windows_of_backfill(workspace, _window(workspace, first, "--from"), _window(workspace, last, "--to"))
    results: list[WindowResult | LeftOutWindow] = []
    try:
        for result in backfill_step(workspace, windows, at_most, _now, lambda _: None, include_late=include_late):
            results.append(result)
            typer.echo(_backfill_line(result), err=as_json)
    finally:
        typer.echo(_backfill_total(results, len(windows)), err=as_json)
    if as_json:
        _print_json(results)
    if any(isinstance(result, LeftOutWindow) for result in results):
        raise typer.Exit(NotReadyError.exit_code)


def _backfill_line(result: WindowResult | LeftOutWindow) -> str:
    from pipeline.steps.run import LeftOutWindow

    if isinstance(result, LeftOutWindow):
        return f"{result.window_id}  left out: {result.summary}"
    state = "accepted" if result.is_new else "is current"
    excluded = sum(result.excluded_events.values())
    return (
        f"{result.window_id}  revision {result.revision} {state}: "
        f"{result.billed_events:,} events billed, {excluded:,} excluded"
    )


def _backfill_total(results: Sequence[WindowResult | LeftOutWindow], window_count: int) -> str:
    from pipeline.steps.run import WindowResult

    done = [result for result in results if isinstance(result, WindowResult)]
    new = sum(result.is_new for result in done)
    counts = f"{new:,} accepted, {len(done) - new:,} current, {len(results) - len(done):,} left out"
    rest = window_count - len(results)
    return f"{window_count:,} windows: {counts}" + (f", {rest:,} not reached" if rest else "")


@app.command(epilog="Example: billing rerun --window 2026-01-15 --revision 1 --project my-billing")
def rerun(
    window: WindowOption,
    revision: Annotated[
        int | None, typer.Option(min=1, help="Which revision; default: the newest accepted one, else the newest.")
    ] = None,
    by: ActorOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute a revision again from its pinned inputs, beside the lake, and compare: exit code 0 says identical.

    Exit code 1 shows the first rows that differ. What the project says by now plays no part.
    """
    from pipeline.steps.rerun import rerun as rerun_step

    workspace = _workspace_for(Action.RERUN, by, project)
    result = rerun_step(workspace, _window(workspace, window).window_id, revision)
    if as_json:
        _print_json(result)
    else:
        for line in _rerun_lines(result):
            typer.echo(line)
    if not result.is_identical:
        raise typer.Exit(NotReadyError.exit_code)


def _rerun_lines(result: RerunResult) -> list[str]:
    verdict = "identical" if result.is_identical else "NOT identical"
    state = "" if result.state.value == "accepted" else f", which is {result.state.value}"
    lines = [f"window {result.window_id} revision {result.revision}{state}: {verdict}"]
    table = [
        (f"{one.dataset} {one.scope}", f"{one.row_count_published:,} rows", one.content_hash_computed)
        for one in result.datasets
    ]
    lines += [f"  {line}" for line in _table(table, right=(1,))]
    for one in result.datasets:
        if one.is_identical:
            continue
        lines.append(f"{one.dataset} {one.scope}: published {one.row_count_published:,} rows, content hash")
        lines.append(f"  {one.content_hash_published}; computed now {one.row_count_computed:,} rows, content hash")
        lines.append(f"  {one.content_hash_computed}; the first rows that differ:")
        for difference in one.differences:
            lines += [
                f"  published  {_row_text(difference.published)}",
                f"  computed   {_row_text(difference.computed)}",
            ]
    for name, (then, now) in result.changed_versions.items():
        lines.append(f"computed with {name} {then} then, {now} now")
    return [*lines, f"{result.verified_file_count:,} published files verified"]


def _row_text(row: Mapping[str, Any] | None) -> str:
    return "no such row" if row is None else json.dumps(_as_json(row), ensure_ascii=False)


@app.command(epilog="Example: billing diff --window 2026-01-15 --from 1 --to 3 --project my-billing")
def diff(
    window: WindowOption,
    revision_from: Annotated[int, typer.Option("--from", min=1, help="The revision before the change.")],
    revision_to: Annotated[int, typer.Option("--to", min=1, help="The revision after it; an earlier one turns signs.")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how quantities changed between two revisions of a window, split by cause; the parts add up to the change."""
    from pipeline.steps.diff import diff as diff_step
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    result = diff_step(workspace, _window(workspace, window).window_id, revision_from, revision_to)
    if as_json:
        _print_json(result)
        return
    for line in _diff_lines(result):
        typer.echo(line)


def _diff_lines(result: WindowDiff) -> list[str]:
    title = f"window {result.window_id}, revision {result.revision_from} to {result.revision_to}"
    if not result.changes:
        return [f"{title}: no quantity changed"]
    header = ["account", "SKU", "unit", "from", "to", "change", *(cause.replace("_", " ") for cause in result.causes)]
    shown = [*totals_of(result.changes), *result.changes[:CHANGES_SHOWN_MAX]]
    rows = [
        [
            *(change.account_id or "all", change.sku, change.unit),
            *(plain_text(change.quantity_from), plain_text(change.quantity_to), _signed(change.change)),
            *(_signed(change.parts.get(cause, Decimal(0))) for cause in result.causes),
        ]
        for change in shown
    ]
    more = len(result.changes) - CHANGES_SHOWN_MAX
    table = _table([header, *rows], right=range(3, len(header)))
    return [title, *table, *([f"and {more:,} more, see --json"] if more > 0 else [])]


def _signed(number: Decimal) -> str:
    return f"+{plain_text(number)}" if number > 0 else plain_text(number)


@app.command(epilog="Example: billing close --period 2026-01 --project my-billing")
def close(
    period: PeriodOption,
    by: ActorOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the invoices of a period final: numbered, immutable, as pages or PDFs."""
    from pipeline.steps.close import close as close_step

    _parse(period, "--period", lambda text: billing_period(text, "UTC"))
    result = close_step(_workspace_for(Action.ISSUE, by, project), period, _now())
    if as_json:
        _print_json(result)
        return
    typer.echo(f"period {result.period_id} is final: {len(result.invoices):,} invoices in {result.folder}")
    for adjusted in result.adjusted:
        _say_adjusted(adjusted)
    for currency, amount in sorted(result.totals.items()):
        typer.echo(f"  {amount:>20,f} {currency}")
    _print_problems(result.rendered.problems)
    invoiced = {document.account_id for document in result.invoices}
    for what, held in (
        ("got no invoice", [account_id for account_id in result.held if account_id not in invoiced]),
        ("get no adjustment", [account_id for account_id in result.held if account_id in invoiced]),
    ):
        if held:
            typer.echo(f"{len(held):,} accounts are held and {what}: {', '.join(held[:HELD_SHOWN_MAX])}")
    if result.held:
        typer.echo("  see: billing holds; then billing release, and close again")


@app.command(epilog="Example: billing adjust --period 2026-01 --dry-run --project my-billing")
def adjust(
    period: PeriodOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be issued, and issue nothing.")] = False,
    by: ActorOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Settle what is known since a period became final: adjustments and credit notes at its own prices.

    The next `billing close` does the same for every earlier period.
    """
    from pipeline.steps.adjust import adjust as adjust_step

    _parse(period, "--period", lambda text: billing_period(text, "UTC"))
    workspace = _workspace_for(None if dry_run else Action.ISSUE, by, project)
    result = adjust_step(workspace, period, _now(), dry_run=dry_run)
    if as_json:
        _print_json(result)
        return
    _say_adjusted(result)
    if not result.accounts and not result.waiting:
        typer.echo(f"period {period} is settled: its documents bill what it comes to")


def _say_adjusted(result: AdjustResult) -> None:
    for one in result.accounts:
        number = one.number or "no number yet"
        kind = one.kind.value.replace("_", " ")
        typer.echo(f"{result.period_id} {one.account_id}: {kind} {number}, {one.total:+f} {one.currency} with taxes")
    if result.waiting:
        waiting = ", ".join(result.waiting[:HELD_SHOWN_MAX])
        typer.echo(f"{len(result.waiting):,} accounts wait for their invoice of {result.period_id}: {waiting}")
        typer.echo(f"  next: billing close --period {result.period_id}")


@app.command(epilog="Example: billing report --window 2026-01-15 --project my-billing")
def report(
    window: WindowOption,
    project: ProjectOption = None,
    report_format: Annotated[
        ReportFormat, typer.Option("--format", help="All formats have the same figures; all writes each of them.")
    ] = ReportFormat.HTML,
    refresh: Annotated[
        bool,
        typer.Option(help="Show holds, breaks, decisions and sign-off as they are now, not as they were that night."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the reconciliation report of a window's newest revision and print its path."""
    from pipeline.steps.report import Format
    from pipeline.steps.report import report as report_step
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    billing_window = _window(workspace, window)
    revision = workspace.control_plane.latest_revision(billing_window.window_id)
    if revision is None:
        raise NotReadyError(
            "report.no_revision",
            f"window {billing_window.window_id} has not been computed",
            [f"run: billing run --window {billing_window.window_id}"],
        )
    formats = list(Format) if report_format is ReportFormat.ALL else [Format(report_format.value)]
    path = report_step(workspace, revision.window_id, revision.revision, _now(), formats, refresh=refresh)
    if as_json:
        _print_json({"window_id": revision.window_id, "revision": revision.revision, "report": path})
        return
    typer.echo(str(path))


@app.command(epilog="Example: billing status --project my-billing")
def status(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show how far collection is, which windows have which revision and verdict, and which periods are final."""
    from pipeline.steps.status import status as status_step
    from pipeline.steps.workspace import open_workspace

    facts = status_step(open_workspace(settings.project_folder(project)))
    if as_json:
        _print_json(facts)
        return
    for line in _status_lines(_as_json(facts)):
        typer.echo(line)


@source_app.command("list", epilog="Example: billing source list")
def list_sources(as_json: JsonOption = False) -> None:
    """List the ready source contracts: the feeds that a project can collect without writing one."""
    from pipeline.adapters.project_files import ready_contracts

    ready = ready_contracts()
    if as_json:
        _print_json(ready)
        return
    width = max(len(contract.name) for contract in ready)
    for contract in ready:
        typer.echo(f"{contract.name:<{width}}  {contract.description}")


@source_app.command("add", epilog="Example: billing source add lago --prefix usage/lago/ --project my-billing")
def add_source(
    contract: Annotated[str, typer.Argument(metavar="CONTRACT", help="One that `billing source list` names.")],
    prefix: Annotated[str | None, typer.Option(help="Where the keys of the feed's objects begin.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the contract in the project, and of its file.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a ready source contract into the project, as sources/<name>.toml.

    What else is wrong with the project is a warning: the contract may be what mends it.
    """
    from pipeline.adapters.project_files import add_ready_contract

    added = add_ready_contract(settings.project_folder(project), contract, prefix, name)
    if as_json:
        _print_json({"contract": added.path, "problems": added.problems})
        return
    typer.echo(f"{added.path} is written; next: read it, then bill its event types in meters.toml")
    if added.problems:
        typer.echo("warning: the project cannot be used yet:", err=True)
        for problem in added.problems:
            typer.echo(f"  {problem}", err=True)


def _status_lines(facts: Any, indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_status_lines(value, indent + "  ")]
        elif key == "windows":
            earlier = len(value) - WINDOWS_SHOWN_MAX
            lines.append(f"{indent}{name}: {len(value):,}" if value else f"{indent}{name}: none")
            lines += [f"{indent}  and {earlier:,} earlier"] if earlier > 0 else []
            lines += [line for item in value[-WINDOWS_SHOWN_MAX:] for line in _item_lines(item, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}: {len(value):,}" if value else f"{indent}{name}: none")
            lines += [line for item in value for line in _item_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_status_value(key, value)}")
    return lines


def _item_lines(item: Any, indent: str) -> list[str]:
    """Return an entry of a list on one line, and below it a line for each of the first entries of a list in it."""
    if not isinstance(item, dict):
        return [f"{indent}{item}"]
    values = [(name, value) for name, value in _scalars(item) if name not in {f"{key}_count" for key in item}]
    if "contract" in item and item.get("watermark", "") is None:
        values = [(name, "nothing is shown yet" if name == "watermark" else value) for name, value in values]
    lines = [indent + _named_values(values)]
    for name, entries in item.items():
        if isinstance(entries, list):
            lines += [f"{indent}  {name}: {_entry_text(name, entry)}" for entry in entries[:LIST_SHOWN_MAX]]
            more = item.get(f"{name}_count", len(entries)) - LIST_SHOWN_MAX
            lines += [f"{indent}  {name}: and {more:,} more"] if more > 0 else []
    return lines


def _entry_text(name: str, entry: Any) -> str:
    (_, first), *others = _scalars(entry) if isinstance(entry, dict) else [(name, entry)]
    accepted = entry.get("accepted", []) if isinstance(entry, dict) else []
    texts = [str(first), _named_values([(key, value) for key, value in others if value is not None])]
    for one in accepted:
        first_window, last_window, count = one["windows"][0], one["windows"][-1], len(one["windows"])
        windows = f"window {first_window}" if count == 1 else f"{count:,} windows, {first_window} to {last_window}"
        texts.append(f'accepted for {windows}: "{one["reason"]}"')
    return "  ".join(text for text in texts if text)


def _named_values(values: list[tuple[str, Any]]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {_status_value(name, value)}" for name, value in values if value != "")


def _status_value(name: str, value: Any) -> str:
    if value is None:
        return "not yet"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and name != "revision" else str(value)


def _scalars(item: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in item.items() if not isinstance(value, list)]


def _workspace_for(action: Action | None, by: str | None, project: Path | None) -> Workspace:
    """Open the project for somebody who may do this; of the DAGs it is Airflow that says who starts them."""
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    roles = workspace.project.settings.roles
    if roles is not None and action is not None:
        require_allowed(roles, settings.user(by), action)
    return workspace


def _window(workspace: Workspace, text: str, option: str = "--window") -> BillingWindow:
    return _parse(text, option, lambda name: parse_window(name, workspace.project.settings.window.length))
