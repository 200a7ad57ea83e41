"""The facts of the nightly reconciliation report, what finance signs, and the one sentence that says its verdict.

What was pinned when the revision was reconciled never changes. What may change afterwards (holds, breaks, exceptions,
what was billed the night before) is in ``NightFacts``, which are published with the report: so the report of a
revision has the same bytes whenever it is made again (P1). ``report_sections`` makes tables of the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pipeline.core.approval import Override, SignOff
from pipeline.core.breaks import Break
from pipeline.core.check import CheckReport, Severity
from pipeline.core.completeness import Missing, PendingObject, SourceException, UnclaimedObject
from pipeline.core.decimals import plain_text
from pipeline.core.hold import Hold
from pipeline.core.manifest import Receipt
from pipeline.core.money import exact, minor_unit_digits
from pipeline.core.outcome import EventOutcomes
from pipeline.core.reason import EXCLUSION_SENTENCES, QUARANTINE_SENTENCES, ExclusionReason, QuarantineReason
from pipeline.core.reconciliation import (
    Control,
    Effect,
    Verdict,
    WindowTotals,
    failed_controls,
    readable,
    stopping_controls,
    unexplained_event_count,
)
from pipeline.core.revision import LedgerObject, RevisionState, WindowRevision
from pipeline.core.sli import ServiceLevel

SAMPLE_ROWS_MAX = 20
TOP_ACCOUNTS_MAX = 10
MOVED_ACCOUNTS_MAX = 10_000  # of each currency, in the files that hold all of them
RAW_SAMPLE_CHARACTERS_MAX = 240
EVENT_TEXT_CHARACTERS_MAX = 80


@dataclass(frozen=True, slots=True)
class QuarantinedLine:
    """One quarantined line as people read it; line number 0 is the whole object."""

    object_id: str
    line_number: int
    contract: str
    reason: str
    message: str
    raw: str
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class ExcludedEvent:
    """One excluded event, its long texts shortened; of a duplicate, also where the copy that stands was read."""

    object_id: str
    line_number: int
    source: str
    id: str
    type: str
    subject: str
    event_at: datetime
    received_at: datetime
    reason: str
    winner_object_id: str | None
    winner_line_number: int | None


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many lines or events have a reason, in words, with the first of them in order of object and line."""

    reason: str
    sentence: str
    count: int
    samples: tuple[QuarantinedLine, ...] | tuple[ExcludedEvent, ...]

    @property
    def more_count(self) -> int:
        return self.count - len(self.samples)


@dataclass(frozen=True, slots=True)
class AccountAmount:
    """What the draft of a period bills to one account so far."""

    period_id: str
    currency: str
    account_id: str
    name: str
    line_item_count: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the report can be regenerated from and checked against, by hash."""

    parameters: Mapping[str, str]
    receipts: tuple[Receipt, ...]
    pins: Mapping[str, str]
    objects: tuple[LedgerObject, ...]


@dataclass(frozen=True, slots=True)
class SourceCompleteness:
    """What one source had shown when the revision was opened."""

    contract: str
    evidence: str
    has_manifest: bool
    watermark_at: datetime | None
    missing: tuple[Missing, ...]

    @property
    def evidence_words(self) -> str:
        return EVIDENCE_WORDS[self.evidence] + (", and manifests" if self.has_manifest else "")


@dataclass(frozen=True, slots=True)
class CompletenessFacts:
    """What was known of every source when the revision was opened, and which objects were not collected."""

    sources: tuple[SourceCompleteness, ...]
    pending_count: int
    pending: tuple[PendingObject, ...]
    unclaimed_count: int
    unclaimed: tuple[UnclaimedObject, ...]


EVIDENCE_WORDS = {
    "elapsed": "elapsed time only, the weakest",
    "offsets": "contiguous offsets",
    "control_file": "control files",
    "heartbeat": "heartbeat",
}


@dataclass(frozen=True, slots=True)
class EstimateFacts:
    """What the periods are expected to come to: totals by period and currency, and the largest accounts of each.

    Rows are as ``steps.estimate`` has them.
    """

    totals: tuple[Mapping[str, Any], ...]
    accounts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class PeriodFigure:
    """What the draft of a period comes to in one currency."""

    period_id: str
    currency: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class NightFigures:
    """The figures of one window that the trends of later reports show."""

    window_id: str
    revision: int
    line_count: int
    quarantine_count: int
    window_event_count: int
    billed_event_count: int
    exact_duplicate_count: int
    conflicting_duplicate_count: int
    late_count: int
    amounts: tuple[PeriodFigure, ...]


@dataclass(frozen=True, slots=True)
class NightPart:
    """What a night added to the drafts of a SKU for one cause, and the night before it; all accounts, or one."""

    sku: str
    currency: str
    cause: str
    unit: str
    quantity: Decimal
    quantity_before: Decimal
    amount: Decimal
    amount_before: Decimal
    account_id: str = ""
    period_id: str = ""  # of all accounts; the parts of one account add up its periods


@dataclass(frozen=True, slots=True)
class AccountNight:
    """What a night added to the drafts of an account, and the night before it: usage lines, and fees and terms."""

    account_id: str
    currency: str
    amount: Decimal
    amount_before: Decimal
    terms_amount: Decimal = Decimal(0)
    terms_amount_before: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class AccountActivity:
    """An account that is new in the window, or silent since the one before; its events are those it had."""

    account_id: str
    state: str
    event_count: int


@dataclass(frozen=True, slots=True)
class NightComparison:
    """The window beside the one before it. ``problem`` says why they are not compared; everything is empty then.

    ``movers`` are the accounts that changed, the first ``MOVED_ACCOUNTS_MAX`` of each currency; ``moved_count`` counts
    all of them.
    """

    window_id: str = ""
    revision: int = 0
    problem: str = ""
    parts: tuple[NightPart, ...] = ()
    movers: tuple[AccountNight, ...] = ()
    mover_parts: tuple[NightPart, ...] = ()
    moved_count: int = 0
    windows_looked_at: int = 0
    new_count: int = 0
    silent_count: int = 0
    activity: tuple[AccountActivity, ...] = ()


@dataclass(frozen=True, slots=True)
class RevisionChange:
    """What changed a quantity since the revision before; the account of a total of all accounts is empty."""

    account_id: str
    sku: str
    unit: str
    quantity_from: Decimal
    quantity_to: Decimal
    parts: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class RevisionComparison:
    """The revision beside an earlier one of the same window; ``problem`` says why they could not be compared."""

    revision_from: int
    problem: str = ""
    causes: tuple[str, ...] = ()
    totals: tuple[RevisionChange, ...] = ()
    account_change_count: int = 0
    accounts: tuple[RevisionChange, ...] = ()  # the first of them, in order of account, SKU and unit


@dataclass(frozen=True, slots=True)
class KindAmount:
    """Line items of one kind of a SKU in the draft of a period."""

    period_id: str
    sku: str
    unit: str
    currency: str
    kind: str
    line_item_count: int
    quantity: Decimal
    amount_exact: Decimal
    amount: Decimal
    residual: Decimal


@dataclass(frozen=True, slots=True)
class AdjustingLine:
    """One line of an adjusting document."""

    description: str
    sku: str
    quantity: Decimal
    unit: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class AdjustingDocument:
    """A document that settled an earlier period since the report of the window before, and what caused it."""

    number: str
    kind: str
    period_id: str
    account_id: str
    currency: str
    total: Decimal
    corrects: str
    lines: tuple[AdjustingLine, ...]
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditNote:
    """One entry of the audit log about the revision: what was done, by whom, when and why."""

    what: str
    by: str
    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class NightFacts:
    """What was known when the report was made and may be otherwise later; published, so that it stays known.

    ``history`` are the windows before, oldest first.
    """

    made_at: datetime
    figures: NightFigures
    history: tuple[NightFigures, ...] = ()
    comparison: NightComparison = NightComparison()
    since_revision: RevisionComparison | None = None
    kinds: tuple[KindAmount, ...] = ()
    holds: tuple[Hold, ...] = ()
    exceptions: tuple[SourceException, ...] = ()
    adjusting_documents: tuple[AdjustingDocument, ...] = ()
    decisions: tuple[AuditNote, ...] = ()
    breaks: tuple[Break, ...] = ()
    sign_offs: tuple[SignOff, ...] = ()
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Everything a report is made of. ``controls`` is None when the reconciliation did not run."""

    project_name: str
    legal_entity: str
    revision: WindowRevision
    decision_reason: str
    totals: WindowTotals
    has_usage: bool
    controls: tuple[Control, ...] | None
    quarantine: tuple[ReasonCount, ...]
    excluded: tuple[ReasonCount, ...]
    accounts: tuple[AccountAmount, ...]
    checks: CheckReport | None
    evidence: Evidence
    night: NightFacts
    completeness: CompletenessFacts | None = None
    outcomes: EventOutcomes | None = None
    estimates: EstimateFacts | None = None
    canary: Mapping[str, Any] | None = None  # as canary.comparison_document has its periods
    service_levels: tuple[ServiceLevel, ...] = ()


def printable(raw: bytes) -> str:
    """Return the first characters of quarantined bytes so that they can be read safely: nothing in them acts.

    Bytes that are not UTF-8 and control characters are shown as escapes; what is cut off is marked.

    >>> printable(b'\\xff{"id": 1}\\x1b[31m')
    '\\\\xff{"id": 1}\\\\x1b[31m'
    """
    text = raw[: 4 * RAW_SAMPLE_CHARACTERS_MAX].decode("utf-8", errors="backslashreplace")
    shown = _escaped(text)
    return shown if len(shown) <= RAW_SAMPLE_CHARACTERS_MAX else f"{shown[:RAW_SAMPLE_CHARACTERS_MAX]} […]"


def shortened(text: str) -> str:
    """Return a text of an event so that it fits its cell and can be read safely; what is cut off is marked.

    >>> shortened("key_7f3a\\u202e"), len(shortened("x" * 100_000))
    ('key_7f3a\\\\u202e', 80)
    """
    shown = _escaped(text[: EVENT_TEXT_CHARACTERS_MAX + 1])
    return shown if len(shown) <= EVENT_TEXT_CHARACTERS_MAX else f"{shown[: EVENT_TEXT_CHARACTERS_MAX - 1]}…"


def _escaped(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def exclusion_sentence(reason: str) -> str:
    """Return the sentence of an exclusion reason; a reason outside the closed list raises ``ValueError``."""
    return EXCLUSION_SENTENCES[ExclusionReason(reason)]


def quarantine_sentence(reason: str) -> str:
    """Return the sentence of a quarantine reason; a reason outside the closed list raises ``ValueError``."""
    return QUARANTINE_SENTENCES[QuarantineReason(reason)]


def in_reason_order(counts: Mapping[str, int], reasons: type[StrEnum]) -> list[tuple[str, int]]:
    """Return the reasons that occur, in the order in which they are decided.

    >>> in_reason_order({"late": 2, "exact_duplicate": 1}, ExclusionReason)
    [('exact_duplicate', 1), ('late', 2)]
    """
    return [(reason.value, counts[reason.value]) for reason in reasons if counts.get(reason.value)]


def unexplained_amounts(controls: Iterable[Control], currencies: Iterable[str]) -> dict[str, Decimal]:
    """Return for each currency by how much the controls of amounts that stop a revision differ.

    >>> from pipeline.core.reconciliation import Equation
    >>> control = Control(Equation.ROUNDED_AMOUNT, "2026-01/USD", "USD", Decimal(0), Decimal("0.02"))
    >>> unexplained_amounts([control], ["USD"])
    {'USD': Decimal('0.02')}
    """
    found = dict.fromkeys(sorted(currencies), Decimal(0))
    with exact():
        for control in stopping_controls(controls):
            if control.unit in found:
                found[control.unit] += control.delta.copy_abs()
    return found


def held_accounts(facts: ReportFacts) -> dict[tuple[str, str], str]:
    """Return the reasons of each period and account that is held: by people, or by a control of this revision."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for hold in facts.night.holds:
        reasons.setdefault((hold.period_id, hold.account_id), []).append(hold.reason)
    for control in failed_controls(facts.controls or ()):
        if control.effect is Effect.HOLD and control.account_id:
            period_id = control.scope.partition("/")[0]
            reasons.setdefault((period_id, control.account_id), []).append(control.tolerance_reason)
    return {held: "; ".join(dict.fromkeys(reasons[held])) for held in sorted(reasons)}


def held_count(facts: ReportFacts) -> int:
    """Return how many accounts are held in at least one period."""
    return len({account_id for _, account_id in held_accounts(facts)})


def headline(facts: ReportFacts) -> tuple[Verdict, str]:
    """Return the verdict of the revision and the one sentence that says it."""
    events, controls = facts.totals.events, facts.controls
    lines = f"{readable(events.night_quarantine_count)} line{'s'[: events.night_quarantine_count != 1]} quarantined"
    held = held_count(facts)
    counted = [f"{readable(events.excluded_count)} excluded", lines]
    broken = len(facts.night.breaks)
    counted += [f"{readable(broken)} break{'s'[: broken != 1]} open"] if broken else []
    counted += [f"{readable(held)} account{'s'[: held != 1]} held"] if held else []
    if controls is not None:
        amounts = unexplained_amounts(controls, {amount.currency for amount in facts.totals.period_amounts})
        unexplained = [f"{readable(unexplained_event_count(controls))} events"]
        unexplained += [f"{_amount_text(amount, currency)} {currency}" for currency, amount in amounts.items()]
        found = f"unexplained {', '.join(unexplained)}"
        counted = [f"{readable(events.usage_event_count)} events billed", *counted]
        stopping = stopping_controls(controls)
        if stopping:
            failed = f"{len(stopping)} of {len(controls)} controls failed"
            return Verdict.FAIL, f"not reconciled: {failed}; {found}; {', '.join(counted)}"
        refused = facts.checks.failed(Severity.CRITICAL) if facts.checks else ()
        if not refused and facts.revision.state is not RevisionState.REJECTED:
            return Verdict.PASS, f"reconciled: {found}; {', '.join(counted)}"
        counted = counted[1:]
    reason = facts.decision_reason.splitlines()[0] if facts.decision_reason else "the reconciliation has not run"
    if controls is not None and not facts.decision_reason:
        reason = "a critical check failed"
    return Verdict.FAIL, (
        f"not reconciled: {reason}; {readable(events.usage_event_count)} events would be billed, {', '.join(counted)}"
    )


def _amount_text(amount: Decimal, currency: str) -> str:
    digits = minor_unit_digits(currency)
    plain = plain_text(amount)
    return readable(amount) if len(plain.partition(".")[2]) > digits else f"{amount:,.{digits}f}"
