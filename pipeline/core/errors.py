"""Every refusal of the pipeline, as one small tree.

    BillingError
    |-- InputError            a file of the billing project, or a command, is wrong       exit 2
    |-- PricingError          usage that the price book cannot price                      exit 1
    |-- NotReadyError         evidence or time is missing; the same call may succeed later exit 1
    |-- CheckFailed           a critical expectation does not hold                        exit 1
    |-- ReconciliationError   an equation of the reconciliation is not zero               exit 1
    |-- AccessError           a person has no role that may do this                       exit 1
    `-- PublicationError      a revision exists with other content, or a pinned file differs  exit 1

Each error has a stable ``code`` (``reconciliation.quantity_mismatch``) and says what, where, expected,
actual, and what to do now. Data problems are collected and shown together; only
``NotReadyError`` is worth a retry.
"""

from __future__ import annotations

from collections.abc import Sequence


class BillingError(Exception):
    """A refusal with a stable code: first line says what, the detail lines where and what now."""

    exit_code = 1

    def __init__(self, code: str, summary: str, details: Sequence[str] = ()) -> None:
        self.code = code
        self.summary = summary
        self.details = tuple(details)
        super().__init__("\n".join([f"{code}: {summary}", *(f"  {line}" for line in self.details)]))

    def __reduce__(self) -> tuple[type[BillingError], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.code, self.summary, self.details)


class InputError(BillingError):
    """A file of the billing project, or the way a command was called, is wrong."""

    exit_code = 2


class PricingError(BillingError):
    """There is usage that the price book cannot price."""


class NotReadyError(BillingError):
    """Evidence or time is missing; the same call may succeed later."""


class CheckFailed(BillingError):  # noqa: N818 - the sentence "check failed" is the field's term
    """A critical expectation does not hold; nothing downstream may run."""


class ReconciliationError(BillingError):
    """An equation of the reconciliation is not zero; nothing may be issued."""


class PublicationError(BillingError):
    """A revision already exists with other content, or a pinned file no longer has its hash."""


class AccessError(BillingError):
    """A person has no role that may do this; nothing was changed."""
