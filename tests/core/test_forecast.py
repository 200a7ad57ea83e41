"""Which days the rest of a period is projected from, and how much of it is left."""

from datetime import UTC, datetime, timedelta

from pipeline.core.forecast import Forecast, Span, forecast_of, joined
from pipeline.core.window import billing_period

JANUARY = billing_period("2026-01", "UTC")  # its first day is a Thursday


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)


def forecast(
    *known: Span,
    zone: str = "UTC",
    stays: tuple[Span, ...] = (),
    segments: tuple[Span, ...] = (),
    month: str = "2026-01",
) -> Forecast:
    period = billing_period(month, zone)
    whole = (period.start, period.end)
    return forecast_of(period, segments or (whole,), stays or (whole,), known)


def numbers(found: Forecast) -> list[int]:
    return [day.number for day in found.days]


def test_below_two_weeks_the_last_seven_whole_days_are_looked_at() -> None:
    assert numbers(forecast((at(1), at(4)))) == [1, 2, 3]
    found = forecast((at(1), at(14)))
    assert numbers(found) == [7, 8, 9, 10, 11, 12, 13]
    assert {day.group for day in found.days} == {0}
    assert (found.group_days, found.parts_left) == (7, {(1, 0): 18 * 1440})
    assert (found.days_known, found.day_count) == (13, 31)


def test_with_two_of_each_weekday_each_day_left_is_like_those_of_its_own() -> None:
    found = forecast((at(1), at(15)))

    assert numbers(found) == list(range(1, 15))
    assert found.group_days == 2
    assert found.parts_left == {(1, day): 1440 * (3 if day in {4, 5, 6} else 2) for day in range(1, 8)}


def test_after_three_weeks_the_last_two_of_each_weekday_count() -> None:
    assert numbers(forecast((at(1), at(22)))) == list(range(8, 22))


def test_a_day_that_is_known_in_part_is_left_in_part_and_not_looked_at() -> None:
    found = forecast((at(1), at(3, hour=6)))

    assert numbers(found) == [1, 2]
    assert found.parts_left == {(1, 0): 28 * 1440 + 1080}


def test_a_window_that_is_missing_is_left_and_its_day_is_not_one_without_usage() -> None:
    found = forecast((at(1), at(2)), (at(3), at(4)))

    assert numbers(found) == [1, 3]
    assert found.parts_left == {(1, 0): 29 * 1440}


def test_days_on_which_the_account_is_away_are_neither_left_nor_looked_at() -> None:
    found = forecast((at(1), at(6)), stays=((at(3, hour=12), at(11)),))

    assert numbers(found) == [4, 5]
    assert found.parts_left == {(1, 0): 5 * 1440}


def test_what_is_left_belongs_to_the_segment_that_it_is_in() -> None:
    found = forecast((at(1), at(4)), segments=((at(1), at(11)), (at(11), JANUARY.end)))

    assert found.parts_left == {(1, 0): 7 * 1440, (2, 0): 21 * 1440}


def test_days_are_those_of_the_accounts_zone_and_one_of_23_hours_is_a_day() -> None:
    start = billing_period("2026-03", "Europe/Berlin").start
    found = forecast((start, start + timedelta(days=2, hours=12)), zone="Europe/Berlin", month="2026-03")

    assert numbers(found) == [1, 2]
    assert found.parts_left == {(1, 0): 28 * 1440 + 720}


def test_without_a_whole_day_nothing_can_be_projected_and_at_the_end_nothing_is_left() -> None:
    assert not forecast((at(1), at(1, hour=23))).is_possible
    over = forecast((at(1), JANUARY.end))
    assert over.is_possible
    assert over.parts_left == {}


def test_spans_that_touch_are_one() -> None:
    assert joined([(at(2), at(3)), (at(1), at(2)), (at(4), at(5))]) == ((at(1), at(3)), (at(4), at(5)))
