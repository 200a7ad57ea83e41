"""The price commands as finance types them: what they print, and with which exit code they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from tests.fixtures_project import BILLING, PRICE_BOOK, write_project

DRAFT = "price_books/2025-01-01.toml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of which two people approve the books, as the current folder."""
    folder = write_project(tmp_path / "project", files={"billing.toml": BILLING.replace('"files"', '"four_eyes"')})
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BILLING_PROJECT", raising=False)
    monkeypatch.setenv("BILLING_USER", "ana")
    return folder


class Ended(Exception):  # noqa: N818 - the process would end here
    pass


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; return exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["billing", *arguments])
        codes: list[int] = []

        def end(exit_code: int | None) -> None:
            codes.append(exit_code or 0)
            raise Ended

        monkeypatch.setattr(cli, "_end", end)
        with pytest.raises(Ended):
            cli.main()
        printed = capsys.readouterr()
        return codes[0], printed.out, printed.err

    return run


def test_a_price_goes_from_a_draft_to_rating(folder: Path, billing: Any) -> None:
    assert billing("price", "check")[:2] == (
        0,
        f"{DRAFT}: no problem; {version(billing)}, effective from 2025-01-01; "
        "plans: 1, charges: 4, overrides: 0, cases passed: 0\n",
    )
    code, out, _ = billing("price", "publish", DRAFT, "--reason", "launch")
    assert (code, out.splitlines()[0]) == (0, f"{version(billing)} is published, effective from 2025-01-01")
    assert billing("price", "publish", DRAFT, "--reason", "launch")[1].startswith(
        f"{version(billing)} is already published, by ana"
    )

    code, _, err = billing("price", "approve", "standard")
    assert (code, err.splitlines()[0]) == (
        1,
        f"price.same_person: ana is the publisher of {version(billing)} and cannot approve it",
    )

    code, out, _ = billing("price", "approve", "standard", "--by", "ben")
    assert (code, out) == (0, f"{version(billing)} is approved and rates from 2025-01-01 on\n")
    code, out, _ = billing("price", "list", "--json")
    assert [(one["version"], one["state"], one["approved_by"]) for one in json.loads(out)] == [
        (version(billing), "approved", "ben")
    ]


def version(billing: Any) -> str:
    _, out, _ = billing("price", "check", "--json")
    found: str = json.loads(out)[0]["version"]
    return found


def test_a_draft_with_a_problem_is_wrong_use_and_says_file_line_and_key(folder: Path, billing: Any) -> None:
    (folder / DRAFT).write_text(PRICE_BOOK.replace("up_to = 10", "up_to = -10", 1))

    code, out, err = billing("price", "check", DRAFT)

    assert (code, out) == (2, "")
    assert f"{DRAFT} line 29: plans.standard.charges.#3.tiers.#1.up_to: found -10, accepted greater than 0" in err
    assert json.loads(billing("price", "check", DRAFT, "--json")[1])["error"]["code"] == "price.invalid_book"


def test_a_book_is_shown_as_a_table_as_json_and_as_its_bytes(folder: Path, billing: Any) -> None:
    assert billing("price", "show", DRAFT, "--toml")[1] == PRICE_BOOK

    shown = json.loads(billing("price", "show", DRAFT, "--json")[1])
    assert shown["plans"]["standard"]["charges"][0]["unit_price"] == "3"
    lines = billing("price", "show", DRAFT)[1].splitlines()
    assert "tokens-input  Input tokens  per_unit   each unit  3 per 1,000,000    USD" in lines


def test_a_diff_names_the_old_and_the_new_price(folder: Path, billing: Any) -> None:
    (folder / "new.toml").write_text(PRICE_BOOK.replace("unit_price = 3\n", "unit_price = 4\n"))

    code, out, _ = billing("price", "diff", DRAFT, "new.toml")

    assert code == 0
    assert out.splitlines()[1:] == ["plan standard, SKU tokens-input, USD", "  unit_price: 3 -> 4"]


def test_cases_that_bring_their_charge_need_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, billing: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    charge = {"model": "per_unit", "unit_price": "0.5"}
    case = {"id": "a", "charge": charge, "usage": {"quantity": "3"}, "currency": "USD", "expected": {"amount": "1.50"}}
    Path("cases.jsonl").write_text(json.dumps(case))
    assert billing("price", "check", "--cases", "cases.jsonl")[:2] == (
        0,
        "1 cases: both engines come to the expected amounts\n",
    )

    Path("cases.jsonl").write_text(json.dumps({**case, "expected": {"amount": "1.49"}}))
    code, _, err = billing("price", "check", "--cases", "cases.jsonl")
    assert code == 1
    assert "cases.jsonl, line 1, case a: amount: expected 1.49 USD, actual 1.5 USD" in err


def test_a_quote_before_any_usage_is_a_total_of_zero(folder: Path, billing: Any) -> None:
    arguments = ("--account", "acct-1", "--as-of", "2026-01-20", "--price-book", DRAFT, "--json")

    for command in (("quote",), ("price", "quote")):
        code, out, _ = billing(*command, *arguments)
        assert (code, json.loads(out)["period_id"], json.loads(out)["new_total"]) == (0, "2026-01", "0.00")

    code, _, err = billing("quote", "--account", "acct-1", "--as-of", "tomorrow", "--price-book", DRAFT)
    assert code == 2
    assert "--as-of" in err


def test_the_canary_is_set_shown_and_taken_off(folder: Path, billing: Any) -> None:
    assert billing("price", "canary", "show")[1] == "no book is the canary\n"
    assert " rates 1 % of the accounts in the shadow" in billing("price", "canary", "set", DRAFT)[1]
    assert ", set by ana\n" in billing("price", "canary", "show")[1]
    assert billing("price", "canary", "set", "off")[1] == "no canary from the next night on\n"
    assert json.loads(billing("price", "canary", "show", "--json")[1]) is None


def test_nobody_acts_without_a_name(folder: Path, billing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BILLING_USER")

    code, _, err = billing("price", "publish", DRAFT, "--reason", "launch")

    assert (code, err.partition(":")[0]) == (2, "settings.user")
