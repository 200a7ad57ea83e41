"""External reports: what a row says, how far the sides may differ, and of what kind a difference is."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.breaks import BreakClass
from pipeline.core.external import ExternalContract, ExternalFigure, external_figures
from pipeline.core.external_match import ExternalMatch, external_controls, report_controls
from pipeline.core.reconciliation import Control, Effect, Equation, Verdict

CONTRACT: dict[str, Any] = {
    "name": "cloud_export",
    "version": "1",
    "prefix": "external/cloud/",
    "format": "csv",
    "columns": {"account": "Account", "sku": "Sku", "day": "Day", "quantity": "Used", "amount": "Cost"},
    "accounts": {"customer-1": "acct-1"},
    "skus": {"TOK-IN": "tokens-input"},
    "currency": "USD",
    "tolerance": {"absolute": "2", "percent": "1", "reason": "the provider rounds each hour"},
}
MATCH = ExternalMatch(
    period_id="2026-01",
    account_id="acct-1",
    sku="tokens-input",
    unit="tokens",
    external_quantity=Decimal(1000),
    usage_quantity=Decimal(1000),
    earlier_external_quantity=Decimal(0),
    earlier_usage_quantity=Decimal(0),
    line_item_quantity=Decimal(1000),
    external_amount=Decimal(50),
    line_item_amount=Decimal(50),
    is_known=True,
)


def contract(**changed: Any) -> ExternalContract:
    return ExternalContract.model_validate({**CONTRACT, **changed})


def row(**changed: object) -> dict[str, object]:
    return {"Account": "customer-1", "Sku": "TOK-IN", "Day": "2026-01-15", "Used": "10.5", "Cost": "0.21", **changed}


def controls(match: ExternalMatch, *, is_whole: bool = True, **changed: Any) -> dict[Equation, Control]:
    return {one.control: one for one in external_controls(contract(**changed), [match], is_whole=is_whole)}


def test_rows_of_one_account_sku_and_day_are_added_up_under_our_names() -> None:
    figures = external_figures(contract(), [row(), row(Used="0.000000001", Cost="1"), row(Account="acct-9")])

    assert figures == [
        ExternalFigure("acct-1", "tokens-input", "2026-01-15", Decimal("10.500000001"), Decimal("1.21")),
        ExternalFigure("acct-9", "tokens-input", "2026-01-15", Decimal("10.5"), Decimal("0.21")),
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"Used": ""}, "row 2: Used is missing or empty"),
        ({"Used": 1.5}, "row 2: Used: found '1.5', accepted an exact decimal"),
        ({"Used": "1e3"}, "row 2: Used: found '1e3'"),
        ({"Used": "1.0000000001"}, "row 2: Used: found '1.0000000001'"),
        ({"Used": "1000000000000000"}, "row 2: Used: found '1000000000000000', accepted"),
        ({"Used": "999999999999999"}, "row 2: Used: 1000000000000009.5 is more than 15 digits"),
        ({"Day": "15.01.2026"}, "row 2: "),
    ],
)
def test_a_row_that_is_not_clear_refuses_the_report_and_says_where(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        external_figures(contract(), [row(), row(**changed)])


@pytest.mark.parametrize(
    "changed",
    [
        {"columns": {"sku": "Sku", "quantity": "Used"}},
        {"columns": {"sku": "Sku", "day": "Day", "period": "Month", "quantity": "Used"}},
        {"columns": {"sku": "Sku", "day": "Day"}},
        {"currency": None},
        {"tolerance": {"absolute": "2"}},
        {"tolerance": {"absolute": "-1", "reason": "none"}},
        {"tolerance": {"absolute": "1000000000000000", "reason": "everything"}},
    ],
)
def test_a_contract_that_leaves_something_open_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        contract(**changed)


@pytest.mark.parametrize(
    ("usage", "verdict"),
    [("990", Verdict.PASS), ("989.999999999", Verdict.FAIL), ("1010", Verdict.PASS), ("1010.000000001", Verdict.FAIL)],
)
def test_the_larger_of_the_two_bounds_is_the_tolerance(usage: str, verdict: Verdict) -> None:
    found = controls(replace(MATCH, usage_quantity=Decimal(usage)))[Equation.EXTERNAL_USAGE]

    assert (found.tolerance, found.verdict) == (Decimal(10), verdict)
    assert found.tolerance_reason == "cloud_export allows 2 or 1 percent: the provider rounds each hour"


def test_a_small_figure_is_held_against_the_absolute_bound() -> None:
    small = replace(MATCH, external_quantity=Decimal(10), usage_quantity=Decimal(12))

    assert controls(small)[Equation.EXTERNAL_USAGE].verdict is Verdict.PASS
    assert controls(replace(small, usage_quantity=Decimal(13)))[Equation.EXTERNAL_USAGE].verdict is Verdict.FAIL


def test_line_items_are_compared_only_when_the_period_is_whole() -> None:
    assert set(controls(MATCH, is_whole=False)) == {Equation.EXTERNAL_USAGE}
    assert set(controls(MATCH)) == {Equation.EXTERNAL_USAGE, Equation.EXTERNAL_LINES, Equation.EXTERNAL_AMOUNT}


@pytest.mark.parametrize(
    ("match", "equation", "kind"),
    [
        (replace(MATCH, usage_quantity=None), Equation.EXTERNAL_USAGE, BreakClass.MISSING),
        (replace(MATCH, external_quantity=None), Equation.EXTERNAL_USAGE, BreakClass.EXTRA),
        (replace(MATCH, usage_quantity=Decimal(500)), Equation.EXTERNAL_USAGE, BreakClass.AMOUNT),
        (replace(MATCH, usage_quantity=None, is_known=False), Equation.EXTERNAL_USAGE, BreakClass.MAPPING),
        (
            replace(
                MATCH,
                usage_quantity=Decimal(2000),
                earlier_external_quantity=Decimal(900),
                earlier_usage_quantity=Decimal(901),
            ),
            Equation.EXTERNAL_USAGE,
            BreakClass.TIMING,
        ),
        (replace(MATCH, line_item_quantity=None), Equation.EXTERNAL_LINES, BreakClass.MISSING),
        (replace(MATCH, line_item_amount=Decimal(60)), Equation.EXTERNAL_AMOUNT, BreakClass.PRICE),
        (
            replace(MATCH, line_item_amount=Decimal(60), usage_quantity=Decimal(1200)),
            Equation.EXTERNAL_AMOUNT,
            BreakClass.AMOUNT,
        ),
    ],
)
def test_a_difference_is_of_the_kind_that_its_sides_say(
    match: ExternalMatch, equation: Equation, kind: BreakClass
) -> None:
    assert controls(match)[equation].break_class is kind


@pytest.mark.parametrize(
    ("match", "changed", "effect"),
    [
        (replace(MATCH, usage_quantity=None), {}, Effect.HOLD),
        (replace(MATCH, usage_quantity=None, account_id=""), {}, Effect.STOP),
        (replace(MATCH, usage_quantity=None), {"gates": False}, Effect.REPORT),
    ],
)
def test_a_difference_holds_its_account_or_stops_or_is_reported(
    match: ExternalMatch, changed: dict[str, Any], effect: Effect
) -> None:
    assert controls(match, **changed)[Equation.EXTERNAL_USAGE].effect is effect


@pytest.mark.parametrize(
    ("is_whole", "gates", "effect"),
    [(False, True, Effect.REPORT), (True, True, Effect.STOP), (True, False, Effect.REPORT)],
)
def test_what_is_nobodys_stops_the_close_and_no_night(is_whole: bool, gates: bool, effect: Effect) -> None:
    unknown = replace(MATCH, usage_quantity=None, is_known=False)

    found = controls(unknown, is_whole=is_whole, gates=gates)[Equation.EXTERNAL_USAGE]

    assert (found.break_class, found.effect, found.account_id) == (BreakClass.MAPPING, effect, "")


def test_a_report_by_month_is_compared_when_the_period_is_whole_and_on_no_night() -> None:
    columns = {"account": "Account", "sku": "Sku", "period": "Month", "quantity": "Used", "amount": "Cost"}
    part = replace(MATCH, usage_quantity=Decimal(30))

    assert controls(part, is_whole=False, columns=columns) == {}
    assert {one.verdict for one in controls(part, columns=columns).values()} == {Verdict.PASS}
    assert set(controls(part, columns=columns)) == {Equation.EXTERNAL_LINES, Equation.EXTERNAL_AMOUNT}


def test_rows_that_the_contract_calls_none_of_ours_are_left_out() -> None:
    said = contract(accounts={"customer-9": ""}, skus={"GPU": ""})

    assert external_figures(said, [row(Account="customer-9"), row(Sku="GPU")]) == []


@pytest.mark.parametrize(
    ("is_whole", "gates", "effects"),
    [
        (False, True, [Effect.REPORT]),
        (True, True, [Effect.STOP, Effect.STOP]),
        (True, False, [Effect.REPORT, Effect.REPORT]),
    ],
)
def test_a_close_stops_without_a_report_that_can_be_read(is_whole: bool, gates: bool, effects: list[Effect]) -> None:
    found = report_controls(contract(gates=gates), "2026-01", {"a.csv": "row 1"}, is_missing=True, is_whole=is_whole)

    assert [one.effect for one in found] == effects
    assert {one.verdict for one in found} == {Verdict.FAIL}
    assert report_controls(contract(), "2026-01", {}, is_missing=False, is_whole=is_whole) == []
