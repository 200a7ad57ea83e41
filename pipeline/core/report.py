"""The nightly reconciliation report as plain data: what finance signs, before it has a page.

The report of a window revision says in one sentence whether the night reconciles, then shows the road from the lines
that were received to the events that are billed, each step with its reason in words, then the same in quantities and
in money, every control, and the evidence it all rests on. It holds no clock: the same published data make the same
report (P1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pipeline.core.canary import canary_view
from pipeline.core.check import CheckReport, Severity
from pipeline.core.completeness import Missing, PendingObject, SourceException, UnclaimedObject
from pipeline.core.manifest import Receipt
from pipeline.core.outcome import EventOutcomes
from pipeline.core.reason import EXCLUSION_SENTENCES, QUARANTINE_SENTENCES, ExclusionReason, QuarantineReason
from pipeline.core.reconciliation import (
    EQUATION_SENTENCES,
    Control,
    Equation,
    EventCounts,
    SkuQuantities,
    Verdict,
    WindowTotals,
    failed_controls,
    readable,
    verdict_sentence,
)
from pipeline.core.revision import LedgerObject, RevisionState, WindowRevision
from pipeline.core.withdrawal import WITHDRAWAL_FAULT_SENTENCES

SAMPLE_ROWS_MAX = 20
TOP_ACCOUNTS_MAX = 10
OBJECT_ROWS_MAX = 500
RAW_SAMPLE_CHARACTERS_MAX = 240
EVENT_TEXT_CHARACTERS_MAX = 80


class StepKind(StrEnum):
    """What a step of the waterfall does: states how many there are, takes some away, or adds some."""

    LEVEL = "level"
    TAKEN = "taken"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the waterfall; ``level`` is how many are left after it."""

    name: str
    sentence: str
    kind: StepKind
    count: int
    level: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the chart in whole user units, with the text beside it and the line that leads to the next bar."""

    step: Step
    label_y: int
    text_y: int
    y: int
    x: int
    width: int
    text_x: int
    link_x: int
    link_y: int


@dataclass(frozen=True, slots=True)
class Chart:
    """A waterfall chart with every coordinate computed. ``axis_start`` is not zero when zero would hide the steps."""

    width: int
    height: int
    bar_height: int
    axis_start: int
    axis_x: int
    bars: tuple[Bar, ...]


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
    completeness: CompletenessFacts | None = None
    exceptions: tuple[SourceException, ...] = ()
    outcomes: EventOutcomes | None = None
    estimates: EstimateFacts | None = None
    canary: Mapping[str, Any] | None = None  # as canary.comparison_document has its periods


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


def waterfall(counts: EventCounts, quarantine_counts: Mapping[str, int]) -> tuple[Step, ...]:
    """Return the road from the lines received this night to the billed events, one step for each reason that occurs.

    The last level is the number of billed events *as found*; what the steps before it do not explain is a step of its
    own.
    """
    steps: list[Step] = []
    level = counts.night_line_count

    def stand(name: str, sentence: str) -> None:
        steps.append(Step(name, sentence, StepKind.LEVEL, level, level))

    def move(name: str, sentence: str, count: int) -> None:
        nonlocal level
        if count:
            level += count
            steps.append(Step(name, sentence, StepKind.TAKEN if count < 0 else StepKind.ADDED, abs(count), level))

    def arrive(name: str, sentence: str, found: int) -> None:
        move("unexplained", "no reason is recorded for these; the reconciliation fails", found - level)
        stand(name, sentence)

    stand("lines received", "records in every object received this night")
    for reason, count in in_reason_order(quarantine_counts, QuarantineReason):
        move(f"quarantined: {_words(reason)}", quarantine_sentence(reason), -count)
    arrive("events received", "lines that could be read as an event", counts.night_event_count)
    move(
        "before the first window",
        "used before the first window that is billed; never billed",
        -counts.before_first_window_event_count,
    )
    move(
        "in the future",
        "outside this window and used later than received by more than the tolerance: a clock was wrong; "
        "their own window, if it ever runs, excludes them",
        -counts.future_event_count,
    )
    move("of other windows", "used on another day; each is counted by its own window", -counts.other_window_event_count)
    move("from other nights", "used in this window, received in another night", counts.other_night_event_count)
    arrive("events of the window", "every copy of every event used in this window", counts.window_event_count)
    for reason, count in in_reason_order(counts.excluded_counts, ExclusionReason):
        move(f"excluded: {_words(reason)}", exclusion_sentence(reason), -count)
    arrive("events billed", "billable events, each once", counts.usage_event_count)
    return tuple(steps)


def _words(code: str) -> str:
    return code.replace("_", " ")


def chart(steps: Sequence[Step], width: int, *, labels_above: bool) -> Chart:
    """Return the chart of a waterfall: one bar for each step, in whole units, with room for names and numbers.

    When every level is far from zero the axis starts nearer to them, so that a step of a few events can be seen.
    """
    label_width, number_width = (0, 84) if labels_above else (210, 84)
    row_height, bar_height, top = (46, 16, 22) if labels_above else (30, 16, 7)
    plot_x, plot_width = label_width, width - label_width - number_width
    levels = [step.level for step in steps]
    highest = max(max(step.level, step.level + step.count * (step.kind is StepKind.TAKEN)) for step in steps) or 1
    axis_start = _axis_start(min(levels), highest)

    def position(level: int) -> int:
        return plot_x + (max(level, axis_start) - axis_start) * plot_width // (highest - axis_start)

    bars = []
    for number, step in enumerate(steps):
        before = {
            StepKind.LEVEL: axis_start,
            StepKind.TAKEN: step.level + step.count,
            StepKind.ADDED: step.level - step.count,
        }
        ends = sorted((position(before[step.kind]), position(step.level)))
        bar_width = max(ends[1] - ends[0], 2 if step.count else 0)
        y = number * row_height + top
        bars.append(
            Bar(
                step,
                label_y=number * row_height + 15,
                text_y=y + bar_height - 4,
                y=y,
                x=ends[0],
                width=bar_width,
                text_x=ends[0] + bar_width + 6,
                link_x=position(step.level),
                link_y=y + row_height,
            )
        )
    return Chart(width, len(steps) * row_height + 4, bar_height, axis_start, plot_x, tuple(bars))


def _axis_start(lowest: int, highest: int) -> int:
    """Return zero, or a round number below the lowest level when the steps are less than a third of the highest."""
    spread = highest - lowest
    if lowest <= 0 or spread * 3 >= highest:
        return 0
    unit = int("1".ljust(len(str(max(spread, 1))), "0"))
    return max((lowest - max(spread, unit)) // unit * unit, 0)


def headline(facts: ReportFacts) -> tuple[Verdict, str]:
    """Return the verdict of the revision and the one sentence that says it."""
    events = facts.totals.events
    if facts.controls is not None:
        sentence = verdict_sentence(facts.controls, events)
        failed = facts.checks.failed(Severity.CRITICAL) if facts.checks else ()
        if sentence.startswith("reconciled") and not failed and facts.revision.state is not RevisionState.REJECTED:
            return Verdict.PASS, sentence
        if sentence.startswith("not"):
            return Verdict.FAIL, sentence
    reason = facts.decision_reason.splitlines()[0] if facts.decision_reason else "the reconciliation has not run"
    return Verdict.FAIL, (
        f"not reconciled: {reason}; {readable(events.usage_event_count)} events would be billed, "
        f"{readable(events.excluded_count)} excluded, {readable(events.night_quarantine_count)} lines quarantined"
    )


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The controls of one equation, the failed ones first; ``tolerance_reasons`` where something is rounded."""

    equation: str
    sentence: str
    controls: tuple[Control, ...]
    failed_count: int
    tolerance_reasons: tuple[str, ...]

    @property
    def is_long(self) -> bool:
        return len(self.controls) > SAMPLE_ROWS_MAX


def control_groups(controls: Sequence[Control]) -> tuple[ControlGroup, ...]:
    """Return the controls by equation, in the order of the chain; failed controls stand first in their group."""
    groups = []
    for equation in Equation:
        of_equation = sorted(
            (control for control in controls if control.control == equation),
            key=lambda control: (control.verdict is Verdict.PASS, control.scope, control.unit),
        )
        if of_equation:
            failed = sum(control.verdict is Verdict.FAIL for control in of_equation)
            reasons = tuple(sorted({control.tolerance_reason for control in of_equation if control.tolerance}))
            groups.append(
                ControlGroup(equation.value, EQUATION_SENTENCES[equation], tuple(of_equation), failed, reasons)
            )
    return tuple(groups)


def excluded_quantity_reasons(skus: Sequence[SkuQuantities]) -> list[str]:
    """Return the exclusion reasons that take quantity from any SKU, in the order in which they are decided."""
    occurring = {reason for sku in skus for reason, quantity in sku.excluded_quantities.items() if quantity}
    return [reason.value for reason in ExclusionReason if reason.value in occurring]


def largest_accounts(accounts: Sequence[AccountAmount]) -> tuple[AccountAmount, ...]:
    """Return the accounts with the largest amounts of each period and currency; equal amounts in order of account."""
    by_draft: dict[tuple[str, str], list[AccountAmount]] = {}
    for account in sorted(accounts, key=lambda account: (account.amount.copy_negate(), account.account_id)):
        by_draft.setdefault((account.period_id, account.currency), []).append(account)
    return tuple(account for _, largest in sorted(by_draft.items()) for account in largest[:TOP_ACCOUNTS_MAX])


def report_model(facts: ReportFacts) -> dict[str, Any]:
    """Return what the page shows, as finished values: a template formats them and decides nothing."""
    verdict, sentence = headline(facts)
    steps = waterfall(facts.totals.events, {group.reason: group.count for group in facts.quarantine})
    revision = facts.revision
    controls = facts.controls or ()
    return {
        "project_name": facts.project_name,
        "legal_entity": facts.legal_entity,
        "revision": revision,
        "decision_reason": facts.decision_reason,
        "verdict": verdict.value,
        "sentence": sentence,
        "events": facts.totals.events,
        "steps": steps,
        "charts": (
            {"name": "wide", "chart": chart(steps, 960, labels_above=False)},
            {"name": "narrow", "chart": chart(steps, 350, labels_above=True)},
        ),
        "skus": facts.totals.skus,
        "sku_reasons": [(reason, _words(reason)) for reason in excluded_quantity_reasons(facts.totals.skus)],
        "has_usage": facts.has_usage,
        "quarantine": facts.quarantine,
        "excluded": facts.excluded,
        "look_back_days": (facts.outcomes.look_back_seconds if facts.outcomes else 0) // 86_400,
        "outcomes": facts.outcomes,
        "withdrawal_faults": WITHDRAWAL_FAULT_SENTENCES,
        "exclusion_sentences": {reason.value: text for reason, text in EXCLUSION_SENTENCES.items()},
        "late_count": facts.totals.events.excluded_counts.get(ExclusionReason.LATE.value, 0),
        "amounts": facts.totals.period_amounts,
        "accounts": largest_accounts(facts.accounts),
        "checks": None if facts.checks is None else facts.checks.results,
        "checks_failed_count": sum(not result.success for result in facts.checks.results) if facts.checks else 0,
        "has_controls": facts.controls is not None,
        "control_groups": control_groups(controls),
        "controls_count": len(controls),
        "controls_failed_count": len(failed_controls(controls)),
        "completeness": facts.completeness,
        "exceptions": facts.exceptions,
        "estimates": facts.estimates,
        "canary": None if facts.canary is None else canary_view(facts.canary),
        "evidence": facts.evidence,
        "objects": facts.evidence.objects[:OBJECT_ROWS_MAX],
        "objects_more_count": max(0, len(facts.evidence.objects) - OBJECT_ROWS_MAX),
    }
