"""Texts that people write into the books: what nobody can see does not belong in them."""

from __future__ import annotations

import unicodedata

# Controls and line breaks, and what turns the text around it round; joiners of letters stay, scripts need them.
_HIDDEN_CATEGORIES = {"Cc", "Zl", "Zp", "Cs"}
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def hidden_characters(text: str) -> list[str]:
    """Return the code points in a text that act or hide instead of being read, each once and in order.

    >>> hidden_characters("disputed, see ticket 7"), hidden_characters("a\\x1b[31m\\u202eb\\x1b")
    ([], ['U+001B', 'U+202E'])
    """
    found = (
        f"U+{ord(character):04X}"
        for character in text
        if unicodedata.category(character) in _HIDDEN_CATEGORIES or unicodedata.bidirectional(character) in _TURNING
    )
    return list(dict.fromkeys(found))
