"""The equations of P3: each is zero for a whole night, and each fails when its own rule is broken."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from pipeline.core.agreement import Agreement, Disagreement, LineFigures
from pipeline.core.completeness import ProducerCount, ProducerTotal
from pipeline.core.errors import ReconciliationError
from pipeline.core.reconciliation import (
    EQUATION_SENTENCES,
    Control,
    Effect,
    Equation,
    EventCounts,
    InvoicedAccount,
    ObjectLines,
    PeriodAccounts,
    PeriodAmount,
    PeriodQuantity,
    SkuQuantities,
    SourceEvents,
    SourceQuantity,
    Verdict,
    WindowTotals,
    amount_controls,
    event_controls,
    failed_controls,
    invoice_controls,
    object_controls,
    readable,
    require_reconciled,
    unexplained_event_count,
    window_controls,
)

EVENTS = EventCounts(
    night_line_count=15,
    night_quarantine_count=2,
    night_event_count=13,
    before_first_window_event_count=1,
    future_event_count=2,
    other_window_event_count=3,
    other_night_event_count=1,
    window_event_count=8,
    usage_event_count=5,
    excluded_counts={"late": 1, "exact_duplicate": 2},
    accounted_once_count=8,
)
TOKENS = SkuQuantities(
    sku="tokens-input",
    unit="tokens",
    raw_quantity=Decimal("10.5"),
    excluded_quantities={"late": Decimal("0.5"), "exact_duplicate": Decimal(3)},
    billed_quantity=Decimal(7),
    billed_event_count=5,
    usage_quantity=Decimal(7),
    usage_event_count=5,
)
AMOUNT = PeriodAmount("2026-01", "USD", 3, 2, Decimal("1.0034"), Decimal("1.00"), Decimal("0.0034"))
TOTALS = WindowTotals(
    objects=(ObjectLines("a@1", 12, 10, 2),),
    events=EVENTS,
    skus=(TOKENS,),
    period_quantities=(PeriodQuantity("2026-01", "tokens-input", "tokens", Decimal(70), Decimal(70)),),
    period_accounts=(PeriodAccounts("2026-01", 2, 2),),
    period_amounts=(AMOUNT,),
    source_events=(SourceEvents("api", 8, 5, 3),),
    source_quantities=(SourceQuantity("api", "tokens-input", "tokens", Decimal("10.5"), Decimal(7), Decimal("3.5")),),
    producers=tuple(ProducerTotal(one, "api/billing", "events", Decimal(8), Decimal(8)) for one in ProducerCount),
)


def control(**changed: Decimal) -> Control:
    amounts = {"expected": Decimal(1204), "actual": Decimal(1203), **changed}
    return Control(Equation.USAGE_QUANTITY, "api-calls", "requests", **amounts)


def failing(totals: WindowTotals) -> list[Equation]:
    return [failed.control for failed in failed_controls(window_controls(totals))]


def test_a_night_without_a_loss_fails_no_control() -> None:
    assert failing(TOTALS) == []


DIFFERS = Disagreement(
    "acct-7/calls/2026-01/per_unit/1", "acct-7", "USD", LineFigures(*[Decimal(2)] * 3), None, ("2 calls",)
)
ONE_DIFFERS = Agreement(4, 9, 2, 5, (DIFFERS,))


def test_every_equation_of_a_window_has_a_control() -> None:
    of_invoices = {
        *(Equation.ACCOUNT_INVOICE, Equation.INVOICED_AMOUNT, Equation.ADJUSTED_AMOUNT, Equation.INVOICE_NUMBERS),
        *(Equation.EXTERNAL_USAGE, Equation.EXTERNAL_LINES, Equation.EXTERNAL_AMOUNT),
    }

    agreed = replace(TOTALS, agreements={"2026-01": ONE_DIFFERS})

    controls = window_controls(agreed)

    assert {found.control for found in controls} == set(Equation) - of_invoices
    assert set(EQUATION_SENTENCES) == set(Equation)


def test_an_account_on_which_the_raters_differ_is_shown_and_stops_nobody_else() -> None:
    controls = window_controls(replace(TOTALS, agreements={"2026-01": ONE_DIFFERS}))

    require_reconciled(controls, "window 2026-01-15")

    of_period, of_account = failed_controls(controls)
    assert (of_period.scope, of_period.expected, of_period.actual) == ("2026-01", 5, 4)
    assert (of_account.scope, of_account.unit, of_account.delta) == ("2026-01/acct-7", "USD", 2)
    assert "the account is held: line acct-7/calls/2026-01/per_unit/1: SQL rater" in of_account.tolerance_reason


@pytest.mark.parametrize(
    ("changed", "equation"),
    [
        ({"night_line_count": 16}, Equation.NIGHT_EVENTS),
        ({"night_quarantine_count": 3}, Equation.NIGHT_EVENTS),
        ({"before_first_window_event_count": 0}, Equation.WINDOW_EVENTS),
        ({"future_event_count": 1}, Equation.WINDOW_EVENTS),
        ({"other_window_event_count": 2}, Equation.WINDOW_EVENTS),
        ({"other_night_event_count": 2}, Equation.WINDOW_EVENTS),
        ({"usage_event_count": 4}, Equation.EVENT_OUTCOMES),
        ({"excluded_counts": {"late": 1}}, Equation.EVENT_OUTCOMES),
        ({"accounted_once_count": 7}, Equation.EVENTS_ONCE),
    ],
)
def test_a_count_that_is_off_by_one_or_two_fails_its_equation_alone(
    changed: dict[str, int], equation: Equation
) -> None:
    assert failing(replace(TOTALS, events=replace(EVENTS, **changed))) == [equation]


@pytest.mark.parametrize(
    ("changed", "equation"),
    [
        ({"raw_quantity": Decimal("10.500000001")}, Equation.SKU_QUANTITY),
        ({"excluded_quantities": {"late": Decimal("0.5")}}, Equation.SKU_QUANTITY),
        ({"usage_quantity": Decimal("6.999999999")}, Equation.USAGE_QUANTITY),
        ({"usage_event_count": 6}, Equation.USAGE_EVENT_COUNT),
    ],
)
def test_the_smallest_quantity_that_is_lost_fails_its_equation(changed: dict[str, Decimal], equation: Equation) -> None:
    assert failing(replace(TOTALS, skus=(replace(TOKENS, **changed),))) == [equation]


def test_a_line_item_that_lacks_usage_fails_and_so_does_an_account_that_does_not_tie() -> None:
    quantity = replace(TOTALS.period_quantities[0], line_item_quantity=Decimal("69.999999999"))

    assert failing(replace(TOTALS, period_quantities=(quantity,))) == [Equation.LINE_ITEM_QUANTITY]
    assert failing(replace(TOTALS, period_accounts=(PeriodAccounts("2026-01", 2, 1),))) == [Equation.LINE_ITEM_ACCOUNTS]


def test_a_line_of_an_object_that_is_nowhere_fails_the_control_of_that_object() -> None:
    lost, whole = object_controls([ObjectLines("a@1", 3, 1, 1), ObjectLines("b@1", 3, 2, 1)])

    assert (lost.scope, lost.verdict, lost.delta) == ("a@1", Verdict.FAIL, Decimal(-1))
    assert whole.verdict is Verdict.PASS


def test_the_tolerance_of_a_residual_is_half_a_minor_unit_for_each_line_item() -> None:
    at_the_bound = replace(AMOUNT, amount_exact=Decimal("1.015"), residual=Decimal("0.015"))
    beyond_it = replace(AMOUNT, amount_exact=Decimal("1.015000000001"), residual=Decimal("0.015000000001"))

    bound = amount_controls([at_the_bound])[1]

    assert (bound.tolerance, bound.verdict) == (Decimal("0.015"), Verdict.PASS)
    assert "half a minor unit (0.005 USD) for each of 3 rounded line items" in bound.tolerance_reason
    assert amount_controls([beyond_it])[1].verdict is Verdict.FAIL


@pytest.mark.parametrize(("currency", "tolerance"), [("JPY", "1.5"), ("USD", "0.015"), ("KWD", "0.0015")])
def test_the_tolerance_follows_the_minor_unit_of_the_currency(currency: str, tolerance: str) -> None:
    assert amount_controls([replace(AMOUNT, currency=currency)])[1].tolerance == Decimal(tolerance)


def test_a_residual_that_was_dropped_fails_although_it_is_small() -> None:
    dropped = amount_controls([replace(AMOUNT, residual=Decimal(0))])

    assert [found.control for found in failed_controls(dropped)] == [Equation.ROUNDED_AMOUNT]


def test_only_rounding_has_a_tolerance() -> None:
    tolerated = {found.control for found in window_controls(TOTALS) if found.tolerance}

    assert tolerated == {Equation.RESIDUAL_BOUND}


def test_an_invoice_that_is_a_cent_off_holds_its_account_and_stops_nobody_else() -> None:
    accounts = [
        InvoicedAccount("acct-1", "USD", Decimal("10.00"), Decimal("10.01")),
        InvoicedAccount("acct-2", "EUR", Decimal("5.00"), Decimal("5.00")),
    ]

    controls = invoice_controls("2026-01", accounts, {"EUR": Decimal("5.00"), "USD": Decimal("10.00")})

    [failed] = failed_controls(controls)
    assert (failed.control, failed.effect, failed.account_id) == (Equation.ACCOUNT_INVOICE, Effect.HOLD, "acct-1")
    require_reconciled(controls, "period 2026-01")


def test_an_account_that_is_in_no_line_of_the_total_fails_the_total_and_stops() -> None:
    accounts = [InvoicedAccount("acct-1", "USD", Decimal("10.00"), Decimal("10.00"))]

    controls = invoice_controls("2026-01", accounts, {"USD": Decimal("9.99")})

    assert [(one.control, one.delta) for one in failed_controls(controls)] == [
        (Equation.INVOICED_AMOUNT, Decimal("0.01"))
    ]
    with pytest.raises(ReconciliationError, match="invoices do not match line_items"):
        require_reconciled(controls, "period 2026-01")


@pytest.mark.parametrize(
    ("changed", "equation"),
    [
        ({"source_events": (SourceEvents("api", 8, 5, 2),)}, Equation.SOURCE_EVENTS),
        (
            {"source_quantities": (SourceQuantity("api", "in", "tokens", Decimal(2), Decimal(1), Decimal(0)),)},
            Equation.SOURCE_QUANTITY,
        ),
    ],
)
def test_a_source_that_loses_something_fails_by_itself(changed: dict[str, Any], equation: Equation) -> None:
    assert failing(replace(TOTALS, **changed)) == [equation]


def test_what_a_producer_counted_otherwise_is_reported_and_stops_nothing() -> None:
    lost = ProducerTotal(ProducerCount.EVENTS, "api/billing", "events", Decimal(8), Decimal(7))

    controls = window_controls(replace(TOTALS, producers=(lost,)))

    assert [(one.control, one.delta) for one in failed_controls(controls)] == [(Equation.PRODUCER_EVENTS, Decimal(-1))]
    require_reconciled(controls, "window 2026-01-15")


def test_two_invoices_that_are_off_in_opposite_directions_are_both_found() -> None:
    accounts = [
        InvoicedAccount("acct-1", "USD", Decimal("10.00"), Decimal("11.00")),
        InvoicedAccount("acct-2", "USD", Decimal("5.00"), Decimal("4.00")),
    ]

    failed = failed_controls(invoice_controls("2026-01", accounts, {"USD": Decimal("15.00")}))

    assert [found.scope for found in failed] == ["acct-1", "acct-2"]


def test_controls_stand_in_the_order_of_their_key_whatever_the_order_of_the_totals() -> None:
    objects = (ObjectLines("b@1", 1, 1, 0), ObjectLines("a@1", 1, 1, 0))

    controls = window_controls(replace(TOTALS, objects=objects))

    assert [(c.control, c.scope, c.unit) for c in controls] == sorted((c.control, c.scope, c.unit) for c in controls)


def test_a_control_says_by_how_much_and_in_which_direction() -> None:
    too_few, too_many = control(), control(actual=Decimal("1204.5"))

    assert too_few.sentence == "expected 1,204 requests, got 1,203 (1 too few, tolerance 0)"
    assert too_many.sentence == "expected 1,204 requests, got 1,204.5 (0.5 too many, tolerance 0)"


def test_a_control_compares_every_digit_of_long_numbers() -> None:
    long = Decimal("12345678901234567.000000000000000000001")

    beside = control(expected=long, actual=Decimal("12345678901234567.000000000000000000002"))
    lost = control(expected=long, actual=Decimal(0))

    assert (beside.delta, beside.verdict) == (Decimal("0.000000000000000000001"), Verdict.FAIL)
    assert lost.delta == Decimal("-12345678901234567.000000000000000000001")
    assert "(12,345,678,901,234,567.000000000000000000001 too few, tolerance 0)" in lost.sentence


@pytest.mark.parametrize("total", [1204.0, 1204, "1204"])
def test_a_total_that_is_no_decimal_is_refused(total: object) -> None:
    with pytest.raises(TypeError, match="expected is a Decimal"):
        control(expected=total)  # type: ignore[arg-type]


def test_events_without_an_outcome_are_counted_as_unexplained() -> None:
    events = replace(EVENTS, usage_event_count=2, accounted_once_count=5)

    assert unexplained_event_count(window_controls(replace(TOTALS, events=events))) == 3


def test_events_lost_in_one_step_and_found_in_the_next_do_not_cancel_out() -> None:
    events = replace(EVENTS, window_event_count=7)

    assert unexplained_event_count(event_controls(events)) == 2


def test_one_error_shows_every_control_that_fails() -> None:
    skus = (replace(TOKENS, usage_quantity=Decimal(6), usage_event_count=4),)

    with pytest.raises(ReconciliationError) as refusal:
        require_reconciled(window_controls(replace(TOTALS, skus=skus)), "window 2026-01-15 revision 1")

    assert str(refusal.value).splitlines() == [
        "reconciliation.event_mismatch: usage does not match usage_events (and 1 more)",
        "  window 2026-01-15 revision 1, usage_event_count, tokens-input",
        "  expected 5 events, got 4 (1 too few, tolerance 0)",
        "  window 2026-01-15 revision 1, usage_quantity, tokens-input",
        "  expected 7 tokens, got 6 (1 too few, tolerance 0)",
        "  nothing was accepted and nothing was issued; the report shows every control",
    ]


def test_controls_that_all_pass_raise_nothing() -> None:
    require_reconciled(window_controls(TOTALS), "window 2026-01-15 revision 1")


def test_numbers_are_written_without_an_exponent() -> None:
    assert readable(Decimal("2.552E-7")) == "0.0000002552"
    assert readable(Decimal("-1E+6")) == "-1,000,000"
