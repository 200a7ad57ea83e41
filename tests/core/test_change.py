"""The waterfall: the parts of a change add up to it, and each reason has its cause."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import CAUSE_OF_REASON, SETTINGS, Cause, cause_of, causes_in_order, totals_of, waterfall
from pipeline.core.money import exact
from pipeline.core.reason import ExclusionReason

KEYS = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["sku"]), st.sampled_from(["unit", "other"]))
QUANTITIES = st.decimals(min_value=-(10**28), max_value=10**28, places=9, allow_nan=False, allow_infinity=False)
STATES = st.lists(st.dictionaries(KEYS, QUANTITIES, max_size=4), min_size=1, max_size=6)


@given(states=STATES)
def test_the_parts_of_each_change_add_up_to_it_to_the_last_digit(
    states: list[dict[tuple[str, str, str], Decimal]],
) -> None:
    causes = [f"cause-{number}" for number in range(1, len(states))]

    changes = {(one.account_id, one.sku, one.unit): one for one in waterfall(causes, states)}

    for key in {key for state in states for key in state}:
        before, after = (state.get(key, Decimal(0)) for state in (states[0], states[-1]))
        with exact():
            if key in changes:
                assert sum(changes[key].parts.values(), Decimal(0)) == changes[key].change == after - before
            else:
                assert after == before


def test_a_change_that_came_back_is_shown_with_both_of_its_parts() -> None:
    key = ("acct-1", "calls", "call")

    (change,) = waterfall(["late_events", "voids"], [{key: Decimal(5)}, {key: Decimal(8)}, {key: Decimal(5)}])

    assert change.change == 0
    assert change.parts == {"late_events": Decimal(3), "voids": Decimal(-3)}


def test_a_quantity_that_never_changed_is_left_out() -> None:
    assert waterfall(["late_events"], [{("a", "s", "u"): Decimal(5)}, {("a", "s", "u"): Decimal(5)}]) == []


def test_a_total_is_the_sum_of_its_accounts_by_sku_and_unit() -> None:
    first = {("a", "calls", "call"): Decimal(5), ("b", "calls", "call"): Decimal(10**28), ("a", "gb", "GB"): Decimal(1)}
    last = {("a", "calls", "call"): Decimal(7), ("b", "calls", "call"): Decimal("0.000000001")}

    gb, calls = sorted(totals_of(waterfall(["voids"], [first, last])), key=lambda total: total.sku, reverse=True)

    assert (gb.account_id, gb.sku, gb.change, gb.parts) == ("", "gb", -1, {"voids": -1})
    assert (calls.quantity_from, calls.quantity_to) == (10**28 + 5, Decimal("7.000000001"))
    assert calls.change == calls.parts["voids"] == Decimal("-9999999999999999999999999997.999999999")


def test_states_and_causes_that_do_not_fit_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="2 causes need 3 states"):
        waterfall(["late_events", "voids"], [{}, {}])


def test_a_reason_without_a_cause_is_named_and_comes_before_the_settings() -> None:
    causes = causes_in_order(["late", "quarantine_mended", "in_the_future"])

    assert causes == [*(cause.value for cause in Cause), "other:in_the_future", "other:quarantine_mended", SETTINGS]


def test_each_reason_code_has_a_cause_and_only_future_events_are_another() -> None:
    assert {reason for reason in ExclusionReason if cause_of(reason).startswith("other:")} == {
        ExclusionReason.IN_THE_FUTURE
    }
    assert all(isinstance(cause, Cause) for cause in CAUSE_OF_REASON.values())
