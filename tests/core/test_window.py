"""How a window is named."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.core.window import ONE_DAY, parse_window


@pytest.mark.parametrize(
    ("text", "length", "sentence"),
    [
        ("2026-02-27", timedelta(hours=6), "windows are shorter than a day; the first one of 2026-02-27 is named"),
        ("2026-02-27T01:00Z", timedelta(hours=6), "the one that it is in is named 2026-02-27T00:00Z"),
        ("2026-02-30", ONE_DAY, "there is no such day"),
        ("2026-02-27T06", timedelta(hours=6), "a window is named like"),
    ],
)
def test_a_text_that_names_no_window_is_refused(text: str, length: timedelta, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_window(text, length)


@pytest.mark.parametrize(
    ("text", "length"),
    [("2026-02-27", ONE_DAY), ("2026-02-27T06:00Z", timedelta(hours=6)), ("2026-02-27T00:00Z", ONE_DAY)],
)
def test_a_window_is_named_by_its_start(text: str, length: timedelta) -> None:
    window = parse_window(text, length)

    assert window.end - window.start == length
    assert window.start.isoformat().startswith(text.removesuffix("Z"))
