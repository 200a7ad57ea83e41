"""Objectives of a night: their bounds, and which windows one is compared with."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from pipeline.core.slo import SloSettings, same_weekday_windows, too_little_history
from pipeline.core.window import BillingWindow


def test_a_window_of_an_hour_is_compared_with_the_same_hour_of_the_weekday() -> None:
    start = datetime(2026, 1, 29, 13, tzinfo=UTC)

    found = same_weekday_windows(BillingWindow(start, start + timedelta(hours=1)), 4)

    assert [one.start for one in found] == [datetime(2026, 1, day, 13, tzinfo=UTC) for day in (1, 8, 15, 22)]
    assert {one.end - one.start for one in found} == {timedelta(hours=1)}


@pytest.mark.parametrize(("count", "enough"), [(0, False), (1, False), (2, True), (4, True)])
def test_history_is_enough_from_its_minimum_on(count: int, enough: bool) -> None:
    assert (too_little_history(SloSettings(), range(count)) == "") is enough


@pytest.mark.parametrize(
    "settings",
    [
        {"late_percent_max": Decimal("100.01")},
        {"late_percent_max": -1},
        {"late_percent_max": 0.5},  # a float
        {"account_spike_factor": 1},
        {"account_events_min": 0},
        {"history_weeks": 13},
        {"history_weeks": 1},
        {"volume_percent_min": 201},
        {"late_percent": 1},
    ],
)
def test_an_objective_out_of_its_bounds_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SloSettings.model_validate(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"late_percent_max": 100},
        {"late_percent_max": 0},
        {"account_spike_factor": Decimal("1.1")},
        {"history_weeks": 2},
        {"volume_percent_min": 200},
    ],
)
def test_an_objective_on_its_bound_is_accepted(settings: dict[str, object]) -> None:
    assert SloSettings.model_validate(settings)


def test_the_percentages_that_sql_may_read_are_those_of_the_settings() -> None:
    assert SloSettings(late_percent_max=Decimal(7)).percents() == [
        ("duplicate_percent_max", Decimal(5)),
        ("late_percent_max", Decimal(7)),
        ("orphan_percent_max", Decimal("0.1")),
        ("quarantine_percent_max", Decimal("0.1")),
        ("volume_percent_max", Decimal(200)),
        ("volume_percent_min", Decimal(50)),
    ]
