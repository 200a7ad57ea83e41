"""A billing project: the folder a team keeps its billing configuration in, as checked values.

``billing.toml`` (this module), ``sources/*.toml`` (contract), ``meters.toml`` (meter), ``accounts.csv`` (account),
``price_books/*.toml`` (price_book), and optionally ``taxes.toml`` (tax), ``external/*.toml`` (external) and
``spend_thresholds.toml`` (operations).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.core.access import Roles
from pipeline.core.account import AccountDirectory
from pipeline.core.contract import SourceContract, StrictModel, WithdrawalRule
from pipeline.core.decimals import Percent
from pipeline.core.duration import Duration
from pipeline.core.external import ExternalContract
from pipeline.core.meter import Meter
from pipeline.core.operations import AlertSettings, OperationsSettings, SpendThreshold
from pipeline.core.price_book import PriceBook
from pipeline.core.sli import ServiceLevelSettings
from pipeline.core.slo import SloSettings
from pipeline.core.tax import TaxTable
from pipeline.core.window import ONE_DAY, calendar_date, iana_zone


class WindowSettings(StrictModel):
    """Lengths of the billing window, the grace period and the usage grain; the first window that is billed.

    ``look_back`` is how far before and after a window another event of the same key is looked for.
    """

    length: Duration = ONE_DAY
    grace_period: Duration = timedelta(hours=6)
    grain: Duration = timedelta(hours=1)
    first_window: Annotated[date, Field(ge=date(1971, 1, 1), lt=date(3000, 1, 1)), BeforeValidator(calendar_date)]
    future_tolerance: Duration = timedelta(minutes=5)
    look_back: Duration = timedelta(days=7)

    @model_validator(mode="after")
    def _whole_grains(self) -> Self:
        if not timedelta(hours=1) <= self.length <= ONE_DAY or ONE_DAY % self.length:
            raise ValueError("length must divide one day and be at least 1h, so that windows start with the UTC day")
        if not timedelta(minutes=1) <= self.grain <= self.length or self.length % self.grain:
            raise ValueError("grain must divide the window length and be at least 1m")
        if self.look_back % self.length:
            raise ValueError(
                "look_back must be whole windows (0d looks at no other window), so that both see each other"
            )
        return self

    @property
    def first_window_start(self) -> datetime:
        """Return the first instant that is billed."""
        return datetime.combine(self.first_window, time.min, UTC)


class AccountsSettings(StrictModel):
    """The account that is billed for usage which no account owns, by source or for any; none excludes such usage."""

    fallback: str | None = None
    fallback_by_source: dict[str, str] = Field(default_factory=dict)

    @property
    def fallbacks(self) -> list[tuple[str | None, str]]:
        """Return each rule as (source, account id), in order; the source of the rule for all others is None."""
        rules: list[tuple[str | None, str]] = [] if self.fallback is None else [(None, self.fallback)]
        return rules + sorted(self.fallback_by_source.items())


def _bucket_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", name):
        raise ValueError("accepted a name of 3 to 255 letters, digits and . _ -, with a letter or digit at each end")
    return name


class RawSettings(StrictModel):
    """The bucket that producers drop files into; never written by the pipeline."""

    bucket: Annotated[str, AfterValidator(_bucket_name)]
    endpoint_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    region: str = "us-east-1"


class LakeSettings(StrictModel):
    """Where datasets live: a folder (relative to the project) or ``s3://bucket/prefix`` at the raw endpoint."""

    url: Annotated[str, Field(min_length=1)] = "lake"


class ControlPlaneSettings(StrictModel):
    """The relational database of state; the path of an SQLite URL is relative to the project."""

    url: str = "sqlite:///control_plane.db"


class SellerSettings(StrictModel):
    """The legal entity that invoices, and its number series (``LLM`` numbers LLM-000001, LLM-000002, ...).

    Credit notes have numbers of that series, too, unless ``credit_note_series`` names their own. ``time_zone`` is where
    the day of issue is taken.
    """

    legal_entity: Annotated[str, Field(min_length=1)]
    address: str = ""
    tax_id: str = ""
    number_series: Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9-]*$")]
    credit_note_series: Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9-]*$")] | None = None
    time_zone: Annotated[str, AfterValidator(iana_zone)] = "UTC"


class DocumentsSettings(StrictModel):
    """Which files `billing close` makes of each document; a PDF costs some thirty times as much as a page."""

    formats: Annotated[tuple[Literal["html", "pdf", "json"], ...], Field(min_length=1)] = ("html",)


class RatingSettings(StrictModel):
    """``reference_lines_max``: up to so many lines all are rated twice, beyond it those of a sample of accounts.

    ``estimates``: every night estimates what each account will pay for the whole period.
    """

    reference_lines_max: Annotated[int, Field(ge=0)] | None = None
    estimates: bool = True


class PriceBookSettings(StrictModel):
    """Which price books rate, and how many accounts a canary rates beside them.

    ``four_eyes``: those that were published and approved by two people; the folder ``price_books/`` holds drafts.
    ``files``: those in the folder, whose review is that of the version control.
    """

    approval: Literal["four_eyes", "files"] = "four_eyes"
    canary_percent: Annotated[Percent, Field(gt=0, le=100)] = Decimal(1)


class CloseSettings(StrictModel):
    """``sign_off``: whether a period closes only when somebody has approved exactly what it would bill."""

    sign_off: Literal["required", "none"] = "required"


class ProjectSettings(StrictModel):
    """The file ``billing.toml``."""

    name: Annotated[str, Field(min_length=1)]
    schema_version: Literal[1] = 1
    window: WindowSettings
    accounts: AccountsSettings = AccountsSettings()
    raw: RawSettings
    lake: LakeSettings = LakeSettings()
    control_plane: ControlPlaneSettings = ControlPlaneSettings()
    seller: SellerSettings
    documents: DocumentsSettings = DocumentsSettings()
    price_books: PriceBookSettings = PriceBookSettings()
    rating: RatingSettings = RatingSettings()
    sli: ServiceLevelSettings = ServiceLevelSettings()
    operations: OperationsSettings = OperationsSettings()
    alerts: AlertSettings = AlertSettings()
    slo: SloSettings = SloSettings()
    close: CloseSettings = CloseSettings()
    roles: Roles | None = None


@dataclass(frozen=True, slots=True)
class PricedBook:
    """A price book and the name of its content: ``<name>@<first 12 digits of its SHA-256>``."""

    book: PriceBook
    version: str


def book_on(books: Iterable[PricedBook], day: date) -> PricedBook | None:
    """Return the newest of the books that is effective on a calendar day, if there is one."""
    effective = [priced for priced in books if priced.book.effective_from <= day]
    return max(effective, key=lambda priced: priced.book.effective_from, default=None)


@dataclass(frozen=True)
class Project:
    """Everything a run reads from the project folder; ``files`` holds the bytes by relative path, to be pinned.

    ``price_books`` are those that rate: the folder's, or the approved ones that open_workspace puts here.
    """

    folder: Path
    settings: ProjectSettings
    contracts: tuple[SourceContract, ...]
    meters: tuple[Meter, ...]
    price_books: tuple[PricedBook, ...]
    files: Mapping[str, bytes]
    read_directory: Callable[[], AccountDirectory]
    externals: tuple[ExternalContract, ...] = ()
    taxes: TaxTable | None = None  # None: the project has no taxes.toml and charges no tax
    spend_thresholds: tuple[SpendThreshold, ...] = ()

    @cached_property
    def directory(self) -> AccountDirectory:
        """The accounts, read when they are first asked for: what counts usage needs no account but its owner."""
        return self.read_directory()

    def withdrawal_rules(self) -> tuple[WithdrawalRule, ...]:
        """Return what the contracts say of events that withdraw others, each type once, in order of type."""
        rules = {rule.event_type: rule for contract in self.contracts for rule in contract.withdrawals}
        return tuple(rule for _, rule in sorted(rules.items()))

    def price_book_on(self, day: date) -> PricedBook | None:
        """Return the newest book that is effective on a calendar day of the account, if there is one."""
        return book_on(self.price_books, day)
