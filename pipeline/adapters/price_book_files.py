"""The file of a price book, read with exact decimals; a problem says file, line, key, what was found and accepted."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.adapters.model_errors import place_of, sentence
from pipeline.core.manifest import sha256_hex
from pipeline.core.price_book import BookError, PriceBook, Problem
from pipeline.core.project import PricedBook
from pipeline.core.toml_lines import line_of, toml_lines


@dataclass
class PriceBookFile:
    """A file and the book in it, or the problems why there is none."""

    name: str
    content: bytes
    book: PriceBook | None = None
    problems: list[str] = field(default_factory=list)
    _data: dict[str, Any] = field(default_factory=dict)

    @property
    def priced(self) -> PricedBook:
        """Return the book under the name of its content."""
        if self.book is None:
            raise ValueError(f"{self.name} holds no price book")
        return PricedBook(self.book, version_of(self.book, self.content))

    def told(self, problems: Iterable[Problem]) -> list[str]:
        """Return problems of the book as lines."""
        return [self._told(at, found) for at, found in problems]

    def _told(self, at: Sequence[int | str], found: str) -> str:
        written, inside = self._as_written(at)
        key, _ = place_of(PriceBook, written)
        where = f"{self.name} line {line_of(self._lines, inside)}"
        return f"{where}: {key}: {found}" if key else f"{where}: {found}"

    def _refused(self, details: ErrorDetails) -> list[str]:
        error = details.get("ctx", {}).get("error")
        if isinstance(error, BookError):
            return [self._told((*details["loc"], *at), found) for at, found in error.problems]
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            return []  # pydantic counts the entries that are right; what is wrong with the others is told
        written, inside = self._as_written(details["loc"])
        if details["type"] == "union_tag_invalid":
            inside = (*inside, "model")
        where = f"{self.name} line {line_of(self._lines, inside)}"
        return [f"{where}: {sentence(PriceBook, {**details, 'loc': written})}"]

    def _as_written(self, at: Sequence[int | str]) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
        """Return a place of the book as the file has it: with the names of models, and without.

        A charge of several ``skus`` is several charges of the book and one of the file.
        """
        written: list[int | str] = []
        inside: list[int | str] = []
        value: Any = self._data
        for part in at:
            if isinstance(value, list) and isinstance(part, int):
                part = _entry(value, part) if inside[-1] == "charges" else part  # noqa: PLW2901
                value = value[part]
                inside.append(part)
            elif isinstance(value, dict):
                part = "skus" if part == "sku" and "skus" in value else part  # noqa: PLW2901
                if part in value:
                    value = value[part]
                    inside.append(part)
            written.append(part)
        return tuple(written), tuple(inside)

    @cached_property
    def _lines(self) -> Any:
        return toml_lines(self.content.decode("utf-8-sig"))


def read_price_book(name: str, content: bytes) -> PriceBookFile:
    """Return the book of a file, or its problems; ``name`` is what the problems call it."""
    file = PriceBookFile(name, content)
    try:
        text = content.decode("utf-8-sig")
        file._data = tomllib.loads(text, parse_float=Decimal)
        file.book = PriceBook.model_validate(file._data)
    except UnicodeDecodeError as error:
        line_number = content[: error.start].count(b"\n") + 1
        file.problems = [f"{name} line {line_number}: found bytes that are not UTF-8, accepted UTF-8 text"]
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        where = f"{name} line {line[1] if line else len(text.splitlines())}"
        file.problems = [f"{where}: found text that is not TOML: {error}"]
    except ValidationError as error:
        # A charge of several SKUs has its problem once for each of them.
        file.problems = list(dict.fromkeys(line for details in error.errors() for line in file._refused(details)))
    return file


def version_of(book: PriceBook, content: bytes) -> str:
    """Return the name of a book's content: its own name and the first 12 digits of its SHA-256."""
    return f"{book.name}@{sha256_hex(content)[:12]}"


def _entry(charges: Sequence[Any], place: int) -> int:
    """Return which charge of the file the charge of the book at a place is written in."""
    for entry, charge in enumerate(charges):
        skus = charge.get("skus") if isinstance(charge, dict) else None
        place -= len(skus) if isinstance(skus, list) and skus and "sku" not in charge else 1
        if place < 0:
            return entry
    return len(charges) - 1
