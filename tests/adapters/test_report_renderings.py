"""The page, the workbook, JSON and Parquet of a report have the same figures, and no text of a customer acts in any."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import openpyxl
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.documents import render
from pipeline.adapters.report_files import plain, report_json, report_parquet
from pipeline.adapters.report_xlsx import workbook
from pipeline.core.report_model import Badge, Cell, ReportModel, number_text
from pipeline.core.report_sections import report_model
from tests.core.report_facts import FORMULA_NAME, full_facts

Figures = dict[tuple[str, int, str], str]  # the text of each cell that is not empty, by table, row and column


@pytest.fixture(scope="module")
def model() -> ReportModel:
    return report_model(full_facts())


@pytest.fixture(scope="module")
def cells(model: ReportModel) -> Figures:
    """Return every cell of the report, those of sums under ``table.sums``."""
    return dict(_cells(model))


def _cells(model: ReportModel) -> Iterator[tuple[tuple[str, int, str], str]]:
    for table in model.tables():
        for name, rows in ((table.name, table.rows), (f"{table.name}.sums", table.sums())):
            for number, row in enumerate(rows):
                for column, cell in zip(table.columns, row.cells, strict=True):
                    if cell is not None:
                        yield (name, number, column.name), str(plain(cell))


def test_json_has_every_figure(model: ReportModel, cells: Figures) -> None:
    content = json.loads(report_json(model))

    found = {}
    for section in content["sections"]:
        for table in section["tables"]:
            for name, rows in ((table["name"], table["rows"]), (f"{table['name']}.sums", table["sums"])):
                for number, row in enumerate(rows):
                    found |= {(name, number, column): text for column, text in row.items() if text is not None}
    assert len(cells) > 400
    assert found == cells
    assert (content["verdict"], content["sentence"]) == (model.verdict, model.sentence)


def test_parquet_has_every_figure_as_text_and_as_number(model: ReportModel, cells: Figures) -> None:
    rows = pq.read_table(io.BytesIO(report_parquet(model))).to_pylist()

    tidy = [row for row in rows if row["section"] != "report"]
    assert {(row["table"], row["row"] - 1, row["name"]): row["value"] for row in tidy} == cells
    numbers = {(row["table"], row["row"] - 1, row["name"]): row["number"] for row in tidy if row["number"] is not None}
    assert numbers
    assert all(number == Decimal(cells[key]) for key, number in numbers.items())
    facts = {row["name"]: row["value"] for row in rows if row["table"] == "report"}
    assert (facts["verdict"], facts["sentence"]) == (model.verdict, model.sentence)


def test_every_format_has_every_fact_beside_the_verdict(model: ReportModel) -> None:
    facts = list(model.facts)
    assert len({name for name, _ in facts}) < len(facts), "a period of two currencies has two facts of one name"

    page = render("report.html", {"report": model})
    shown = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    assert [(html.unescape(name), html.unescape(value)) for name, value in shown] == facts
    assert [(one["name"], one["value"]) for one in json.loads(report_json(model))["facts"]] == facts
    tidy = pq.read_table(io.BytesIO(report_parquet(model))).to_pylist()
    assert [(row["name"], row["value"]) for row in tidy if row["table"] == "facts"] == facts
    summary = openpyxl.load_workbook(io.BytesIO(workbook(model)))["summary"]
    assert [(row[0].value, row[1].value) for row in summary.iter_rows(4, 3 + len(facts))] == facts


class _Tables(HTMLParser):
    """Collect the texts of the cells of each table, by its label."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        label = dict(attrs).get("aria-label") if dict(attrs).get("role") == "region" else None
        if label is not None:
            self.rows = self.tables.setdefault(label, [])
        elif self.rows is not None and tag == "tr":
            self.rows.append([])
        elif self.rows is not None and tag in ("td", "th"):
            self.rows[-1].append("")
        elif self.rows and tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows = None

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def _shown(cell: Cell, *, is_signed: bool) -> str:
    if isinstance(cell, int | Decimal):
        return number_text(cell, is_signed)
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
    return "" if cell is None else cell.text if isinstance(cell, Badge) else cell


def test_the_page_has_every_figure(model: ReportModel) -> None:
    parser = _Tables()
    parser.feed(render("report.html", {"report": model}))

    shown = [table for table in model.tables() if not table.is_detail and table.rows]
    assert len(shown) > 30
    for table in shown:
        rows = [
            [_shown(cell, is_signed=column.is_signed) for column, cell in zip(table.columns, row.cells, strict=True)]
            for row in (*table.rows, *table.sums())
        ]
        found = [[text.strip() for text in row] for row in parser.tables[table.title][1:]]
        assert all(row in found for row in rows), table.name
    assert model.sentence in html.unescape(render("report.html", {"report": model}))


def test_the_workbook_has_every_figure(model: ReportModel) -> None:
    sheets = openpyxl.load_workbook(io.BytesIO(workbook(model)), data_only=True)

    tables = [table for table in model.tables() if table.rows]
    assert sheets.sheetnames[1:] == [table.name for table in tables]
    for table in tables:
        sheet = sheets[table.name]
        assert [cell.value for cell in sheet[1]] == [column.title for column in table.columns]
        for number, row in enumerate((*table.rows, *table.sums()), start=2):
            for column, (definition, cell) in enumerate(zip(table.columns, row.cells, strict=True), start=1):
                found = sheet.cell(number, column)
                where = f"{table.name} {found.coordinate}"
                if isinstance(cell, int | Decimal) and not isinstance(found.value, str):
                    assert Decimal(repr(found.value)) == cell, where
                    decimals = max(0, -int(cell.as_tuple().exponent)) if isinstance(cell, Decimal) else 0
                    shown = found.number_format.partition(";")[0].partition(".")[2]
                    assert len(shown) == decimals, where
                    assert found.alignment.horizontal == "right", where
                elif isinstance(cell, int | Decimal):
                    assert found.value == number_text(cell), where
                else:
                    assert (found.value or "") == _shown(cell, is_signed=definition.is_signed), where
        assert sheet.freeze_panes == "B2"


def test_a_number_that_a_spreadsheet_would_round_keeps_every_digit(model: ReportModel) -> None:
    sheet = openpyxl.load_workbook(io.BytesIO(workbook(model)))["amounts"]

    assert sheet["E2"].value == "12.3456789012345678"
    assert sheet["G2"].value == Decimal("-0.0043210987654322") or str(sheet["G2"].value) == "-0.0043210987654322"


def test_formulas_give_the_values_that_are_cached_for_them(model: ReportModel) -> None:
    content = workbook(model)
    formulas = openpyxl.load_workbook(io.BytesIO(content))
    values = openpyxl.load_workbook(io.BytesIO(content), data_only=True)

    checked = 0
    for sheet in formulas.worksheets:
        for cell in (cell for row in sheet.iter_rows() for cell in row if cell.data_type == "f"):
            assert evaluated(str(cell.value), values, sheet.title) == values[sheet.title][cell.coordinate].value, cell
            checked += 1
    assert checked > 60
    assert "SUMIFS('accounts'!" in str(formulas["tie_outs"]["D5"].value)
    assert str(formulas["tie_outs"]["F5"].value) == '=IF(E5 = 0, "pass", "fail")'


def evaluated(formula: str, book: Any, title: str) -> Any:
    """Compute a formula of the few functions that are used, from the values of the workbook."""

    def column(match: str) -> list[Any]:
        sheet, _, area = match.rpartition("!")
        rows = book[sheet.strip("'") or title][area.replace("$", "")]
        return [row[0].value for row in rows]

    def total(match: re.Match[str]) -> str:
        numbers, *conditions = [part.strip() for part in match[1].split(", ")]
        kept = [True] * len(column(numbers))
        for area, text in zip(conditions[::2], conditions[1::2], strict=True):
            kept = [one and value == text.strip('"') for one, value in zip(kept, column(area), strict=True)]
        found = (Decimal(repr(value)) for value, one in zip(column(numbers), kept, strict=True) if one and value)
        return f"Decimal('{sum(found, Decimal(0))}')"

    text = re.sub(r"SUM(?:IFS)?\(([^()]*)\)", total, formula.removeprefix("="))
    text = re.sub(
        r"(?<![\w'\"!$])([A-Z]{1,2}\d+)\b", lambda match: f"Decimal('{book[title][match[1]].value or 0!r}')", text
    )
    text = re.sub(r"IF\((.*?) (<=|=) (.*?), \"pass\", \"fail\"\)", r'("pass" if \1 \2 \3 else "fail")', text)
    text = text.replace(" = ", " == ").replace("ROUND(", "round(").replace("ABS(", "abs(")
    result = eval(text, {"Decimal": Decimal})  # our own formulas, in a test
    return float(result) if isinstance(result, Decimal) else result


def test_no_text_of_a_customer_is_a_formula(model: ReportModel) -> None:
    sheets = openpyxl.load_workbook(io.BytesIO(workbook(model)))

    hostile = 0
    for sheet in sheets.worksheets:
        for cell in (cell for row in sheet.iter_rows() for cell in row):
            if isinstance(cell.value, str) and cell.value.startswith(("=", "+", "-", "@")):
                is_ours = re.match(r"=(ROUND|SUM|SUMIFS|IF|[+-]0|[+-]SUM)", cell.value) is not None
                assert cell.data_type == ("f" if is_ours else "s"), cell.value
                if not is_ours and not re.fullmatch(r"-[\d,.]+", cell.value):
                    hostile += 1
                    assert cell.quotePrefix, f"{sheet.title} {cell.coordinate}"
    names = [cell.value for cell in sheets["largest_accounts"]["C"]]
    assert FORMULA_NAME in names
    assert hostile >= 6


def test_the_same_report_makes_the_same_bytes(model: ReportModel) -> None:
    assert workbook(model) == workbook(model)
    assert report_parquet(model) == report_parquet(model)


def test_a_page_can_be_used_without_seeing_it_and_without_a_mouse(model: ReportModel) -> None:
    page = render("report.html", {"report": model})

    assert page.count("<h1>") == 1
    assert len(re.findall(r"<table>", page)) == len(re.findall(r'role="region" tabindex="0" aria-label="[^"]+"', page))
    assert all(re.search(r'role="(img|group)" aria-label="[^"]+"', svg) for svg in re.findall(r"<svg[^>]*>", page))
    assert len(re.findall(r"<svg", page)) >= 7
    assert not re.search(r"<th(?! scope|ead)", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
