"""The part of the report on how well billing works: the service levels of the night and the error budgets."""

from __future__ import annotations

from decimal import Decimal

from pipeline.core.report import ReportFacts
from pipeline.core.report_model import Badge, Column, Kind, Row, Section, Table, Tone
from pipeline.core.sli import INDICATORS, Burn, ServiceLevel

_HUNDREDTH = Decimal("0.01")


def service_levels_section(facts: ReportFacts) -> Section | None:
    """Return the section, or None for a report that was made before the night was measured."""
    if not facts.service_levels:
        return None
    table = Table(
        "service_levels",
        "Service levels",
        (
            Column("indicator", "Indicator"),
            Column("verdict", "Verdict"),
            Column("good_percent", "Good (percent)", Kind.NUMBER),
            Column("target_percent", "Target (percent)", Kind.NUMBER),
            Column("budget_left_percent", "Error budget left (percent)", Kind.NUMBER),
            Column("good", "Good", Kind.NUMBER),
            Column("total", "Of", Kind.NUMBER),
            Column("counted", "Counted", is_wide=True),
            Column("note", "Note", is_wide=True),
        ),
        tuple(_row(level) for level in facts.service_levels),
    )
    missed = [level.title for level in facts.service_levels if level.is_met is False]
    found = f"missed: {', '.join(missed)}" if missed else "every target that was measured is met"
    note = (
        f"{len(facts.service_levels)} indicators as they were measured that night; {found}. "
        "The budget is what the target leaves to be bad over the rolling period."
    )
    return Section("service_levels", "Service levels", note, tables=(table,))


def _row(level: ServiceLevel) -> Row:
    measured, text = level.measurement, INDICATORS[level.indicator]
    share, budget = measured.good_percent, level.budget_left_percent
    return Row(
        (
            level.title,
            _verdict(level),
            None if share is None else share.quantize(_HUNDREDTH),
            level.target_percent,
            None if budget is None else budget.quantize(_HUNDREDTH),
            measured.good_count,
            measured.total_count,
            f"{text.counted}: {text.good}",
            measured.note,
        )
    )


def _verdict(level: ServiceLevel) -> Badge:
    if level.is_met is None:
        return Badge("not measured", Tone.NONE)
    if level.burn is Burn.FAST:
        return Badge("spends its budget fast", Tone.FAIL)
    return Badge("met", Tone.PASS) if level.is_met else Badge("missed", Tone.WARN)
