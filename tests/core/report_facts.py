"""The facts of a night with everything in it: breaks, holds, growth, adjustments, an override, hostile names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from pipeline.core.approval import Decision, Override, SignOff
from pipeline.core.breaks import Break, BreakClass
from pipeline.core.check import CheckReport, CheckResult, Severity
from pipeline.core.hold import Hold
from pipeline.core.manifest import Receipt
from pipeline.core.reconciliation import (
    Control,
    Effect,
    Equation,
    EventCounts,
    PeriodAmount,
    SkuQuantities,
    WindowTotals,
    window_controls,
)
from pipeline.core.report import (
    AccountActivity,
    AccountAmount,
    AccountNight,
    AdjustingDocument,
    AdjustingLine,
    AuditNote,
    Evidence,
    ExcludedEvent,
    KindAmount,
    NightComparison,
    NightFacts,
    NightFigures,
    NightPart,
    QuarantinedLine,
    ReasonCount,
    ReportFacts,
    RevisionChange,
    RevisionComparison,
    exclusion_sentence,
    quarantine_sentence,
)
from pipeline.core.revision import LedgerObject, RevisionState, WindowRevision
from pipeline.core.sli import Indicator, MeasuredWindow, Measurement, ServiceLevelSettings, service_levels

START = datetime(2026, 1, 15, tzinfo=UTC)
AT = START + timedelta(hours=31)
FORMULA_NAME = '=HYPERLINK("http://evil.example","+1")'
EVENTS = EventCounts(10, 2, 8, 0, 0, 1, 1, 8, 5, {"exact_duplicate": 2, "late": 1}, 8)
D = Decimal


MEASURED = (
    Measurement(Indicator.LATE_RATE, 7, 8),
    Measurement(Indicator.RECONCILIATION, 30, 30, {"unexplained_events": Decimal(0)}),
    Measurement(Indicator.AGGREGATION_ACCURACY, 5, 6, {}, "acct-1/requests 12:00: not in usage"),
    Measurement(Indicator.DISPUTE_RATE, 0, 0, {}, "no period is final"),
)
SERVICE_LEVELS = service_levels(
    MeasuredWindow(datetime(2026, 1, 16, tzinfo=UTC), {one.indicator: one for one in MEASURED}),
    [],
    ServiceLevelSettings(),
)


def rich_facts() -> ReportFacts:
    """Return facts in which every section of the report has rows."""
    amounts = (
        PeriodAmount("2026-01", "EUR", 3, 2, D("12.3456789012345678"), D("12.35"), D("-0.0043210987654322")),
        PeriodAmount("2026-01", "JPY", 1, 1, D("1204.4"), D(1204), D("0.4")),
    )
    sku = SkuQuantities(
        "tokens",
        "tokens",
        D("2003048.5"),
        {"late": D(40), "exact_duplicate": D("2007")},
        D("2001001.5"),
        5,
        D("2001001.5"),
        5,
    )
    return ReportFacts(
        service_levels=SERVICE_LEVELS,
        project_name="test",
        legal_entity="Test Ltd",
        revision=WindowRevision(
            "2026-01-15",
            2,
            START,
            START + timedelta(days=1),
            START + timedelta(hours=30),
            "0" * 64,
            {},
            "late events",
            RevisionState.ACCEPTED,
        ),
        decision_reason="",
        totals=WindowTotals((), EVENTS, (sku,), (), (), amounts),
        has_usage=True,
        controls=(),
        quarantine=_quarantine(),
        excluded=_excluded(),
        accounts=(
            AccountAmount("2026-01", "EUR", "acct-7", FORMULA_NAME, 2, D("10.35")),
            AccountAmount("2026-01", "EUR", "acct-8", "Eight <b>", 1, D("2.00")),
            AccountAmount("2026-01", "JPY", "acct-9", "Nine", 1, D(1204)),
        ),
        checks=CheckReport("2026-01-15", 2, (_check(True), _check(False))),
        evidence=Evidence(
            {"Grain": "1:00:00"},
            (Receipt("usage", "window=2026-01-15", 2, "m" * 64, 12, "c" * 64),),
            {"meters.toml": "f" * 64},
            (
                _ledger_object("usage/a.ndjson", 6, 5, 1),
                _ledger_object("usage/b.ndjson", 4, 3, 1),
            ),
        ),
        night=_night(),
    )


def with_controls(facts: ReportFacts, *more: Control) -> ReportFacts:
    """Return the facts with every control of their totals, and some more."""
    return replace(facts, controls=(*window_controls(facts.totals), *more))


def full_facts() -> ReportFacts:
    """Return the rich facts with controls: one that holds an account, and a three-way match that differs."""
    about = ("2026-01/acct-8/tokens", "tokens")
    return with_controls(
        rich_facts(),
        Control(
            Equation.RATED_TWICE,
            "2026-01/acct-8",
            "EUR",
            D("2.00"),
            D("2.01"),
            D(0),
            "1 line differs",
            Effect.HOLD,
            "acct-8",
        ),
        Control(Equation.EXTERNAL_USAGE, *about, D(100), D(99), D(0), "none was agreed", Effect.REPORT),
        Control(Equation.EXTERNAL_LINES, *about, D(100), D(100), D(0), "none was agreed", Effect.REPORT),
    )


def _night() -> NightFacts:
    figures = NightFigures("2026-01-15", 2, 10, 2, 8, 5, 2, 0, 1, ())
    return NightFacts(
        made_at=AT,
        figures=figures,
        history=(replace(figures, window_id="2026-01-14", revision=1, late_count=3),),
        comparison=NightComparison(
            window_id="2026-01-14",
            revision=1,
            parts=(
                NightPart("tokens", "EUR", "usage", "tokens", D(100), D(40), D("5.00"), D("2.00"), period_id="2026-01"),
                NightPart("tokens", "EUR", "terms", "", D(0), D(0), D("-0.50"), D("0.00"), period_id="2026-01"),
                NightPart("tokens", "JPY", "price", "tokens", D(0), D(0), D(4), D(0), period_id="2026-01"),
            ),
            movers=(
                AccountNight("acct-7", "EUR", D("5.00"), D("2.00"), D("-0.50"), D("0.00")),
                AccountNight("acct-8", "EUR", D("0.00"), D("0.00"), D("0.00"), D("99.00")),
            ),
            moved_count=3,
            mover_parts=(
                NightPart("tokens", "EUR", "usage", "tokens", D(100), D(40), D("5.00"), D("2.00"), "acct-7"),
                NightPart("tokens", "EUR", "terms", "", D(0), D(0), D("-0.50"), D("0.00"), "acct-7"),
                NightPart("platform", "EUR", "fees", "", D(0), D(0), D("0.00"), D("99.00"), "acct-8"),
            ),
            windows_looked_at=7,
            new_count=1,
            silent_count=1,
            activity=(AccountActivity("acct-8", "silent", 12), AccountActivity("acct-9", "new", 4)),
        ),
        since_revision=RevisionComparison(
            1,
            causes=("late_events",),
            totals=(RevisionChange("", "tokens", "tokens", D(60), D(100), {"late_events": D(40)}),),
            account_change_count=2,
            accounts=(RevisionChange("acct-7", "tokens", "tokens", D(60), D(100), {"late_events": D(40)}),),
        ),
        kinds=(
            KindAmount(
                "2026-01",
                "tokens",
                "tokens",
                "EUR",
                "usage",
                2,
                D(100),
                D("13.3456789012345678"),
                D("13.35"),
                D("-0.0043210987654322"),
            ),
            KindAmount("2026-01", "tokens", "tokens", "EUR", "discount", 1, D(0), D("-1.00"), D("-1.00"), D(0)),
            KindAmount("2026-01", "tokens", "tokens", "JPY", "usage", 1, D(7), D("1204.4"), D(1204), D("0.4")),
        ),
        holds=(Hold(1, "2026-01", "acct-7", "-disputed", AT, "ana"),),
        adjusting_documents=(
            AdjustingDocument(
                "INV-000002",
                "adjustment",
                "2025-12",
                "acct-7",
                "EUR",
                D("1.19"),
                "INV-000001",
                (AdjustingLine("@tokens", "tokens", D("12.5"), "tokens", D("1.00")),),
                ("window 2025-12-31: revision 2, revision 1 before; 1 event of the account differs",),
            ),
        ),
        decisions=(AuditNote("revision accepted", "the pipeline", AT, "every gate passes"),),
        breaks=(
            Break(
                7,
                "k",
                "external_usage",
                "2026-01/acct-8/tokens",
                "tokens",
                BreakClass.MISSING,
                None,
                "2026-01",
                "acct-8",
                D(100),
                D(99),
                AT - timedelta(days=2),
                "window 2026-01-13 revision 1",
                AT,
                "omar",
                "+asked the provider",
            ),
        ),
        sign_offs=(
            SignOff(1, "2026-01", Decision.APPROVE, "e" * 64, {"net": {"EUR": "12.35"}}, "looks right", AT, "omar"),
        ),
        overrides=(
            Override(
                1, "2026-01-15", 2, ("usage: keys are unique",), "9" * 64, "a test account", AT, "ana", AT, "omar"
            ),
        ),
    )


def _check(success: bool) -> CheckResult:
    severity = Severity.CRITICAL if success else Severity.WARNING
    return CheckResult("usage", "window=2026-01-15", "no_null", "", severity, "none", "why", success, "1", 1, ("=key",))


def _quarantine() -> tuple[ReasonCount, ...]:
    line = QuarantinedLine("usage/a.ndjson", 3, "usage", "malformed_line", "not JSON", '=cmd|"/c calc"!A1', 20)
    return (ReasonCount("malformed_line", quarantine_sentence("malformed_line"), 2, (line,)),)


def _excluded() -> tuple[ReasonCount, ...]:
    event = ExcludedEvent("usage/a.ndjson", 2, "api", "e", "t", "+subject", START, START, "late", None, None)
    copy = replace(event, reason="exact_duplicate", winner_object_id="usage/b.ndjson", winner_line_number=9)
    return (
        ReasonCount("exact_duplicate", exclusion_sentence("exact_duplicate"), 2, (copy,)),
        ReasonCount("late", exclusion_sentence("late"), 1, (event,)),
    )


def _ledger_object(object_id: str, lines: int, events: int, quarantined: int) -> LedgerObject:
    return LedgerObject(object_id, object_id, "v", 100, "s" * 64, "usage", START, lines, events, quarantined)
