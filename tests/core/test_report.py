"""The report as data: the waterfall explains every line, the chart shows it, the headline tells the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from pipeline.core.check import CheckReport, CheckResult, Severity
from pipeline.core.reason import ExclusionReason, QuarantineReason
from pipeline.core.reconciliation import EventCounts, Verdict, WindowTotals, window_controls
from pipeline.core.report import (
    EVENT_TEXT_CHARACTERS_MAX,
    RAW_SAMPLE_CHARACTERS_MAX,
    TOP_ACCOUNTS_MAX,
    AccountAmount,
    Evidence,
    NightFacts,
    NightFigures,
    ReportFacts,
    exclusion_sentence,
    headline,
    printable,
    quarantine_sentence,
    shortened,
)
from pipeline.core.report_amounts import largest_accounts
from pipeline.core.report_charts import Chart, Step, StepKind
from pipeline.core.report_charts import chart as drawn_chart
from pipeline.core.report_events import waterfall
from pipeline.core.report_sections import control_groups
from pipeline.core.revision import RevisionState, WindowRevision

START = datetime(2026, 1, 15, tzinfo=UTC)
EVENTS = EventCounts(15, 2, 13, 1, 2, 3, 1, 8, 5, {"late": 1, "exact_duplicate": 2}, 8)
QUARANTINE = {"wrong_type": 1, "malformed_line": 1}


def facts(events: EventCounts = EVENTS, **changed: object) -> ReportFacts:
    totals = WindowTotals((), events, (), (), (), ())
    revision = WindowRevision(
        "2026-01-15",
        1,
        START,
        START + timedelta(days=1),
        START + timedelta(hours=30),
        "0" * 64,
        {},
        "first",
        RevisionState.ACCEPTED,
    )
    return replace(
        ReportFacts(
            project_name="test",
            legal_entity="Test Ltd",
            revision=revision,
            decision_reason="",
            totals=totals,
            has_usage=True,
            controls=tuple(window_controls(totals)),
            quarantine=(),
            excluded=(),
            accounts=(),
            checks=None,
            evidence=Evidence({}, (), {}, ()),
            night=NightFacts(START, NightFigures("2026-01-15", 1, 15, 2, 8, 5, 2, 0, 1, ())),
        ),
        **changed,  # type: ignore[arg-type]
    )


def chart(steps: Sequence[Step], width: int = 960, *, labels_above: bool = False) -> Chart:
    return drawn_chart("title", "events", steps, width, labels_above=labels_above)


def test_every_step_of_the_waterfall_leads_to_the_next() -> None:
    steps = waterfall(EVENTS, QUARANTINE)

    for before, step in pairwise(steps):
        change = {StepKind.LEVEL: 0, StepKind.TAKEN: -step.count, StepKind.ADDED: step.count}[step.kind]
        assert step.level == before.level + change, step.name
    assert (steps[0].level, steps[-1].level) == (15, 5)


def test_the_waterfall_names_each_reason_in_the_order_it_is_decided() -> None:
    names = [step.name for step in waterfall(EVENTS, QUARANTINE)]

    assert names == [
        "lines received",
        "quarantined: malformed line",
        "quarantined: wrong type",
        "events received",
        "before the first window",
        "in the future",
        "of other windows",
        "from other nights",
        "events of the window",
        "excluded: exact duplicate",
        "excluded: late",
        "events billed",
    ]


def test_events_that_no_step_explains_are_a_step_of_their_own() -> None:
    steps = waterfall(replace(EVENTS, usage_event_count=4), QUARANTINE)

    assert [(step.count, step.level) for step in steps if step.name == "unexplained"] == [(1, 4)]
    assert steps[-1].level == 4


def test_every_reason_has_a_sentence_for_the_report() -> None:
    assert all(exclusion_sentence(reason) for reason in ExclusionReason)
    assert all(quarantine_sentence(reason) for reason in QuarantineReason)


@pytest.mark.parametrize("labels_above", [True, False])
def test_every_bar_lies_within_the_chart(labels_above: bool) -> None:
    drawn = chart(waterfall(EVENTS, QUARANTINE), width=350, labels_above=labels_above)

    for bar in drawn.bars:
        assert drawn.axis_x <= bar.x <= bar.x + bar.width <= drawn.left + drawn.width
        assert 0 <= bar.y <= bar.y + drawn.bar_height <= drawn.height


def test_a_step_of_a_few_events_among_a_million_is_still_drawn() -> None:
    events = EventCounts(1_000_000, 0, 1_000_000, 0, 0, 0, 0, 1_000_000, 999_990, {"late": 10}, 1_000_000)

    drawn = chart(waterfall(events, {}))

    late = next(bar for bar in drawn.bars if bar.step.name == "excluded: late")
    assert late.width > 100
    assert drawn.axis_start > 0, "and the page says that the axis does not start at zero"


def test_the_axis_starts_at_zero_when_the_steps_are_large() -> None:
    assert chart(waterfall(EVENTS, QUARANTINE)).axis_start == 0


def test_a_night_without_any_line_has_a_chart() -> None:
    nothing = EventCounts(0, 0, 0, 0, 0, 0, 0, 0, 0, {}, 0)

    drawn = chart(waterfall(nothing, {}))

    assert [bar.width for bar in drawn.bars] == [0, 0, 0, 0]


def test_the_headline_of_a_whole_night_passes() -> None:
    verdict, sentence = headline(facts())

    assert verdict is Verdict.PASS
    assert sentence == "reconciled: unexplained 0 events; 5 events billed, 3 excluded, 2 lines quarantined"


def test_the_headline_fails_when_a_control_fails() -> None:
    verdict, sentence = headline(facts(replace(EVENTS, usage_event_count=4)))

    assert verdict is Verdict.FAIL
    assert sentence.startswith("not reconciled: 1 of 4 controls failed; unexplained 1 events")


def test_the_headline_of_a_refused_night_says_what_refused_it() -> None:
    rejected = replace(facts().revision, state=RevisionState.REJECTED)

    verdict, sentence = headline(
        facts(revision=rejected, controls=None, decision_reason="check.critical_failed: two\n  detail")
    )

    assert verdict is Verdict.FAIL
    assert sentence.startswith("not reconciled: check.critical_failed: two; 5 events would be billed")


def test_a_failed_critical_check_is_never_under_a_good_headline() -> None:
    failed = CheckResult("usage", "window=2026-01-15", "no_null", "", Severity.CRITICAL, "none", "why", False, "1", 1)

    verdict, _ = headline(facts(checks=CheckReport("2026-01-15", 1, (failed,))))

    assert verdict is Verdict.FAIL


def test_a_failed_warning_leaves_the_headline_good() -> None:
    warned = CheckResult("usage", "window=2026-01-15", "volume", "", Severity.WARNING, "many", "why", False, "1", 1)

    verdict, _ = headline(facts(checks=CheckReport("2026-01-15", 1, (warned,))))

    assert verdict is Verdict.PASS


def test_a_night_that_was_not_reconciled_is_not_called_reconciled() -> None:
    verdict, sentence = headline(facts(controls=None))

    assert verdict is Verdict.FAIL
    assert sentence.startswith("not reconciled: the reconciliation has not run")


def test_failed_controls_stand_first_in_their_group() -> None:
    controls = window_controls(facts().totals)
    broken = replace(controls[-1], scope="z", actual=Decimal(99))

    groups = control_groups([*controls, broken])

    group = next(group for group in groups if group.failed_count)
    assert group.controls[0] == broken


def test_quarantined_bytes_are_shown_without_acting() -> None:
    assert printable(b"\x00\x1b[31m\xff\n") == r"\x00\x1b[31m\xff\n"
    assert printable("a\u202eb".encode()) == r"a\u202eb", "text that turns round what follows it"


def test_a_long_line_is_cut_and_says_so() -> None:
    shown = printable(b"x" * (RAW_SAMPLE_CHARACTERS_MAX + 1))

    assert shown == "x" * RAW_SAMPLE_CHARACTERS_MAX + " […]"
    assert printable(b"x" * RAW_SAMPLE_CHARACTERS_MAX) == "x" * RAW_SAMPLE_CHARACTERS_MAX


def test_a_long_text_of_an_event_is_cut_and_says_so() -> None:
    assert shortened("x" * EVENT_TEXT_CHARACTERS_MAX) == "x" * EVENT_TEXT_CHARACTERS_MAX
    assert shortened("x" * (EVENT_TEXT_CHARACTERS_MAX + 1)) == "x" * (EVENT_TEXT_CHARACTERS_MAX - 1) + "…"
    assert len(shortened("\u202e" * EVENT_TEXT_CHARACTERS_MAX)) == EVENT_TEXT_CHARACTERS_MAX


def test_a_text_of_an_event_is_shown_without_acting() -> None:
    assert shortened("a\u202eb\x1b") == r"a\u202eb\x1b"


def test_the_largest_accounts_are_chosen_within_each_currency() -> None:
    dollars = [AccountAmount("2026-01", "USD", f"a{n:02}", "", 1, Decimal(n)) for n in range(TOP_ACCOUNTS_MAX + 1)]
    euro = AccountAmount("2026-01", "EUR", "e", "", 1, Decimal("0.01"))

    shown = largest_accounts([*dollars, euro])

    assert shown[0] == euro
    assert [account.amount for account in shown[1:]] == [Decimal(n) for n in range(TOP_ACCOUNTS_MAX, 0, -1)]


def test_equal_amounts_stand_in_the_order_of_the_account() -> None:
    accounts = [AccountAmount("2026-01", "USD", name, "", 1, Decimal(1)) for name in ("b", "a")]

    assert [account.account_id for account in largest_accounts(accounts)] == ["a", "b"]
