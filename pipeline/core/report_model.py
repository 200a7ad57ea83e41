"""The report as tables of finished values, before it is a page, a workbook, JSON or Parquet.

A cell is a text, an exact number, an instant or a badge. Numbers have the decimals they are shown with, so each
rendering prints the same digits and none of them rounds. A table says which of its columns add up, and a tie-out names
two sums that have to be equal: a workbook makes formulas of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from pipeline.core.decimals import plain_text
from pipeline.core.money import exact, minor_unit_digits
from pipeline.core.report_charts import Chart, TrendChart


class Tone(StrEnum):
    """How a badge or a row is meant."""

    NONE = ""
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    WARN = "warn"
    SUM = "sum"  # of a row: it stands for those above it


@dataclass(frozen=True, slots=True)
class Badge:
    """A word that says how something is; the word says it without the colour."""

    text: str
    tone: Tone


Cell = str | int | Decimal | datetime | Badge | None


class Kind(StrEnum):
    """What the cells of a column are, and so how they are set."""

    TEXT = "text"
    CODE = "code"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; a unit is in its title. ``formula`` is made of other columns' names: ``{actual} - {expected}``."""

    name: str
    title: str
    kind: Kind = Kind.TEXT
    is_wide: bool = False
    is_signed: bool = False  # a change: a plus sign is shown too
    is_summed: bool = False
    formula: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a row, in the order of the columns; ``link`` names the table that holds the rows behind it."""

    cells: tuple[Cell, ...]
    tone: Tone = Tone.NONE
    link: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table; its name is unique in the report.

    ``sums_by`` names the column (a currency) by whose values the sums are apart. A table that is a ``detail`` is in
    every rendering but the page. ``empty`` is the sentence that stands for a table without rows.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    empty: str = ""
    more: str = ""
    sums_by: str = ""
    has_sums: bool = False
    is_folded: bool = False
    is_detail: bool = False
    is_stacked: bool = False

    def place(self, column: str) -> int:
        return next(place for place, one in enumerate(self.columns) if one.name == column)

    def sums(self) -> tuple[Row, ...]:
        """Return one row of sums, or one for each value of ``sums_by``; none without rows."""
        if not self.has_sums or not self.rows:
            return ()
        if not self.sums_by:
            return (self._sum(self.rows, "all"),)
        by = self.place(self.sums_by)
        values = sorted({str(row.cells[by]) for row in self.rows})
        return tuple(self._sum([row for row in self.rows if row.cells[by] == value], "all", value) for value in values)

    def _sum(self, rows: Sequence[Row], label: str, by: str = "") -> Row:
        cells: list[Cell] = []
        for place, column in enumerate(self.columns):
            if column.is_summed:
                cells.append(added(row.cells[place] for row in rows))
            elif column.name == self.sums_by:
                cells.append(by)
            else:
                cells.append(label if place == 0 else None)
        return Row(tuple(cells), Tone.SUM)


@dataclass(frozen=True, slots=True)
class Reference:
    """The sum of a column over the rows whose texts are these, taken with a sign."""

    table: str
    column: str
    where: tuple[tuple[str, str], ...] = ()
    sign: int = 1


@dataclass(frozen=True, slots=True)
class TieOut:
    """Two sums of the report that have to be equal, counted in different tables."""

    sentence: str
    unit: str
    left: tuple[Reference, ...]
    right: Reference


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report under a heading."""

    name: str
    title: str
    note: str = ""
    charts: tuple[Chart, ...] = ()
    trends: tuple[TrendChart, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a reader must not miss, under the verdict: a few words, the sentences, and where to read on."""

    title: str
    sentences: tuple[str, ...]
    link: str


@dataclass(frozen=True, slots=True)
class ReportModel:
    """A whole report; ``facts`` are the few figures beside the verdict."""

    project_name: str
    legal_entity: str
    window_id: str
    revision: int
    verdict: str
    sentence: str
    why: str
    notices: tuple[Notice, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    tie_outs: tuple[TieOut, ...]
    made_at: datetime
    footer: str

    def tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]

    def table(self, name: str) -> Table:
        return next(table for table in self.tables() if table.name == name)


def added(values: Iterable[Cell]) -> Decimal | int:
    """Return the exact sum of numbers; what is no number adds nothing."""
    total: Decimal | int = 0
    with exact():
        for value in values:
            if isinstance(value, int | Decimal):
                total = total + value
    return total


def referred(tables: Iterable[Table], reference: Reference) -> Decimal | int:
    """Return what a reference adds up to."""
    table = next(table for table in tables if table.name == reference.table)
    conditions = [(table.place(column), value) for column, value in reference.where]
    column = table.place(reference.column)
    total = added(
        row.cells[column] for row in table.rows if all(row.cells[place] == value for place, value in conditions)
    )
    return -total if reference.sign < 0 else total


def number_text(number: int | Decimal, is_signed: bool = False) -> str:
    """Return a number of the report as people read it: grouped thousands, every digit, never an exponent.

    >>> number_text(Decimal("-1234.50")), number_text(7, is_signed=True), number_text(Decimal("1E-9"))
    ('-1,234.50', '+7', '0.000000001')
    """
    text = f"{number:,}" if isinstance(number, int) else f"{number:,f}"
    return f"+{text}" if is_signed and number > 0 else text


def amount_figure(amount: Decimal | int, currency: str) -> Decimal:
    """Return a rounded amount with exactly the decimals of its currency; more decimals than that raise.

    >>> amount_figure(Decimal("5.6000"), "EUR"), amount_figure(Decimal("12"), "JPY")
    (Decimal('5.60'), Decimal('12'))
    """
    with exact():
        return Decimal(amount).quantize(Decimal(1).scaleb(-minor_unit_digits(currency)))


def exact_figure(number: Decimal | int, currency: str = "") -> Decimal:
    """Return a number without zeros at its end, of a currency with at least its decimals.

    >>> exact_figure(Decimal("2001001.500000000")), exact_figure(Decimal("5.6"), "EUR"), exact_figure(Decimal("1E+3"))
    (Decimal('2001001.5'), Decimal('5.60'), Decimal('1000'))
    """
    plain = Decimal(plain_text(Decimal(number)))
    digits = minor_unit_digits(currency) if currency else 0
    exponent = plain.as_tuple().exponent
    return amount_figure(plain, currency) if currency and -int(exponent) < digits else plain
