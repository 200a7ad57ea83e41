"""Error budgets and burn rates, by hand: each boundary just inside and just outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from pipeline.core.sli import (
    INDICATORS,
    UNBOUNDED,
    Burn,
    Indicator,
    MeasuredWindow,
    Measurement,
    Objective,
    ServiceLevel,
    ServiceLevelSettings,
    service_levels,
)

END = datetime(2026, 1, 31, tzinfo=UTC)
LATE = Indicator.LATE_RATE


def settings(target: str) -> ServiceLevelSettings:
    return ServiceLevelSettings(late_rate=Objective(target_percent=Decimal(target)))


def window(days_before: float, bad: int, total: int = 100, indicator: Indicator = LATE) -> MeasuredWindow:
    measured = Measurement(indicator, total - bad, total)
    return MeasuredWindow(END - timedelta(days=days_before), {indicator: measured})


def level(target: str, bad: int, *earlier: MeasuredWindow) -> ServiceLevel:
    return service_levels(window(0, bad), earlier, settings(target))[0]


@pytest.mark.parametrize(("bad", "is_met"), [(1, True), (2, False)])
def test_a_target_is_met_when_it_is_just_reached(bad: int, is_met: bool) -> None:
    assert level("99", bad).is_met is is_met


@pytest.mark.parametrize(("bad", "left"), [(0, "100"), (1, "50"), (2, "0"), (3, "-50")])
def test_the_budget_is_what_the_target_leaves(bad: int, left: str) -> None:
    assert level("98", bad).budget_left_percent == Decimal(left)


def test_a_burn_rate_of_one_spends_the_budget_evenly() -> None:
    nights = [window(day, 2) for day in range(1, 30)]

    found = level("98", 2, *nights)

    assert set(found.burn_rates.values()) == {Decimal(1)}
    assert found.budget_left_percent == 0
    assert found.burn is Burn.NONE


@pytest.mark.parametrize(("days_before", "rate"), [(2.9, "0.5"), (3, "1")])
def test_a_window_counts_for_the_days_in_which_it_ended(days_before: float, rate: str) -> None:
    assert level("99", 1, window(days_before, 0)).burn_rates[3] == Decimal(rate)


def test_windows_after_it_and_the_window_itself_are_not_its_history() -> None:
    assert level("99", 1, window(0, 50), window(-1, 50)).burn_rates[30] == 1


@pytest.mark.parametrize(
    ("tonight", "before", "burn"),
    [
        pytest.param(10, (10, 10), Burn.FAST, id="ten times over three days"),
        pytest.param(9, (10, 11), Burn.SLOW, id="ten times over three days, but not now"),
        pytest.param(10, (10, 9), Burn.SLOW, id="not quite ten times over three days"),
        pytest.param(2, (2, 2), Burn.SLOW, id="twice"),
        pytest.param(1, (20, 20), Burn.NONE, id="it was bad, and is over"),
        pytest.param(2, (1, 2), Burn.NONE, id="not quite twice over the week"),
    ],
)
def test_an_alert_needs_both_spans(tonight: int, before: tuple[int, int], burn: Burn) -> None:
    assert level("99", tonight, window(2, before[0]), window(1, before[1])).burn is burn


def test_a_target_of_a_hundred_leaves_nothing_for_one_error() -> None:
    found, without = level("100", 1), level("100", 0)

    assert (found.burn_rates[1], found.budget_left_percent, found.burn) == (UNBOUNDED, Decimal(-100), Burn.FAST)
    assert (without.burn_rates[1], without.budget_left_percent, without.burn) == (0, 100, Burn.NONE)


def test_what_is_measured_anew_each_night_is_not_added_up() -> None:
    found = service_levels(
        window(0, 1, 100, Indicator.DISPUTE_RATE), [window(1, 50, 100, Indicator.DISPUTE_RATE)], ServiceLevelSettings()
    )[0]

    assert set(found.burn_rates.values()) == {Decimal(1)}


def test_a_night_without_a_measurement_has_the_budget_of_the_nights_before() -> None:
    nothing = MeasuredWindow(END, {LATE: Measurement(LATE, 0, 0, {}, "the window has no event")})

    found = service_levels(nothing, [window(1, 3)], settings("99"))[0]

    assert found.is_met is None
    assert found.sentence == "not measured: the window has no event"
    assert (found.burn_rates[1], found.burn_rates[3], found.budget_left_percent) == (0, 3, -200)


def test_a_level_is_the_same_after_it_was_stored() -> None:
    measured = Measurement(Indicator.INGESTION_LATENCY, 1, 2, {"p95_seconds": Decimal("12.50")}, "one was slow")
    found = service_levels(MeasuredWindow(END, {measured.indicator: measured}), [], ServiceLevelSettings())[0]

    assert ServiceLevel.from_json(found.to_json()) == found


def test_more_good_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        Measurement(LATE, 3, 2)


def test_every_indicator_has_words_and_a_target() -> None:
    known = ServiceLevelSettings()

    assert set(INDICATORS) == set(Indicator)
    assert all(0 < known.target_percent(indicator) <= 100 for indicator in Indicator)


@pytest.mark.parametrize("target", ["0", "100.01", 99.9])
def test_a_target_is_an_exact_share(target: object) -> None:
    with pytest.raises(ValidationError):
        Objective.model_validate({"target_percent": target})


def test_an_indicator_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="happiness"):
        ServiceLevelSettings.model_validate({"happiness": {"target_percent": 99}})
