"""Thresholds of spend and the words of alerts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.operations import (
    CrossedThreshold,
    SpendThreshold,
    SpendThresholdFile,
    crossed_thresholds,
    spend_alert,
)


def threshold(amount: str, **changed: Any) -> SpendThreshold:
    return SpendThreshold.model_validate({"currency": "USD", "amount": Decimal(amount), **changed})


def estimate(to_date: str, forecast: str | None = None, account_id: str = "acct-7", currency: str = "USD") -> Any:
    return {
        "account_id": account_id,
        "currency": currency,
        "amount_to_date": Decimal(to_date),
        "forecast_amount": None if forecast is None else Decimal(forecast),
    }


@pytest.mark.parametrize(("amount", "count"), [("499.9999", 0), ("500", 1)])
def test_an_amount_that_is_just_reached_is_reached(amount: str, count: int) -> None:
    assert len(crossed_thresholds([threshold("500")], [estimate(amount)], [], "2026-01-15")) == count


def test_what_was_reached_stays_with_the_window_that_showed_it() -> None:
    first = crossed_thresholds([threshold("500")], [estimate("600")], [], "2026-01-15")

    higher = crossed_thresholds([threshold("500")], [estimate("700")], first, "2026-01-16")
    lower = crossed_thresholds([threshold("500")], [estimate("1")], first, "2026-01-17")

    assert first == [CrossedThreshold("acct-7", "any account: 500 USD to date", "USD", "600", "2026-01-15")]
    assert higher == lower == first


def test_a_threshold_of_one_account_or_another_currency_is_not_that_of_others() -> None:
    thresholds = [threshold("5", account_id="acct-8"), threshold("5", currency="EUR")]

    assert crossed_thresholds(thresholds, [estimate("9")], [], "2026-01-15") == []


def test_a_forecast_may_be_what_reaches_it_and_there_may_be_none() -> None:
    thresholds = [threshold("500", of="forecast")]

    found = crossed_thresholds(thresholds, [estimate("1", "500"), estimate("900", account_id="new")], [], "2026-01-15")

    assert [one.account_id for one in found] == ["acct-7"]


def test_the_alert_names_account_threshold_amount_and_window() -> None:
    (crossed,) = crossed_thresholds([threshold("500.00")], [estimate("512.5")], [], "2026-01-15")

    alert = spend_alert("LLM API", "2026-01", crossed)

    assert alert.severity == "ticket"
    assert alert.key == "2026-01/acct-7/any account: 500 USD to date"
    assert alert.text.splitlines() == [
        "LLM API: account acct-7 reached a threshold of spend in 2026-01",
        "threshold any account: 500 USD to date",
        "window 2026-01-15: 512.5 USD",
    ]


@pytest.mark.parametrize("wrong", [{"amount": Decimal(0)}, {"currency": "XXA"}, {"of": "yesterday"}, {"limit": 1}])
def test_a_threshold_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SpendThreshold.model_validate({"currency": "USD", "amount": Decimal(5), **wrong})


def test_the_same_threshold_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice"):
        SpendThresholdFile(thresholds=(threshold("5"), threshold("5.00")))
