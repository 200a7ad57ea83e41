"""What people and machines are told about nights: files that are written, who gets alerts, thresholds of spend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.core.contract import StrictModel
from pipeline.core.decimals import FlatAmount, plain_text
from pipeline.core.errors import BillingError
from pipeline.core.money import minor_unit_digits

HttpUrl = Annotated[str, Field(pattern=r"^https?://[^/\s]+")]


class OperationsSettings(StrictModel):
    """The table ``[operations]``: the files that each night writes, below the project; an empty name writes none."""

    metrics_file: str = "out/metrics.prom"
    lineage_file: str = "out/openlineage.jsonl"


class MailSettings(StrictModel):
    """The table ``[alerts.mail]``; user and password of the server are no matter of a file under version control."""

    to: Annotated[tuple[str, ...], Field(min_length=1)]
    sender: Annotated[str, Field(min_length=3)]
    host: Annotated[str, Field(min_length=1)] = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] = 25
    tls: Literal["starttls", "none"] = "starttls"


class AlertSettings(StrictModel):
    """The table ``[alerts]``: everywhere that is named gets each alert. URLs that hold a secret come as variables."""

    slack_url: HttpUrl | None = None
    webhook_url: HttpUrl | None = None
    mail: MailSettings | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person has to know: ``code`` finds its section in the runbook, ``key`` makes it one thing.

    The same key is the same trouble: a receiver that knows it already may stay silent.
    """

    code: str
    key: str
    severity: Literal["page", "ticket"]
    title: str
    details: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return the alert as lines of plain text."""
        return "\n".join([self.title, *self.details])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "details": list(self.details)}


def failed_task_alert(project: str, task: str, run_id: str, why: BaseException | str | None) -> Alert:
    """Return the alert of a task that failed for good; a refusal of ours says it in its own words.

    >>> failed_task_alert("LLM API", "bill_window.check", "r1", "lost").title
    'LLM API: bill_window.check failed'
    """
    key = f"{task}/{run_id}"
    if isinstance(why, BillingError):
        return Alert(why.code, key, "page", f"{project}: {task} refused: {why.summary}", why.details)
    details = (f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else str(why or "no reason is known"),)
    return Alert("alert.task_failed", key, "page", f"{project}: {task} failed", (*details, f"run {run_id}"))


# Thresholds of spend --------------------------------------------------------------------------------------------------


class SpendThreshold(StrictModel):
    """An amount of a billing period that somebody wants to hear of when an account reaches it, once in the period.

    Without ``account_id`` it is that of every account in the currency. ``of`` is what has to reach it: the lines so
    far, or the forecast of the whole period.
    """

    account_id: Annotated[str, Field(min_length=1)] | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    amount: Annotated[FlatAmount, Field(gt=0)]
    of: Literal["to_date", "forecast"] = "to_date"

    @field_validator("currency")
    @classmethod
    def _iso_currency(cls, currency: str) -> str:
        minor_unit_digits(currency)
        return currency

    @property
    def name(self) -> str:
        """Return the words that the threshold is known by: a changed amount is another threshold.

        >>> SpendThreshold(account_id="acct-7", currency="USD", amount=Decimal("500.00")).name
        'acct-7: 500 USD to date'
        """
        what = {"to_date": "to date", "forecast": "forecast"}[self.of]
        return f"{self.account_id or 'any account'}: {plain_text(self.amount)} {self.currency} {what}"


class SpendThresholdFile(StrictModel):
    """The file ``spend_thresholds.toml``."""

    thresholds: tuple[SpendThreshold, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [threshold.name for threshold in self.thresholds]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"found the threshold {twice[0]!r} twice, accepted each once")
        return self


@dataclass(frozen=True, slots=True, order=True)
class CrossedThreshold:
    """A threshold that an account reached in a period, with the amount of the window that showed it first."""

    account_id: str
    threshold: str
    currency: str
    amount: str
    window_id: str


def crossed_thresholds(
    thresholds: Sequence[SpendThreshold],
    estimates: Iterable[Mapping[str, Any]],
    before: Iterable[CrossedThreshold],
    window_id: str,
) -> list[CrossedThreshold]:
    """Return every threshold that was reached in a period: those known before, and those that estimates reach now.

    What was reached stays reached, with the window that showed it, also when an amount falls again.
    """
    known = {(one.account_id, one.threshold): one for one in before}
    for row in estimates:
        for threshold in thresholds:
            amount: Decimal | None = row["amount_to_date" if threshold.of == "to_date" else "forecast_amount"]
            is_of_account = threshold.account_id in (None, row["account_id"])
            if not is_of_account or threshold.currency != row["currency"] or amount is None:
                continue
            if amount >= threshold.amount:
                name = (row["account_id"], threshold.name)
                known.setdefault(name, CrossedThreshold(*name, row["currency"], plain_text(amount), window_id))
    return sorted(known.values())


def spend_alert(project: str, period_id: str, crossed: CrossedThreshold) -> Alert:
    """Return the alert of a threshold that was reached."""
    return Alert(
        "alert.spend_threshold",
        f"{period_id}/{crossed.account_id}/{crossed.threshold}",
        "ticket",
        f"{project}: account {crossed.account_id} reached a threshold of spend in {period_id}",
        (
            f"threshold {crossed.threshold}",
            f"window {crossed.window_id}: {crossed.amount} {crossed.currency}",
        ),
    )
