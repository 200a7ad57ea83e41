"""The console script ``billing``: the same steps as the DAGs, without Airflow.

Exit code 0 on success, 1 on a business refusal (a gate, not ready), 2 on wrong use (a command, a project file), 3 on a
defect of the pipeline itself (with its traceback).
With ``--json`` standard output is one JSON document, also for a refusal; progress goes to standard error.
This module is an edge: it reads the clock and the arguments, calls one step and prints what the step returned.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.exceptions import TyperException

from pipeline import settings
from pipeline.core.errors import BillingError, InputError, NotReadyError
from pipeline.core.window import parse_window

if TYPE_CHECKING:
    from pipeline.steps.run import WindowResult

T = TypeVar("T")
DEFECT = 3

app = typer.Typer(
    name="billing",
    help="Nightly usage billing that can be re-run and proved.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project", help="Folder of the billing project; default: $BILLING_PROJECT, else the current folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of sentences.")]


def main() -> None:
    """Run the console script; a refusal becomes its sentence and its exit code, never a traceback."""
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
    raise SystemExit(exit_code)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_json(item) for item in value]
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date | Path | Enum):
        return str(value)
    return value


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(_as_json(value), ensure_ascii=False, indent=2))


def _progress(as_json: bool) -> Callable[[str], None]:
    return lambda sentence: typer.echo(sentence, err=as_json)


def _now() -> datetime:
    return datetime.now(UTC)


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
    from pipeline.steps.collect import collect as collect_step
    from pipeline.steps.workspace import open_workspace

    result = collect_step(open_workspace(settings.project_folder(project)), _now(), _progress(as_json))
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
    for key in result.unclaimed_keys:
        typer.echo(f"  no contract covers {key}")


@app.command(epilog="Examples: billing run --window 2026-01-15 --project my-billing; billing run --due")
def run(
    window: Annotated[str | None, typer.Option(help="The billing window, such as 2026-01-15 (UTC).")] = None,
    due: Annotated[
        bool, typer.Option("--due", help="Every window that is past its cutoff and not accepted, or got late events.")
    ] = False,
    include_late: Annotated[
        bool, typer.Option("--include-late", help="Make a new revision that takes in the events that came late.")
    ] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute billing windows: deduplicate, aggregate, rate, check, reconcile, accept, report."""
    from pipeline.steps.run import due_windows, run_window
    from pipeline.steps.workspace import open_workspace

    if (window is None) != due:
        raise InputError("cli.wrong_option", "name one --window, or --due for every window that is due", [])
    workspace = open_workspace(settings.project_folder(project))
    if window is None:
        windows, include_late = due_windows(workspace), True
    else:
        length = workspace.project.settings.window.length
        windows = [_parse(window, "--window", lambda text: parse_window(text, length))]
    results = []
    for billing_window in windows:
        result = run_window(workspace, billing_window, _now(), _progress(as_json), include_late=include_late)
        results.append(result)
        if not as_json:
            _say_window(result)
    if as_json:
        _print_json(results if due else results[0])
    elif not results:
        typer.echo("no window is due")


def _say_window(result: WindowResult) -> None:
    state = "accepted" if result.is_new else "is current"
    excluded = ", ".join(f"{count:,} {reason}" for reason, count in result.excluded_events.items()) or "none"
    typer.echo(f"window {result.window_id}: revision {result.revision} {state}; report {result.report}")
    typer.echo(f"  {result.billed_events:,} events billed, excluded: {excluded}")
    if "late" in result.excluded_events:
        typer.echo(f"  late events wait for the next revision: billing run --window {result.window_id} --include-late")


@app.command(epilog="Example: billing close --period 2026-01 --project my-billing")
def close(
    period: Annotated[str, typer.Option(help="The billing period, such as 2026-01.")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the invoices of a period final: numbered, immutable, as HTML and JSON."""
    from pipeline.core.window import billing_period
    from pipeline.steps.close import close as close_step
    from pipeline.steps.workspace import open_workspace

    _parse(period, "--period", lambda text: billing_period(text, "UTC"))
    result = close_step(open_workspace(settings.project_folder(project)), period, _now())
    if as_json:
        _print_json(result)
        return
    typer.echo(f"period {result.period_id} is final: {len(result.invoices):,} invoices in {result.folder}")
    for currency, amount in sorted(result.totals.items()):
        typer.echo(f"  {amount:>20,f} {currency}")


@app.command(epilog="Example: billing report --window 2026-01-15 --project my-billing")
def report(
    window: Annotated[str, typer.Option(help="The billing window, such as 2026-01-15 (UTC).")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the reconciliation report of a window's newest revision and print its path."""
    from pipeline.steps.report import report as report_step
    from pipeline.steps.workspace import open_workspace

    workspace = open_workspace(settings.project_folder(project))
    billing_window = _parse(
        window, "--window", lambda text: parse_window(text, workspace.project.settings.window.length)
    )
    revision = workspace.control_plane.latest_revision(billing_window.window_id)
    if revision is None:
        raise NotReadyError(
            "report.no_revision",
            f"window {billing_window.window_id} has not been computed",
            [f"run: billing run --window {billing_window.window_id}"],
        )
    path = report_step(workspace, revision.window_id, revision.revision)
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


def _status_lines(facts: Any, indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_status_lines(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}: {len(value)}" if value else f"{indent}{name}: none")
            lines += [
                f"{indent}  "
                + ("  ".join(f"{k} {v}" for k, v in item.items()) if isinstance(item, dict) else str(item))
                for item in value
            ]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


def _parse(text: str, option: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise InputError("cli.wrong_option", f"{option}: {error}", ["see: billing --help"]) from None
