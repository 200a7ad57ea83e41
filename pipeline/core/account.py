"""The account directory: who is billed, in which currency and time zone, and which subjects are theirs.

``accounts.csv`` has one row per account and validity interval ``[valid_from, valid_to)``. An account may
have several rows (other external references or another plan over time); name, currency and time zone
are the same in all of them, and so is the plan at any one time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, Field, field_validator, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.money import minor_unit_digits
from pipeline.core.window import EPOCH, iana_zone

VALID_FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)


class AccountRow(StrictModel):
    """One row of ``accounts.csv``."""

    account_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    name: Annotated[str, Field(min_length=1)]
    currency: str
    time_zone: Annotated[str, AfterValidator(iana_zone)]
    plan: Annotated[str, Field(min_length=1)]
    valid_from: AwareDatetime
    valid_to: AwareDatetime = VALID_FOR_EVER
    external_references: Annotated[tuple[str, ...], Field(min_length=1)]
    tax_region: str = ""
    tax_id: str = ""
    billing_address: str = ""

    @field_validator("currency")
    @classmethod
    def _iso_currency(cls, currency: str) -> str:
        minor_unit_digits(currency)
        return currency

    @model_validator(mode="after")
    def _half_open(self) -> Self:
        if self.valid_to <= self.valid_from:
            raise ValueError("valid_to (exclusive) must be after valid_from")
        return self


@dataclass(frozen=True, slots=True)
class Account:
    """What rating and invoicing need of one account; ``plan`` is its newest one, ``core.terms`` has that of a time."""

    account_id: str
    name: str
    currency: str
    time_zone: str
    plan: str
    tax_region: str = ""  # where taxes.toml finds its rates; empty where the column is left out
    tax_id: str = ""  # printed; reverse charge needs it
    billing_address: str = ""


@dataclass(frozen=True, slots=True)
class AccountDirectory:
    """The checked directory: every row, in file order."""

    rows: tuple[AccountRow, ...]

    def accounts(self) -> dict[str, Account]:
        """Return each account once, in order of id."""
        by_id = {
            row.account_id: Account(
                *(row.account_id, row.name, row.currency, row.time_zone, row.plan),
                *(row.tax_region, row.tax_id, row.billing_address),
            )
            for row in sorted(self.rows, key=lambda row: row.valid_from)
        }
        return dict(sorted(by_id.items()))

    def time_zones(self) -> tuple[str, ...]:
        return tuple(sorted({row.time_zone for row in self.rows}))


def directory_problems(rows: Sequence[AccountRow]) -> list[str]:
    """Return every contradiction between rows: facts of an account that differ, references owned twice at once."""
    problems = []
    first_of: dict[str, AccountRow] = {}
    for row in rows:
        first = first_of.setdefault(row.account_id, row)
        if first is row:
            continue
        for column in ("name", "currency", "time_zone", "tax_region", "tax_id", "billing_address"):
            if getattr(row, column) != getattr(first, column):
                problems.append(
                    f"account {row.account_id}: {column} is {getattr(first, column)!r} in one row and "
                    f"{getattr(row, column)!r} in another; it is the same in every row of an account"
                )
    for at, before, row in plan_changes(rows):
        if before.valid_to > at:
            problems.append(
                f"account {row.account_id}: plan is {before.plan!r} and {row.plan!r} at the same time, on "
                f"{at.isoformat()}; end the row of the one plan (valid_to) where the other begins (valid_from)"
            )
    owners: dict[str, list[AccountRow]] = {}
    for row in rows:
        for reference in row.external_references:
            for other in owners.get(reference, []):
                if row.valid_from < other.valid_to and other.valid_from < row.valid_to:
                    problems.append(
                        f"external reference {reference!r} belongs to {other.account_id} and "
                        f"{row.account_id} at the same time"
                    )
            owners.setdefault(reference, []).append(row)
    return problems


def plan_changes(rows: Iterable[AccountRow]) -> list[tuple[datetime, AccountRow, AccountRow]]:
    """Return each instant at which an account goes to another plan, with the row before and the row that begins.

    A row of one plan that lasts beyond the beginning of a row of another one contradicts it.
    """
    rows_of: dict[str, list[AccountRow]] = {}
    for row in rows:
        rows_of.setdefault(row.account_id, []).append(row)
    changes = []
    for own_rows in rows_of.values():
        if len(own_rows) == 1:
            continue
        last, *others = sorted(own_rows, key=lambda row: (row.valid_from, row.valid_to))
        for row in others:
            if row.plan != last.plan:
                changes.append((row.valid_from, last, row))
            if row.plan != last.plan or row.valid_to > last.valid_to:
                last = row
    return changes


def plan_change_problems(rows: Iterable[AccountRow], grain: timedelta) -> list[str]:
    """Return each change of plan that does not fall on a grain of usage: it would cut one in two."""
    return [
        f"account {row.account_id}: plan changes from {before.plan!r} to {row.plan!r} on {at.isoformat()}, which "
        f"cuts a grain of usage in two; accepted a whole multiple of {grain // timedelta(minutes=1)} minutes in UTC "
        "(window.grain of billing.toml)"
        for at, before, row in plan_changes(rows)
        if (at - EPOCH) % grain
    ]
