"""The file of a price book: a problem is told with file, line, key, what was found and what is accepted."""

from __future__ import annotations

import pytest

from pipeline.adapters.price_book_files import read_price_book

BOOK = """# prices of 2026
name = "prices"
author = "ana"
effective_from = 2026-01-01

[plans.standard]

[[plans.standard.charges]]
skus = ["input", "output"]
description = "Tokens"
model = "per_unit"
currency = "USD"
unit_price = 1.5

[[plans.standard.charges]]
sku = "calls"
description = "Calls"
model = "graduated"
currency = "USD"
tiers = [
    { up_to = 10, unit_price = 1 },
    { up_to = 20, unit_price = 0.5 },
    { unit_price = 0.25 },
]
"""
OVERRIDE = """
[[overrides]]
account_id = "acct-1"
reason = "deal"
valid_from = 2026-02-01
valid_to = 2026-01-31

[overrides.charge]
sku = "calls"
description = "Calls"
model = "per_unit"
currency = "USD"
unit_price = 0.1
"""


def test_a_book_is_named_by_its_content() -> None:
    file = read_price_book("b.toml", BOOK.encode())

    assert file.problems == []
    assert file.priced.version == "prices@" + __import__("hashlib").sha256(BOOK.encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("unit_price = 1.5", "unit_price = 1.5.1", "b.toml line 13: found text that is not TOML: "),
        (
            "unit_price = 1.5",
            "unit_price = nan",
            "b.toml line 13: plans.standard.charges.#1.unit_price: found NaN, accepted a finite number",
        ),
        (
            "unit_price = 1.5",
            "unit_price = 123456789012345",
            "b.toml line 13: plans.standard.charges.#1.unit_price: found 123456789012345, "
            "accepted up to 6 digits before the point and 12 after it; a million and more for one unit is model = "
            '"package" with package_size = 1 and the price as package_price',
        ),
        (
            "unit_price = 1.5",
            "unit_price = 1_500_000\nper_units = 1",
            "b.toml line 13: plans.standard.charges.#1.unit_price: found 1500000, accepted up to 6 digits",
        ),
        (
            "unit_price = 1.5",
            "unit_price = 1_500\nper_units = 0.001",
            "b.toml line 13: plans.standard.charges.#1.unit_price: found 1500 per 0.001 units, accepted up to 6 digits "
            "before the point for one unit; a million and more",
        ),
        (
            "up_to = 20",
            "up_to = 1e999999",
            "b.toml line 22: plans.standard.charges.#2.tiers.#2.up_to: found 1E+999999, accepted ",
        ),
        ("unit_price = 1.5", "unit_price = 1e-999999", ".unit_price: found 1E-999999, accepted "),
        (
            "up_to = 20",
            "up_to = 10",
            "b.toml line 22: plans.standard.charges.#2.tiers.#2.up_to: found 10, "
            "accepted more than 10, where the tier begins",
        ),
        (
            "up_to = 20, ",
            "",
            "b.toml line 22: plans.standard.charges.#2.tiers.#2.up_to: found none, "
            "accepted a bound: only the last tier is open",
        ),
        (
            "    { unit_price = 0.25 },",
            "    { up_to = 30, unit_price = 0.25 },",
            "b.toml line 23: plans.standard.charges.#2.tiers.#3.up_to: found 30 in the last tier, accepted none",
        ),
        (
            "up_to = 20",
            "up_to = -20",
            "b.toml line 22: plans.standard.charges.#2.tiers.#2.up_to: found -20, accepted greater than 0",
        ),
        (
            "up_to = 20",
            "up_to = 1e30",
            "b.toml line 22: plans.standard.charges.#2.tiers.#2.up_to: found 1000000000000000000000000000000, "
            "accepted decimal input should have no more than 29 digits before the decimal point",
        ),
        (
            'sku = "calls"',
            'sku = "output"',
            "b.toml line 16: plans.standard.charges.#2.sku: found 'output' a second time in USD, "
            "accepted one charge for a SKU and currency",
        ),
        (
            'model = "graduated"',
            'model = "tiered"',
            "b.toml line 18: plans.standard.charges.#2.model: found 'tiered', accepted 'per_unit', ",
        ),
        ('currency = "USD"\nunit', 'currency = "BUCKS"\nunit', "b.toml line 12: plans.standard.charges.#1.currency: "),
        ('author = "ana"', "", "b.toml line 1: author: found nothing, accepted a value"),
        (
            'skus = ["input", "output"]',
            "skus = []",
            "b.toml line 9: plans.standard.charges.#1.skus: found no list of SKUs, accepted sku, or skus",
        ),
    ],
)
def test_a_problem_is_told_with_its_line_and_key(old: str, new: str, expected: str) -> None:
    assert old in BOOK

    problems = read_price_book("b.toml", BOOK.replace(old, new, 1).encode()).problems

    assert expected in problems[0]
    assert problems[0].startswith("b.toml line ")


def test_an_override_without_a_reason_is_refused() -> None:
    blank = BOOK + OVERRIDE.replace('"deal"', '"  "').replace("2026-01-31", "2026-03-01")

    [problem] = read_price_book("b.toml", blank.encode()).problems

    assert problem.startswith("b.toml line 28: overrides.#1.reason: found '  ', accepted ")


def test_the_validity_of_an_override_is_told_with_its_line() -> None:
    [problem] = read_price_book("b.toml", (BOOK + OVERRIDE).encode()).problems

    assert problem == (
        "b.toml line 30: overrides.#1.valid_to: found 2026-01-31, accepted a date after valid_from, 2026-02-01 "
        "(the day itself is outside)"
    )


def test_every_problem_of_a_book_is_told_at_once() -> None:
    broken = BOOK.replace("unit_price = 1.5", "unit_price = -inf").replace("up_to = 10", "up_to = 0")

    lines = [problem.partition(":")[0] for problem in read_price_book("b.toml", broken.encode()).problems]

    assert sorted(set(lines)) == ["b.toml line 13", "b.toml line 21"]


def test_a_charge_of_several_skus_is_found_where_it_is_written() -> None:
    file = read_price_book("b.toml", BOOK.encode())

    told = file.told([(("plans", "standard", "charges", n, "sku"), "x") for n in range(3)])

    assert told == [
        "b.toml line 9: plans.standard.charges.#1.skus: x",
        "b.toml line 9: plans.standard.charges.#1.skus: x",
        "b.toml line 16: plans.standard.charges.#2.sku: x",
    ]
