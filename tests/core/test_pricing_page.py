"""docs/pricing.md is executed: each TOML example is a price book, each row of a table a line that rating must make.

An example is the ``toml`` blocks since the table before it, which are books in force together; what they leave out of
a book is filled in. A row with something in ``used`` begins a case, and the rows below it are the rest of its lines:

    calls 25                    25 calls in the month; `;` separates several SKUs, `nothing` is no usage
    calls 600 then 900          600 in the first part of the month, 900 in the second
    seats 10 (max)              a maximum instead of a sum
    payments 200 in 3 events    an amount of several events
    payments 100 + 40           the values of events, in order of time
    images 3 {"size": "large"}  with dimensions

The column ``account`` says when the account is there and on which plan: ``from 2026-01-22``, ``until 2026-01-11``,
``standard until 2026-01-16, then pro``, ``in JPY``. A day may have a time: ``2026-01-31 12:00``.
"""

import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from pipeline.core.account import AccountRow
from pipeline.core.line_item import LineItem, LineKind
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.price_book import AnyCharge, Change, DynamicCharge, PriceBook
from pipeline.core.price_cases import parse_cases, rate_case
from pipeline.core.project import PricedBook
from pipeline.core.rating import rate_account
from pipeline.core.terms import AccountTerms
from tests.core.price_books import ACCOUNT, account_row, terms_of

PAGE = Path(__file__).parents[2] / "docs" / "pricing.md"
PARTS = re.compile(r"^#+ (?P<title>.*)$|^```toml\n(?P<toml>(?s:.*?))^```$|^\|(?:.*\n\|)*.*$", re.MULTILINE)
COLUMNS = {"exact amount": "amount_exact", "amount": "amount", "residual": "residual", "quantity": "quantity"}


class Case(NamedTuple):
    """What the page says of one use: the lines as rows of a table."""

    section: str
    books: tuple[PricedBook, ...]
    account: str
    used: str
    rows: tuple[dict[str, str], ...]


def cases(text: str) -> Iterator[Case]:
    """Yield every case of the page in order."""
    section, blocks, is_table_over = "", list[str](), False
    for found in PARTS.finditer(text):
        if found["title"]:
            section = found["title"]
        elif found["toml"]:
            blocks = [found["toml"]] if is_table_over else [*blocks, found["toml"]]
            is_table_over = False
        elif "used" in found[0].splitlines()[0]:
            is_table_over = True
            books = tuple(_book(toml, number) for number, toml in enumerate(blocks, start=1))
            yield from _cases_of_table(section, books, found[0])


def _book(toml: str, number: int) -> PricedBook:
    found = tomllib.loads(toml, parse_float=Decimal)
    name = "list-prices" if number == 1 else f"list-prices-{number}"
    book = PriceBook.model_validate({"name": name, "author": "ana", "effective_from": "2026-01-01", **found})
    return PricedBook(book, f"{book.name}@{number:012}")


def _cases_of_table(section: str, books: tuple[PricedBook, ...], table: str) -> Iterator[Case]:
    lines = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    rows = [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]
    begins = [number for number, row in enumerate(rows) if row["used"]]
    assert begins[0] == 0
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        yield Case(section, books, rows[begin].get("account", ""), rows[begin]["used"], tuple(rows[begin:end]))


def lines_of(case: Case) -> tuple[list[LineItem], list[str]]:
    """Rate a case; return its lines and problems."""
    terms = terms_of(*case.books, rows=_account_rows(case))
    usage: list[PeriodUsage] = []
    values: list[EventValue] = []
    for item in case.used.split("; "):
        if item != "nothing":
            _add_usage(item, terms, usage, values)
    return rate_account(terms, usage, values)


def _account_rows(case: Case) -> list[AccountRow]:
    plans = case.books[0].book.plans
    plan = next(iter(plans))
    currency = plans[plan].charges[0].currency
    text = case.account
    if found := re.fullmatch(r"(\w+) until ([\d-]+)(?: ([\d:]+))?, then (\w+)", text):
        first, day, time, second = found.groups()
        at = f"{day}T{time or '00:00'}:00Z"
        return [
            account_row(currency=currency, plan=first, valid_to=at),
            account_row(currency=currency, plan=second, valid_from=at),
        ]
    changes = {"plan": plan, "currency": currency}
    for word, value in re.findall(r"(from|until|in) ([\w-]+)", text):
        key = {"from": "valid_from", "until": "valid_to", "in": "currency"}[word]
        changes[key] = f"{value}T00:00:00Z" if key.startswith("valid") else value
    return [account_row(**changes)]


def _add_usage(item: str, terms: AccountTerms, usage: list[PeriodUsage], values: list[EventValue]) -> None:
    pattern = r"(\S+) ([-\d.,+ ]+?(?: then [-\d.,+ ]+?)*)(?: in (\d+) events?)?(?: (\{.*\}))?(?: \((\w+)\))?"
    found = re.fullmatch(pattern, item)
    assert found, f"cannot read what is used: {item}"
    sku, quantities, event_count, dimensions, aggregation = found.groups()
    charge = terms.segments[0].charges.get(sku)
    unit = terms.account.currency if isinstance(charge, DynamicCharge) else "units"
    for segment, text in zip(terms.segments, quantities.replace(",", "").split(" then "), strict=True):
        events = [Decimal(value) for value in text.split(" + ")]
        quantity = sum(events, Decimal(0))
        count = int(event_count) if event_count else len(events)
        usage.append(
            PeriodUsage(ACCOUNT, sku, segment.number, dimensions or "", aggregation or "sum", unit, quantity, count)
        )
        for second, value in enumerate(events):
            at = segment.start + timedelta(seconds=second)
            values.append(EventValue(ACCOUNT, sku, segment.number, at, value, 1))


def shown_id(line: LineItem) -> str:
    """Return the id of a line as the page shows it, without the account."""
    return line.line_item_id.removeprefix(f"{ACCOUNT}/")


CASES = [*cases(PAGE.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section}: {case.account} {case.used}")
def test_rating_makes_the_lines_that_the_pricing_page_shows(case: Case) -> None:
    lines, problems = lines_of(case)

    if case.rows[0]["line"] == "refused":
        assert problems
        return
    assert problems == []
    if case.rows[0]["line"] == "no line":
        assert lines == []
        return
    assert sorted(row["line"] for row in case.rows) == [shown_id(line) for line in lines]
    by_id = {shown_id(line): line for line in lines}
    for row in case.rows:
        for column, field in COLUMNS.items():
            if column in row:
                expected = Decimal(row[column].replace(",", ""))
                assert getattr(by_id[row["line"]], field) == expected, f"{column} of {row['line']}"


def test_the_rating_cases_of_the_pricing_page_pass() -> None:
    texts = re.findall(r"^```json\n(.*)\n```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    parsed = parse_cases("\n".join(texts), "cases.jsonl")

    assert [one.case_id for one in parsed] == ["bronze-250", "strict"]
    assert all(rate_case(one).passed for one in parsed)


def test_the_pricing_page_shows_every_model_every_kind_of_line_and_every_change() -> None:
    lines = [line for case in CASES for line in lines_of(case)[0]]

    assert len(CASES) > 60
    models = {get_args(charge.model_fields["model"].annotation)[0] for charge in get_args(AnyCharge)}
    assert {line.model for line in lines if line.model} == models
    assert {line.kind for line in lines} == set(LineKind)
    assert {case.books[0].book.on_change for case in CASES if len(case.books) > 1} == set(Change)
    assert any(book.book.overrides for case in CASES for book in case.books)
    assert {line.currency for line in lines} == {"USD", "JPY", "KWD", "VND"}
