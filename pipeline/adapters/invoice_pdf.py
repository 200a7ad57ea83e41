"""PDFs of invoices by Typst, from the texts of the page: PDF/A-2a for archives and PDF/UA-1 for screen readers.

Typst and its fonts come inside the package, so every machine makes the same bytes; system fonts are not looked at. The
one clock in a PDF is the issue date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.adapters.documents import TEMPLATES
from pipeline.adapters.invoice_page import Chart

if TYPE_CHECKING:  # loading it takes as long as rendering a hundred pages
    import typst

STANDARDS: list[typst.PDFStandard] = ["a-2a", "ua-1"]
_LONG_WORD = re.compile(r"\S{24,}")
_PIECE = re.compile(r".{8}")
_NO_FONT = re.compile(r'the text `"(.+?)"` could not be displayed')
_BREAK_HERE = "\u200b"  # no width: a word that is wider than its column may be broken at it


class LetterWithoutFontError(Exception):
    """A text has letters that no font has; they would be missing in the PDF, so there is none."""


def invoice_pdf(page: Mapping[str, Any], fonts: Path | None = None) -> bytes:
    """Return the PDF of a page's texts; ``fonts`` is a folder of fonts beside those of the Typst package."""
    import typst

    issued_at = datetime.fromisoformat(page["issued_on"]).replace(tzinfo=UTC)
    texts = json.dumps({**_breakable(page), "evidence": page["evidence"]}, ensure_ascii=False)
    try:
        made = _compiler(fonts).compile(
            format="pdf", sys_inputs={"page": texts}, pdf_standards=STANDARDS, timestamp=issued_at
        )
    except typst.TypstError as error:
        letters = sorted(set(_NO_FONT.findall(error.diagnostic)))
        if not letters:
            raise
        raise LetterWithoutFontError(
            f"no font has {' '.join(letters)}; put one that has into the folder fonts/ of the project"
        ) from error
    if not isinstance(made, bytes):
        raise TypeError(f"Typst returns one PDF, got {type(made).__name__}")
    return made


@cache
def _compiler(fonts: Path | None) -> typst.Compiler:
    """Return the compiler of this process: it reads fonts and template once."""
    import typst

    found = typst.Fonts(include_system_fonts=False, font_paths=[fonts] if fonts else [])
    return typst.Compiler(TEMPLATES / "invoice.typ", font_paths=found, ignore_system_fonts=True)


def _breakable(value: Any) -> Any:
    """Return the texts with places at which long words may be broken; pages of HTML break them anywhere."""
    if isinstance(value, str):
        return _LONG_WORD.sub(lambda word: _PIECE.sub(lambda piece: piece[0] + _BREAK_HERE, word[0]), value)
    if isinstance(value, Chart):
        return value._replace(caption=_breakable(value.caption))
    if isinstance(value, Mapping):
        return {key: _breakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_breakable(item) for item in value]
    return value
