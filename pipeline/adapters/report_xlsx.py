"""The report as a workbook: one sheet for each table, sums and tie-outs as live formulas with their values cached.

Texts are written as texts and never as formulas, whatever a customer is called. A number that a spreadsheet would
round (more than 15 digits) is written as text with every digit, and what would be computed from it as a value.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

import xlsxwriter
from xlsxwriter.utility import xl_col_to_name, xl_rowcol_to_cell

from pipeline.adapters.text_formats import format_instant
from pipeline.core.report_model import (
    Badge,
    Cell,
    Column,
    Kind,
    Reference,
    ReportModel,
    Row,
    Table,
    Tone,
    number_text,
)
from pipeline.core.report_sections import TIE_OUTS

EXACT_DIGITS_MAX = 15  # of a number in a spreadsheet
TEXT_MAX = 32_767  # characters in a cell
SHEET_NAME_MAX = 31
WIDTH_MAX = 60
ACTING = ("=", "+", "-", "@", "\t", "\r")  # how a text begins that a spreadsheet would take for a formula when edited
SUMMARY = "summary"


def workbook(model: ReportModel) -> bytes:
    """Return the workbook of a report; the same report makes the same bytes."""
    return _Workbook(model).content()


class _Workbook:
    """A workbook that is being written."""

    def __init__(self, model: ReportModel) -> None:
        self.model = model
        self.sink = io.BytesIO()
        self.book = xlsxwriter.Workbook(self.sink, {"in_memory": True, "strings_to_formulas": False})
        self.book.set_properties(
            {
                "title": f"Reconciliation of {model.window_id}, revision {model.revision}",
                "company": model.legal_entity,
                "created": model.made_at.astimezone(UTC).replace(tzinfo=None),
            }
        )
        self.tables = [table for table in model.tables() if table.rows]
        self.sheets = {table.name: _sheet_name(table.name, number) for number, table in enumerate(self.tables)}
        self.formats: dict[tuple[Any, ...], Any] = {}

    def content(self) -> bytes:
        self._write_summary()
        for table in self.tables:
            self._write_table(table)
        self.book.close()
        return self.sink.getvalue()

    def _format(self, **properties: Any) -> Any:
        key = tuple(sorted(properties.items()))
        if key not in self.formats:
            self.formats[key] = self.book.add_format({"valign": "top", **properties})
        return self.formats[key]

    def _write_summary(self) -> None:
        sheet = self.book.add_worksheet(SUMMARY)
        sheet.set_column(0, 0, 34)
        sheet.set_column(1, 1, 70)
        good = self.model.verdict == "pass"
        colours = {"font_color": "#1D6B3C", "bg_color": "#E5F3EA"} if good else {"font_color": "#A3211B"}
        self._text(sheet, 0, 0, f"{self.model.legal_entity} · {self.model.project_name}", {})
        title = f"Nightly reconciliation {self.model.window_id}, revision {self.model.revision}"
        self._text(sheet, 1, 0, title, {"bold": True, "font_size": 16})
        sheet.merge_range(2, 0, 2, 1, "", self._format(bold=True, text_wrap=True, **colours))
        self._text(sheet, 2, 0, self.model.sentence, {"bold": True, "text_wrap": True, **colours})
        sheet.set_row(1, 24)
        sheet.set_row(2, 36)
        row = 3
        for name, value in [*self.model.facts, *(("Why", self.model.why),) * bool(self.model.why)]:
            self._text(sheet, row, 0, name, {})
            self._text(sheet, row, 1, value, {"text_wrap": True})
            row += 1
        for notice in self.model.notices:
            for sentence in notice.sentences:
                self._text(sheet, row, 0, notice.title, {"bold": True})
                self._text(sheet, row, 1, sentence, {"text_wrap": True})
                row += 1
        row += 1
        self._text(sheet, row, 0, "Sheet", {"bold": True, "bottom": 1})
        self._text(sheet, row, 1, "What it has", {"bold": True, "bottom": 1})
        for number, table in enumerate(self.tables, start=row + 1):
            name = self.sheets[table.name]
            link = self._format(font_color="#3A6EA5", underline=1)
            sheet.write_url(number, 0, f"internal:'{name}'!A1", link, string=name)
            self._text(sheet, number, 1, table.title, {"text_wrap": True})
        sheet.fit_to_pages(1, 0)

    def _write_table(self, table: Table) -> None:
        sheet = self.book.add_worksheet(self.sheets[table.name])
        layout = _Layout(table)
        for place, column in enumerate(table.columns):
            is_number = column.kind is Kind.NUMBER
            heading: dict[str, Any] = {"bold": True, "text_wrap": True, "bottom": 1, "bg_color": "#F5F6F7"}
            self._text(sheet, 0, place, column.title, {"align": "right" if is_number else "left", **heading})
            sheet.set_column(place, place, layout.width(place))
        for number, row in enumerate(table.rows, start=1):
            formulas = self._row_formulas(table, number, row)
            for place, cell in enumerate(row.cells):
                bold = {"bold": True} if row.tone is Tone.SUM else {}
                self._cell(sheet, number, place, cell, table.columns[place], bold, formulas.get(place))
        for number, row in enumerate(table.sums(), start=len(table.rows) + 1):
            formulas = self._sum_formulas(table, row)
            for place, cell in enumerate(row.cells):
                heavy: dict[str, Any] = {"bold": True, "top": 1}
                self._cell(sheet, number, place, cell, table.columns[place], heavy, formulas.get(place))
        sheet.set_row(0, 32)
        sheet.freeze_panes(1, 1)
        sheet.autofilter(0, 0, len(table.rows), len(table.columns) - 1)
        sheet.repeat_rows(0)
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)
        sheet.ignore_errors(
            {"number_stored_as_text": f"A1:{xl_rowcol_to_cell(len(table.rows) + 9, len(table.columns))}"}
        )

    def _row_formulas(self, table: Table, number: int, row: Row) -> dict[int, str]:
        """Return the formulas of a row: those of its columns, and both sides of a tie-out."""
        formulas = {}
        for place, column in enumerate(table.columns):
            names = re.findall(r"{(\w+)}", column.formula)
            places = {name: table.place(name) for name in names}
            if column.formula and all(_is_live(row.cells[one]) for one in places.values()):
                cells = {name: xl_rowcol_to_cell(number, one) for name, one in places.items()}
                formula = column.formula.format(**cells)
                is_number = column.kind is Kind.NUMBER
                formulas[place] = f"=ROUND({formula}, {_decimals(row.cells[place])})" if is_number else f"={formula}"
        if table.name == TIE_OUTS:
            tie_out = self.model.tie_outs[number - 1]
            left = [self._reference(reference) for reference in tie_out.left]
            right = self._reference(tie_out.right)
            if all(left) and right:
                formulas[table.place("left")] = "=" + "".join(str(one) for one in left)
                formulas[table.place("right")] = f"={right}"
        return formulas

    def _reference(self, reference: Reference) -> str:
        """Return what a reference adds up as a formula; a table without rows is not in the workbook."""
        sign = "-" if reference.sign < 0 else "+"
        if reference.table not in self.sheets:
            return f"{sign}0"
        table = self.model.table(reference.table)
        if not all(_is_live(row.cells[table.place(reference.column)]) for row in table.rows):
            return ""
        total = _range(table, reference.column, self.sheets[table.name])
        if not reference.where:
            return f"{sign}SUM({total})"
        conditions = "".join(
            f', {_range(table, column, self.sheets[table.name])}, "{value}"' for column, value in reference.where
        )
        return f"{sign}SUMIFS({total}{conditions})"

    def _sum_formulas(self, table: Table, row: Row) -> dict[int, str]:
        formulas = {}
        for place, column in enumerate(table.columns):
            if column.is_summed and all(_is_live(one.cells[place]) for one in table.rows):
                total = _range(table, column.name)
                formulas[place] = f"=SUM({total})"
                if table.sums_by:
                    by = row.cells[table.place(table.sums_by)]
                    formulas[place] = f'=SUMIFS({total}, {_range(table, table.sums_by)}, "{by}")'
        return formulas

    def _cell(
        self,
        sheet: Any,
        row: int,
        place: int,
        cell: Cell,
        column: Column,
        properties: Mapping[str, Any],
        formula: str | None,
    ) -> None:
        if isinstance(cell, Badge):
            colour = {Tone.PASS: "#1D6B3C", Tone.FAIL: "#A3211B", Tone.WARN: "#8A4B1F"}.get(cell.tone, "#000000")
            shown = {**properties, "font_color": colour, "bold": True}
            if formula is not None:
                sheet.write_formula(row, place, formula, self._format(**shown), cell.text)
            else:
                self._text(sheet, row, place, cell.text, shown)
        elif isinstance(cell, int | Decimal):
            shown = {
                **properties,
                "align": "right",
                "indent": 1,
                "num_format": _number_format(cell, is_signed=column.is_signed),
            }
            if formula is not None:
                sheet.write_formula(row, place, formula, self._format(**shown), cell)
            elif _is_live(cell):
                sheet.write_number(row, place, cell, self._format(**shown))
            else:
                self._text(sheet, row, place, number_text(cell), {**properties, "align": "right", "indent": 1})
        elif isinstance(cell, datetime):
            self._text(sheet, row, place, format_instant(cell).removesuffix(" UTC"), properties)
        elif cell is None:
            sheet.write_blank(row, place, None, self._format(**properties))
        else:
            self._text(sheet, row, place, cell, {**properties, "text_wrap": True} if column.is_wide else properties)

    def _text(self, sheet: Any, row: int, place: int, text: str, properties: Mapping[str, Any]) -> None:
        shown = text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"
        guarded = {**properties, "quote_prefix": True} if text.startswith(ACTING) else properties
        sheet.write_string(row, place, shown, self._format(**guarded))


class _Layout:
    """How wide the columns of a table are."""

    def __init__(self, table: Table) -> None:
        self.table = table

    @cached_property
    def _sample(self) -> Sequence[Row]:
        return (*self.table.rows[:200], *self.table.sums())

    def width(self, place: int) -> int:
        column = self.table.columns[place]
        texts = [_shown(row.cells[place]) for row in self._sample]
        longest = max((len(line) for text in texts for line in text.splitlines()), default=0)
        heading = max(-(-len(column.title) // 2), *(len(word) for word in column.title.split()))
        return min(max(longest, heading, 8) + 3, WIDTH_MAX)


def _shown(cell: Cell) -> str:
    if isinstance(cell, int | Decimal):
        return number_text(cell)
    return cell.text if isinstance(cell, Badge) else "" if cell is None else str(cell)


def _is_live(cell: Cell) -> bool:
    """Tell whether a spreadsheet can compute with a cell without rounding it first."""
    if cell is None:
        return True
    if isinstance(cell, int):
        return len(str(abs(cell))) <= EXACT_DIGITS_MAX
    return (
        isinstance(cell, Decimal) and len(f"{cell:f}".replace("-", "").replace(".", "").lstrip("0")) <= EXACT_DIGITS_MAX
    )


def _decimals(cell: Cell) -> int:
    """Return how many decimals a computed cell has, so that its formula gives the same digits."""
    return max(0, -int(cell.as_tuple().exponent)) if isinstance(cell, Decimal) else 0


def _number_format(number: int | Decimal, *, is_signed: bool) -> str:
    decimals = _decimals(number)
    digits = "#,##0" + (f".{'0' * decimals}" if decimals else "")
    return f"+{digits};-{digits};{digits}" if is_signed else digits


def _range(table: Table, column: str, sheet: str = "") -> str:
    name = xl_col_to_name(table.place(column), col_abs=True)
    where = f"'{sheet}'!" if sheet else ""
    return f"{where}{name}$2:{name}${len(table.rows) + 1}"


def _sheet_name(table: str, number: int) -> str:
    """Return a name of at most 31 characters that no other table has."""
    return table if len(table) <= SHEET_NAME_MAX else f"{table[: SHEET_NAME_MAX - 3]}_{number:02}"
