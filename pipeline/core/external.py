"""External figures: what a provider, or another billing system, says was used or costs, held against ours.

One TOML file per report in ``external/``. It says where the reports are, which columns hold account, SKU, day or
period, quantity and amount, and how far the two sides may differ, with the reason. Quantities are in the unit that the
SKU's meter counts in; a day is a day of UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.decimals import Percent, plain_text
from pipeline.core.money import exact
from pipeline.core.window import billing_period, calendar_date

Name = Annotated[str, Field(min_length=1)]
FIGURE_LIMIT = Decimal(10) ** 15  # a month of such days and more fits where controls are kept


class ExternalColumns(StrictModel):
    """The columns of a report; a row is about a ``day`` (2026-01-15) or a ``period`` (2026-01), and has figures.

    Without ``account`` a report is about all accounts together.
    """

    sku: Name
    account: Name | None = None
    day: Name | None = None
    period: Name | None = None
    quantity: Name | None = None
    amount: Name | None = None

    @model_validator(mode="after")
    def _says_when_and_how_much(self) -> Self:
        if (self.day is None) == (self.period is None):
            raise ValueError("set exactly one of day, period")
        if self.quantity is None and self.amount is None:
            raise ValueError("set quantity, amount or both")
        return self

    @property
    def when(self) -> str:
        """Return the column that says which day, or which period."""
        return self.day or self.period or ""

    @property
    def names(self) -> tuple[str, ...]:
        """Return every column that is read."""
        columns = (self.sku, self.account, self.day, self.period, self.quantity, self.amount)
        return tuple(column for column in columns if column is not None)


class ExternalTolerance(StrictModel):
    """How far the two sides of one account and SKU may differ: the larger of both bounds, and why so far."""

    absolute: Annotated[Decimal, Field(ge=0, lt=FIGURE_LIMIT, decimal_places=9)] = Decimal(0)
    percent: Annotated[Percent, Field(ge=0, le=100)] = Decimal(0)
    reason: Name

    def of(self, expected: Decimal) -> Decimal:
        """Return the bound for a figure of the report."""
        with exact():
            return max(self.absolute, expected.copy_abs() * self.percent * Decimal("0.01"))


class ExternalContract(StrictModel):
    """One report. ``gates``: a difference holds the account, or without accounts stops; else it opens a break only.

    ``accounts`` and ``skus`` give our name for theirs, where it is another one, or "" for what is none of ours and is
    left out; ``currency`` is that of the amounts.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    version: Name
    description: str = ""
    prefix: Name
    suffixes: tuple[str, ...] = ("",)
    format: Literal["csv", "parquet"]
    delimiter: Annotated[str, Field(min_length=1, max_length=1, pattern=r'^[^"\r\n]$')] = ","
    columns: ExternalColumns
    accounts: dict[str, str] = Field(default_factory=dict)
    skus: dict[str, str] = Field(default_factory=dict)
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    tolerance: ExternalTolerance
    gates: bool = True

    @model_validator(mode="after")
    def _amounts_have_a_currency(self) -> Self:
        if (self.columns.amount is not None) != (self.currency is not None):
            raise ValueError("currency is set with columns.amount, and only with it")
        return self

    def covers(self, key: str) -> bool:
        """Tell whether an object of this key is one of the reports."""
        return key.startswith(self.prefix) and key.endswith(self.suffixes)


class ExternalFigure(NamedTuple):
    """What a report says of one account (empty: all), SKU and day or period."""

    account_id: str
    sku: str
    on: str  # 2026-01-15 or 2026-01
    quantity: Decimal | None
    amount: Decimal | None


def external_figures(contract: ExternalContract, rows: Iterable[Mapping[str, Any]]) -> list[ExternalFigure]:
    """Return the figures of a report, rows of the same account, SKU and day added up, in order.

    ``ValueError`` says in which row what cannot be read; a report is taken as a whole or not at all.
    """
    columns, sums = contract.columns, dict[tuple[str, str, str], list[Decimal | None]]()
    for number, row in enumerate(rows, start=1):
        missing = [name for name in columns.names if row.get(name) in (None, "")]
        if missing:
            raise ValueError(f"row {number}: {', '.join(missing)} is missing or empty")
        on = str(row[columns.when])
        try:
            calendar_date(on) if columns.day is not None else billing_period(on, "UTC")
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
        account = "" if columns.account is None else str(row[columns.account])
        sku = str(row[columns.sku])
        key = contract.accounts.get(account, account), contract.skus.get(sku, sku), on
        if key[1] == "" or (key[0] == "" and columns.account is not None):
            continue
        added = sums.setdefault(key, [None, None])
        with exact():
            for index, column in enumerate((columns.quantity, columns.amount)):
                if column is None:
                    continue
                total = (added[index] or Decimal(0)) + _decimal(row[column], f"row {number}: {column}")
                if total.copy_abs() >= FIGURE_LIMIT:
                    raise ValueError(f"row {number}: {column}: {plain_text(total)} is more than 15 digits")
                added[index] = total
    return [ExternalFigure(*key, *added) for key, added in sorted(sums.items())]


_DIGITS = re.compile(r"[+-]?\d{1,15}(\.\d{1,9})?")


def _decimal(value: object, where: str) -> Decimal:
    text = value if isinstance(value, str) else plain_text(value) if isinstance(value, Decimal) else str(value)
    if isinstance(value, float | bool) or not _DIGITS.fullmatch(text.strip()):
        raise ValueError(
            f"{where}: found {str(value)[:40]!r}, accepted an exact decimal of at most 15 digits and 9 decimals"
        )
    return Decimal(text.strip())
