"""Taxes: per rate on the sum, rounded once; nothing is untaxed because somebody forgot a rate."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.money import RoundingMode
from pipeline.core.tax import Tax, TaxTable, taxes_of

NOTE = "VAT is owed by the customer (reverse charge)."


def rate(percent: str = "19", **changes: Any) -> dict[str, Any]:
    return {"region": "DE", "category": "standard", "name": "VAT", "percent": Decimal(percent), **changes}


def table(*rates: dict[str, Any]) -> TaxTable:
    return TaxTable.model_validate({"rates": rates})


def owed(rates: TaxTable, mode: RoundingMode = RoundingMode.HALF_UP, region: str = "DE", **nets: str) -> list[Tax]:
    return list(taxes_of({name: Decimal(net) for name, net in nets.items()}, region, "EUR", rates, mode))


def test_categories_that_owe_the_same_tax_are_one_sum_that_is_rounded_once() -> None:
    rates = table(rate(), rate(category="software"), rate("7", category="books", name="VAT"))

    taxes = owed(rates, standard="0.10", software="0.10", books="1")

    assert [(tax.percent, tax.net, tax.amount, tax.categories) for tax in taxes] == [
        (Decimal(19), Decimal("0.20"), Decimal("0.04"), ("software", "standard")),  # 0.02 and 0.02 apart
        (Decimal(7), Decimal(1), Decimal("0.07"), ("books",)),
    ]


def test_the_rounding_mode_of_the_book_decides_a_half_cent() -> None:
    assert owed(table(rate("10")), standard="0.25")[0].amount == Decimal("0.03")
    assert owed(table(rate("10")), RoundingMode.HALF_EVEN, standard="0.25")[0].amount == Decimal("0.02")


def test_a_negative_net_has_a_negative_tax_of_the_same_size() -> None:
    assert owed(table(rate("10")), standard="-0.25")[0].amount == Decimal("-0.03")


def test_a_category_may_owe_several_taxes_each_on_its_net() -> None:
    rates = table(rate("6.25", name="State tax"), rate("2", name="City tax"))

    assert [(tax.name, tax.net, tax.amount) for tax in owed(rates, standard="100")] == [
        ("City tax", Decimal(100), Decimal("2.00")),
        ("State tax", Decimal(100), Decimal("6.25")),
    ]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "S"),
        ({"percent": Decimal(0)}, "Z"),
        ({"percent": Decimal(0), "reason": "reverse_charge", "note": NOTE}, "AE"),
        ({"percent": Decimal(0), "reason": "exempt", "note": "Exempt under article 132."}, "E"),
        ({"percent": Decimal(0), "code": "O"}, "O"),
    ],
)
def test_a_tax_has_the_category_code_of_the_european_norm(changes: dict[str, Any], code: str) -> None:
    assert owed(table(rate(**changes)), standard="1")[0].to_json()["category"] == code


def test_a_reason_is_printed_with_its_sentence_and_owes_nothing() -> None:
    [tax] = owed(table(rate("0", reason="reverse_charge", note=NOTE)), standard="100")

    assert tax.to_json() == {
        "category": "AE",
        "name": "VAT",
        "percent": "0",
        "reason": "reverse_charge",
        "note": NOTE,
        "tax_categories": ["standard"],
        "net": "100",
        "tax": "0",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reason": "exempt", "note": "x"}, "owes nothing, but percent is 19"),
        ({"percent": Decimal(0), "reason": "exempt"}, "needs a note"),
        ({"percent": Decimal(101)}, "less than or equal to 100"),
        ({"percent": Decimal(-1)}, "greater than or equal to 0"),
        ({"percent": 0.5}, "exact decimal"),
        ({"reason": "forgotten"}, "reverse_charge"),
    ],
)
def test_a_rate_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        table({**rate(), **changes})


def test_two_rates_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two rates named 'VAT'"):
        table(rate(), rate("7"))


def test_what_has_no_rate_is_named_and_never_untaxed() -> None:
    rates = table(rate(), rate(region="FR", category="books"))

    assert rates.missing("DE", ["standard", "books"]) == ["books"]
    assert rates.missing("", ["standard"]) == ["standard"]
    with pytest.raises(ValueError, match="'books' has no tax rate in region 'DE'"):
        owed(rates, books="1")


@settings(max_examples=60)
@given(
    st.lists(st.decimals("-1000", "1000", places=2), min_size=1, max_size=4),
    st.decimals("0", "100", places=2),
    st.sampled_from(RoundingMode),
)
def test_a_tax_is_within_half_a_cent_of_its_rate_on_the_sum(
    nets: list[Decimal], percent: Decimal, mode: RoundingMode
) -> None:
    names = [f"category-{number}" for number in range(len(nets))]
    rates = table(*(rate(str(percent), category=name) for name in names))

    [tax] = taxes_of(dict(zip(names, nets, strict=True)), "DE", "EUR", rates, mode)

    assert tax.net == sum(nets)
    assert abs(tax.amount - sum(nets) * percent / 100) <= Decimal("0.005")
