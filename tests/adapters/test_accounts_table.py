"""What is read by columns is what is read row by row, and what is not certainly right is left to that."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters import project_files
from pipeline.adapters.accounts_table import AccountsTable, accounts_table
from pipeline.core.account import AccountDirectory
from pipeline.core.errors import InputError
from pipeline.steps.inputs import account_references

HEADER = ["account_id", "name", "currency", "time_zone", "plan", "valid_from", "valid_to", "external_references"]
FIRST = ["acct-1", "First", "USD", "UTC", "standard", "2026-01-01T00:00:00Z", "", "one"]
SECOND = ["acct-2", "Second", "USD", "UTC", "standard", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "two;zwei"]


def content_of(*rows: list[str], header: list[str] | None = None) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header or HEADER, *rows])
    return text.getvalue().encode()


def table_of(*rows: list[str]) -> AccountsTable:
    table = accounts_table(content_of(*rows))
    assert table is not None
    return table


def changed(row: list[str], **cells: str) -> list[str]:
    return [cells.get(name, cell) for name, cell in zip(HEADER, row, strict=True)]


def rows_one_by_one(folder: Path, content: bytes) -> AccountDirectory | None:
    """Return the directory as rows that are looked at one by one give it; None if one of them is refused."""
    (folder / "accounts.csv").write_bytes(content)
    reader = project_files._Reader(folder)
    rows = reader.accounts("accounts.csv")
    return None if reader.problems else AccountDirectory(tuple(rows))


def references_of(table: AccountsTable) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in table.references.to_pylist()]


TEXTS = (
    "",
    " ",
    "a",
    "acct-1",
    "a b",
    " a",
    "a;b",
    "a ",
    "a;;b",
    "a ;b",
    "a; b",
    ";",
    '"',
    'x"y',
    ",",
    "1",
    "USD",
    "EURO",
    "UTC",
)
ODD_TEXTS = ("\u00a0", "\u00e9", "\n", "\r", "\x1f", "\x00", "Europe/Berlin", "20260101", "9999-99-99T", "2026-01-01")
INSTANTS = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00", "2026-01-01 00:00:00.123456Z")
CELLS = st.sampled_from((*TEXTS, *ODD_TEXTS, *INSTANTS, "2026-02-30T00:00:00Z"))


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_file_read_by_columns_has_the_rows_that_it_has_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.sampled_from([FIRST, SECOND]), min_size=1, max_size=3))
    column = data.draw(st.sampled_from(HEADER))
    rows = [changed(row, **{column: data.draw(CELLS)}) if data.draw(st.booleans()) else row for row in rows]
    content = data.draw(st.sampled_from(["", "\ufeff"])).encode() + content_of(*rows)
    content = content.replace(b"\n", data.draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"])))

    table = accounts_table(content)

    if table is not None:
        directory = rows_one_by_one(tmp_path_factory.mktemp("accounts"), content)
        # Currencies, time zones and plans are looked at with the rows that are compared.
        if directory is None:
            assert column in ("currency", "time_zone", "plan")
            kinds = {tuple(row[name] for name in ("currency", "time_zone", "plan")) for row in table.cells.to_pylist()}
            compared = {
                tuple(row[name] for name in ("currency", "time_zone", "plan")) for row in table.compared_rows(set())
            }
            assert compared == kinds
        else:
            assert references_of(table) == account_references(directory)


def test_a_plain_file_is_read_by_columns_with_or_without_quotes() -> None:
    rows = [FIRST, changed(SECOND, name='Second, "the other"')]

    assert len(references_of(table_of(*rows))) == 3
    assert len(references_of(table_of(FIRST, SECOND))) == 3


@pytest.mark.parametrize(
    "row",
    [
        changed(FIRST, account_id="acct 1"),
        changed(FIRST, name=" "),
        changed(FIRST, external_references=""),
        *(
            changed(FIRST, external_references=text)
            for text in ("one;", ";one", "one;;two", "one; two", "one ;two", "one ", " one", "\u00a0one", "\u00e9")
        ),
        changed(FIRST, valid_from="20260101"),
        changed(FIRST, valid_from="2026-01-01T00:00:00"),
        changed(FIRST, valid_from=""),
        changed(FIRST, valid_to="2026-01-01T00:00:00Z"),
        [*FIRST, "more"],
        FIRST[:-1],
    ],
)
def test_a_row_that_is_not_certainly_right_leaves_the_file_to_a_look_at_each(row: list[str]) -> None:
    assert accounts_table(content_of(SECOND, row)) is None


def test_an_end_just_after_the_beginning_is_right() -> None:
    table = table_of(changed(FIRST, valid_to="2026-01-01T00:00:00.000001Z"))

    assert [row["valid_to"].microsecond for row in table.references.to_pylist()] == [1]


def test_rows_that_share_an_account_or_a_reference_are_compared_and_one_of_each_kind() -> None:
    others = [changed(FIRST, account_id=f"acct-{n}", external_references=f"r{n}") for n in range(3, 9)]
    moved = changed(FIRST, account_id="acct-5", external_references="elsewhere")
    taken = changed(FIRST, account_id="acct-9", external_references="more;r6")
    euro = changed(FIRST, account_id="acct-10", currency="EUR", external_references="r10")

    compared = table_of(*others, moved, taken, euro).compared_rows({"acct-8"})

    assert [row["external_references"] for row in compared] == ["r3", "r5", "r6", "r8", "elsewhere", "more;r6", "r10"]


def test_the_directory_is_that_of_the_bytes_that_were_checked(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    project_files.write_starter_project(folder)
    project = project_files.load_project(folder)
    before = project.files["accounts.csv"]

    (folder / "accounts.csv").write_text("not accounts", encoding="utf-8")

    assert project.directory.rows
    assert project.files["accounts.csv"] == before
    with pytest.raises(InputError):
        project_files.load_project(folder)
