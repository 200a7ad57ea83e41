"""A published price book: immutable, named by its content, in force once somebody else than its makers approved it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum


class BookState(StrEnum):
    """What a published book is by now."""

    PUBLISHED = "published"  # waits for approval
    APPROVED = "approved"
    REPLACED = "replaced"  # another one with the same effective_from was approved later


@dataclass(frozen=True, slots=True)
class PriceBookVersion:
    """One published version; ``approval_number`` counts approvals, so that the later of two is known."""

    version: str
    sha256: str
    name: str
    effective_from: date
    author: str
    published_at: datetime
    published_by: str
    reason: str
    approved_at: datetime | None = None
    approved_by: str | None = None
    approval_number: int | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """The book that rates a share of the accounts in the shadow from now on, or none."""

    canary_number: int
    version: str | None
    sha256: str | None
    set_at: datetime
    set_by: str


def is_same_person(one: str, other: str) -> bool:
    """Tell whether two names are of one person, however they are typed: case, spaces, width, invisible characters.

    Letters of two scripts that look alike are two letters; see docs/price-books.md.

    >>> is_same_person(" Ana  Maria", "ana\u00a0\u200bＭＡＲＩＡ"), is_same_person("ana", "anna")
    (True, False)
    """
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(letter for letter in folded if unicodedata.category(letter) != "Cf").split())


def in_force(versions: Iterable[PriceBookVersion]) -> list[PriceBookVersion]:
    """Return the versions that rate, by effective date: of those of one date, the one that was approved last."""
    newest: dict[date, PriceBookVersion] = {}
    for version in sorted(versions, key=lambda one: one.approval_number or 0):
        if version.approval_number is not None:
            newest[version.effective_from] = version
    return [newest[day] for day in sorted(newest)]


def state_of(version: PriceBookVersion, versions: Iterable[PriceBookVersion]) -> BookState:
    """Return the state of a version among all that were published."""
    if version.approval_number is None:
        return BookState.PUBLISHED
    return BookState.APPROVED if version in in_force(versions) else BookState.REPLACED
