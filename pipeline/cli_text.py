"""What every command of ``billing`` shares: options, the clock, and how values become text or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pipeline.core.errors import InputError

PROBLEMS_SHOWN_MAX = 20

T = TypeVar("T")

ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project", help="Folder of the billing project; default: $BILLING_PROJECT, else the current folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of sentences.")]
AccountOption = Annotated[str, typer.Option("--account", help="The account, as accounts.csv names it.")]
PeriodOption = Annotated[str, typer.Option("--period", help="The billing period, such as 2026-01.")]
ByOption = Annotated[str, typer.Option("--by", help="Who does this; recorded in the audit log.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; recorded in the audit log.")]


def as_json(value: Any) -> Any:
    """Return a value of the steps as what JSON can hold; decimals as their digits, instants in UTC."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date | Path | Enum):
        return str(value)
    return value


def print_json(value: Any) -> None:
    """Print a value of the steps as one JSON document."""
    typer.echo(json.dumps(as_json(value), ensure_ascii=False, indent=2))


def print_problems(problems: Sequence[str]) -> None:
    """Print sentences, not too many of them, where errors go."""
    for problem in problems[:PROBLEMS_SHOWN_MAX]:
        typer.echo(problem, err=True)
    if len(problems) > PROBLEMS_SHOWN_MAX:
        typer.echo(f"and {len(problems) - PROBLEMS_SHOWN_MAX:,} more, see --json", err=True)


def now() -> datetime:
    """Return the time of the machine."""
    return datetime.now(UTC)


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return rows of texts as aligned lines; the columns ``right`` are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def parse(text: str, option: str, parse_text: Callable[[str], T]) -> T:
    """Return what an option says; a ``ValueError`` becomes a refusal that names the option."""
    try:
        return parse_text(text)
    except ValueError as error:
        raise InputError("cli.wrong_option", f"{option}: {error}", ["see: billing --help"]) from None
