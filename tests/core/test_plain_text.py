"""What people write is readable: nothing in it acts on a terminal, hides or turns other text round."""

from __future__ import annotations

import pytest

from pipeline.core.plain_text import hidden_characters


@pytest.mark.parametrize("text", ["a\x1b[31m", "a\nb", "a\x00", "\u202eevil", "\u2066x", "a\u2028b", "\x7f", "\ud800"])
def test_what_acts_or_hides_is_found(text: str) -> None:
    assert len(hidden_characters(text)) == 1


@pytest.mark.parametrize("text", ["", "wie besprochen – 3 %", "محل خلاف", "בירור", "ใบแจ้งหนี้", "می‌خواهم", "👩‍💻"])
def test_every_script_may_be_written(text: str) -> None:
    assert hidden_characters(text) == []
