"""The nightly reconciliation report: every section in the order in which finance reads it.

First whether the night is right and who is held, then what changed and what it comes to, then the controls, and last
the evidence it all rests on. The result is data; pages, workbooks, JSON and Parquet show it and decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.core.approval import SignOff
from pipeline.core.breaks import BreakClass, age_bucket, breaks_by_age
from pipeline.core.check import Severity
from pipeline.core.money import exact
from pipeline.core.reconciliation import EQUATION_SENTENCES, Control, Equation, Verdict, failed_controls
from pipeline.core.report import ReportFacts, headline, held_count
from pipeline.core.report_amounts import (
    adjustments_section,
    amounts_section,
    canary_section,
    changes_section,
    estimates_section,
    holds_section,
    revision_section,
)
from pipeline.core.report_events import (
    completeness_section,
    excluded_section,
    late_section,
    quantities_section,
    quarantine_section,
    trends_section,
    waterfall_section,
)
from pipeline.core.report_model import (
    Badge,
    Cell,
    Column,
    Kind,
    Notice,
    Reference,
    ReportModel,
    Row,
    Section,
    Table,
    TieOut,
    Tone,
    added,
    amount_figure,
    exact_figure,
    number_text,
    referred,
)
from pipeline.core.report_service_levels import service_levels_section

THREE_WAY = (Equation.EXTERNAL_USAGE, Equation.EXTERNAL_LINES, Equation.EXTERNAL_AMOUNT)
OBJECT_ROWS_MAX = 500
TIE_OUTS = "tie_outs"


def report_model(facts: ReportFacts) -> ReportModel:
    """Return the whole report as finished values."""
    verdict, sentence = headline(facts)
    revision = facts.revision
    sections = [
        section
        for section in (
            waterfall_section(facts),
            holds_section(facts),
            breaks_section(facts),
            changes_section(facts),
            revision_section(facts),
            amounts_section(facts),
            adjustments_section(facts),
            estimates_section(facts),
            canary_section(facts),
            three_way_section(facts),
            controls_section(facts),
            checks_section(facts),
            completeness_section(facts),
            quantities_section(facts),
            excluded_section(facts),
            late_section(facts),
            quarantine_section(facts),
            trends_section(facts),
            service_levels_section(facts),
            *evidence_sections(facts),
        )
        if section is not None
    ]
    tables = [table for section in sections for table in section.tables]
    tie_outs = _tie_outs(facts, tables)
    if tie_outs:
        place = next(number for number, section in enumerate(sections) if section.name == "controls")
        tied = (_tie_out_table(tie_outs, tables), *sections[place].tables)
        sections[place] = replace(sections[place], tables=tied)
    return ReportModel(
        project_name=facts.project_name,
        legal_entity=facts.legal_entity,
        window_id=revision.window_id,
        revision=revision.revision,
        verdict=verdict.value,
        sentence=sentence,
        why=facts.decision_reason if verdict is Verdict.FAIL else "",
        notices=_notices(facts),
        facts=_facts(facts),
        sections=tuple(sections),
        tie_outs=tie_outs,
        made_at=_to_the_second(facts.night.made_at),
        footer=(
            f"Window {revision.window_id}, revision {revision.revision}: {revision.reason}. "
            f"Inputs {revision.inputs_hash}."
        ),
    )


def _facts(facts: ReportFacts) -> tuple[tuple[str, str], ...]:
    revision, events = facts.revision, facts.totals.events
    return (
        ("Window (UTC)", revision.window_id),
        ("Revision", f"{revision.revision}, {revision.state.value}"),
        ("Cut off at (UTC)", f"{revision.cutoff_at:%Y-%m-%d %H:%M:%S}"),
        ("Billed events", number_text(events.usage_event_count)),
        ("Held accounts", number_text(held_count(facts))),
        ("Open breaks", number_text(len(facts.night.breaks))),
        *(
            (f"{one.period_id} so far", f"{number_text(amount_figure(one.amount, one.currency))} {one.currency}")
            for one in facts.totals.period_amounts
        ),
    )


def _notices(facts: ReportFacts) -> tuple[Notice, ...]:
    """Return what a reader must not miss: what was closed without evidence, and which gate was overridden."""
    sentences = []
    for exception in facts.night.exceptions:
        more = f" and {len(exception.missing) - 1:,} more" if len(exception.missing) > 1 else ""
        sentences.append(f"{exception.contract} lacked {exception.missing[0]}{more}: “{exception.reason}”")
    notices = [Notice("Closed without full evidence.", tuple(sentences), "completeness")] if sentences else []
    overridden = [
        f"{one.requested_by} asked, {one.approved_by} approved at {one.approved_at:%Y-%m-%d %H:%M:%S} UTC: "
        f"“{one.reason}”; overridden: {'; '.join(one.failures)}"
        for one in facts.night.overrides
        if one.approved_at is not None
    ]
    notices += [Notice("Accepted although a gate failed.", tuple(overridden), "controls")] if overridden else []
    return tuple(notices)


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The controls of one equation, the failed ones first; ``tolerance_reasons`` where something is rounded."""

    equation: str
    sentence: str
    controls: tuple[Control, ...]
    failed_count: int
    tolerance_reasons: tuple[str, ...]


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


CONTROL_COLUMNS = (
    Column("about", "About", Kind.CODE, is_wide=True),
    Column("unit", "Unit"),
    Column("expected", "Expected", Kind.NUMBER),
    Column("actual", "Actual", Kind.NUMBER),
    Column("delta", "Delta", Kind.NUMBER, formula="{actual} - {expected}"),
    Column("tolerance", "Tolerance", Kind.NUMBER),
    Column("verdict", "Verdict", formula='IF(ABS({delta}) <= {tolerance}, "pass", "fail")'),
)


def controls_section(facts: ReportFacts) -> Section:
    """Return every control: a summary by equation, and a table of each equation."""
    if facts.controls is None:
        return Section("controls", "Controls", "The reconciliation has not run for this revision.")
    groups = control_groups(facts.controls)
    summary = Table(
        "controls",
        "Equations",
        (
            Column("equation", "Equation", is_wide=True),
            Column("controls", "Controls", Kind.NUMBER, is_summed=True),
            Column("failed", "Failed", Kind.NUMBER, is_summed=True),
            Column("verdict", "Verdict", formula='IF({failed} = 0, "pass", "fail")'),
            Column("tolerance", "Tolerance", is_wide=True),
        ),
        tuple(
            Row(
                (
                    group.sentence,
                    len(group.controls),
                    group.failed_count,
                    _verdict(Verdict.FAIL if group.failed_count else Verdict.PASS),
                    "\n".join(group.tolerance_reasons) or "zero: nothing is rounded",
                ),
                link=f"control_{group.equation}",
            )
            for group in groups
        ),
        has_sums=True,
    )
    tables = [
        Table(
            f"control_{group.equation}",
            group.sentence,
            CONTROL_COLUMNS,
            tuple(_control_row(control) for control in group.controls),
            is_folded=not group.failed_count,
        )
        for group in groups
    ]
    failed = len(failed_controls(facts.controls))
    note = (
        f"{len(facts.controls):,} controls, {failed:,} failed. Both sides of an equation are counted on independent "
        "paths; delta = actual - expected. The tolerance is zero where nothing is rounded."
    )
    return Section("controls", "Controls", note, tables=(summary, *tables))


def _verdict(verdict: Verdict) -> Badge:
    return Badge(verdict.value, Tone.PASS if verdict is Verdict.PASS else Tone.FAIL)


def _control_row(control: Control) -> Row:
    figures = (control.expected, control.actual, control.delta, control.tolerance)
    cells: tuple[Cell, ...] = (control.scope, control.unit, *(exact_figure(figure) for figure in figures))
    return Row((*cells, _verdict(control.verdict)))


def breaks_section(facts: ReportFacts) -> Section:
    """Return the open breaks by age, oldest first, and each of them with its owner and what was noted."""
    breaks, at = facts.night.breaks, facts.night.made_at
    ages = Table(
        "breaks_by_age",
        "Open breaks by age",
        (
            Column("age", "Age (days)"),
            Column("breaks", "Breaks", Kind.NUMBER, is_summed=True),
            *(Column(one.value, one.value, Kind.NUMBER, is_summed=True) for one in BreakClass),
        ),
        tuple(
            Row((age, len(found), *(sum(one.break_class is kind for one in found) for kind in BreakClass)))
            for age, found in breaks_by_age(breaks, at).items()
            if breaks
        ),
        empty="No break is open.",
        has_sums=True,
    )
    rows = []
    for one in sorted(breaks, key=lambda one: (one.opened_at, one.break_id)):
        figures = (exact_figure(figure) for figure in (one.expected, one.actual, one.delta))
        about = one.window_id or one.period_id
        cells: tuple[Cell, ...] = (one.break_id, one.break_class.value, one.control.replace("_", " "), about, one.scope)
        cells += (one.account_id, one.unit, *figures, age_bucket(one.opened_at, at), one.opened_in)
        rows.append(Row((*cells, one.owner or "nobody", one.note)))
    listed = Table(
        "breaks",
        "Every open break",
        (
            Column("break", "Break", Kind.NUMBER),
            Column("class", "Class"),
            Column("control", "Control"),
            Column("window_or_period", "Window or period"),
            Column("about", "About", Kind.CODE, is_wide=True),
            Column("account", "Account"),
            Column("unit", "Unit"),
            Column("expected", "Expected", Kind.NUMBER),
            Column("actual", "Actual", Kind.NUMBER),
            Column("delta", "Delta", Kind.NUMBER, is_signed=True, formula="{actual} - {expected}"),
            Column("age", "Age (days)"),
            Column("opened_in", "Opened in"),
            Column("owner", "Owner"),
            Column("note", "Note", is_wide=True),
        ),
        tuple(rows),
    )
    note = "A break is a difference that a control found; it is carried from night to night until it is resolved."
    return Section("breaks", "Breaks by age", note, tables=(ages, *([listed] if rows else [])))


def three_way_section(facts: ReportFacts) -> Section:
    """Return external figures beside usage and line items, for each thing that an external report has."""
    rows = []
    known = {(one.control, one.scope, one.unit): one for one in facts.controls or ()}
    keys = sorted({(scope, unit) for equation, scope, unit in known if equation in THREE_WAY})
    for scope, unit in keys:
        usage, lines, amount = (known.get((equation, scope, unit)) for equation in THREE_WAY)
        of_lines = lines or amount
        one = usage or of_lines
        if one is None:
            continue
        figures = (
            exact_figure(one.expected),
            None if usage is None else exact_figure(usage.actual),
            None if of_lines is None else exact_figure(of_lines.actual),
            None if usage is None else exact_figure(usage.delta),
            None if of_lines is None else exact_figure(of_lines.delta),
            exact_figure(one.tolerance),
        )
        found = [control for control in (usage, of_lines) if control is not None]
        failed = any(control.verdict is Verdict.FAIL for control in found)
        verdict = _verdict(Verdict.FAIL if failed else Verdict.PASS)
        classes = dict.fromkeys(control.break_class.value for control in found if control.break_class is not None)
        rows.append(Row((scope, unit, *figures, verdict, ", ".join(classes), one.tolerance_reason)))
    table = Table(
        "three_way",
        "External figures, usage and line items",
        (
            Column("about", "About", Kind.CODE, is_wide=True),
            Column("unit", "Unit"),
            Column("external", "External", Kind.NUMBER),
            Column("usage", "Usage", Kind.NUMBER),
            Column("lines", "Line items", Kind.NUMBER),
            Column("delta_usage", "Usage - external", Kind.NUMBER, is_signed=True),
            Column("delta_lines", "Line items - external", Kind.NUMBER, is_signed=True),
            Column("tolerance", "Tolerance", Kind.NUMBER),
            Column("verdict", "Verdict"),
            Column("class", "Difference"),
            Column("why", "Why this tolerance", is_wide=True),
        ),
        tuple(rows),
        empty="There is no external report to match with.",
    )
    return Section("three_way", "Three-way match", tables=(table,))


def checks_section(facts: ReportFacts) -> Section:
    if facts.checks is None:
        return Section("checks", "Checks", "The checks have not run for this revision.")
    results = facts.checks.results
    rows = []
    for result in sorted(results, key=lambda one: (one.success, one.severity is not Severity.CRITICAL)):
        bad = Tone.FAIL if result.severity is Severity.CRITICAL else Tone.WARN
        state = Badge("met", Tone.PASS) if result.success else Badge("not met", bad)
        found = "\n".join([result.observed, *result.sample_keys])
        rows.append(
            Row((result.dataset, result.scope, result.expected, result.severity.value, state, found, result.why))
        )
    table = Table(
        "checks",
        "Checks",
        (
            Column("dataset", "Dataset"),
            Column("scope", "Rows"),
            Column("expected", "Expected", is_wide=True),
            Column("severity", "Severity"),
            Column("result", "Result"),
            Column("found", "Found"),
            Column("why", "Why it matters", is_wide=True),
        ),
        tuple(rows),
        is_folded=all(result.success for result in results),
    )
    note = (
        f"{len(results):,} expectations, {sum(not result.success for result in results):,} not met. "
        "A critical one stops the night, a warning is reported."
    )
    return Section("checks", "Checks", note, tables=(table,))


def evidence_sections(facts: ReportFacts) -> tuple[Section, Section]:
    """Return what the report was made from, and who decided what and when."""
    evidence = facts.evidence
    parameters = Table(
        "parameters",
        "Parameters",
        (Column("name", "Parameter"), Column("value", "Value", is_wide=True)),
        tuple(Row((name, value)) for name, value in evidence.parameters.items()),
    )
    datasets = Table(
        "datasets",
        "Datasets",
        (
            Column("dataset", "Dataset"),
            Column("scope", "Scope"),
            Column("revision", "Revision", Kind.NUMBER),
            Column("rows", "Rows", Kind.NUMBER),
            Column("content_hash", "Content hash", Kind.CODE, is_wide=True),
            Column("manifest", "Manifest (SHA-256)", Kind.CODE, is_wide=True),
        ),
        tuple(
            Row((one.dataset, one.scope, one.revision, one.row_count, one.content_hash, one.manifest_hash))
            for one in evidence.receipts
        ),
    )
    columns = (
        Column("object", "Object", Kind.CODE, is_wide=True),
        Column("contract", "Contract"),
        Column("received_at", "Received at (UTC)"),
        Column("bytes", "Size (bytes)", Kind.NUMBER, is_summed=True),
        Column("lines", "Lines", Kind.NUMBER, is_summed=True),
        Column("events", "Events", Kind.NUMBER, is_summed=True),
        Column("quarantined", "Quarantined", Kind.NUMBER, is_summed=True),
        Column("sha256", "SHA-256", Kind.CODE),
    )
    rows = tuple(
        Row(
            (
                one.object_id,
                one.contract,
                one.received_at,
                one.byte_count,
                one.line_count,
                one.raw_event_count,
                one.quarantine_count,
                one.sha256,
            )
        )
        for one in evidence.objects
    )
    more = len(rows) - OBJECT_ROWS_MAX
    objects = Table(
        "objects",
        "Objects received this night",
        columns,
        rows[:OBJECT_ROWS_MAX],
        empty="No object was received this night.",
        more=f"and {more:,} more in the object ledger" if more > 0 else "",
        has_sums=more <= 0,
    )
    pins = Table(
        "pins",
        "Pinned inputs",
        (Column("name", "Input", Kind.CODE), Column("value", "SHA-256 or value", Kind.CODE, is_wide=True)),
        tuple(Row((name, value)) for name, value in evidence.pins.items()),
        is_folded=True,
    )
    note = "What this report was made from. The same revision makes the same report, to the byte."
    decisions = Table(
        "decisions",
        "Who decided",
        (
            Column("what", "What"),
            Column("by", "By"),
            Column("at", "At (UTC)"),
            Column("why", "Why", is_wide=True),
        ),
        tuple(Row((one.what, one.by, _to_the_second(one.at), one.why)) for one in facts.night.decisions),
        empty="Nobody has decided anything about this revision.",
        note="From the audit log of the control plane, as it was when this report was made.",
    )
    signed = Table(
        "sign_offs",
        "Sign-off of the period",
        (
            Column("period", "Period"),
            Column("decision", "Decision"),
            Column("by", "By"),
            Column("at", "At (UTC)"),
            Column("reason", "Reason", is_wide=True),
            Column("net", "Net amounts signed", is_wide=True),
            Column("figures", "Figures (SHA-256)", Kind.CODE),
        ),
        tuple(
            Row(
                (
                    one.period_id,
                    one.decision.value,
                    one.signed_by,
                    _to_the_second(one.signed_at),
                    one.reason,
                    _net(one),
                    one.content_hash,
                )
            )
            for one in facts.night.sign_offs
        ),
        empty="No period of this window was signed off when this report was made.",
        is_stacked=True,
    )
    return (
        Section("evidence", "Evidence", note, tables=(parameters, datasets, objects, pins)),
        Section("sign_off", "Sign-off", tables=(signed, decisions)),
    )


def _to_the_second(at: datetime) -> datetime:
    """Return when a person or the pipeline did something as people read it; the audit log has the microsecond."""
    return at.replace(microsecond=0)


def _net(sign_off: SignOff) -> str:
    return "\n".join(f"{amount} {currency}" for currency, amount in sorted(sign_off.figures["net"].items()))


def _tie_outs(facts: ReportFacts, tables: Sequence[Table]) -> tuple[TieOut, ...]:
    """Return the sums that have to be equal and are made of different tables of the report."""

    def level(step: str, sign: int = 1) -> Reference:
        return Reference("waterfall", "left", (("step", step),), sign)

    found = [
        TieOut(
            "events of the window - events billed = excluded events",
            "events",
            (level("events of the window"), level("events billed", -1)),
            Reference("excluded_reasons", "events"),
        ),
        TieOut(
            "lines received - events received = quarantined lines",
            "lines",
            (level("lines received"), level("events received", -1)),
            Reference("quarantine_reasons", "lines"),
        ),
    ]
    if len(facts.evidence.objects) <= OBJECT_ROWS_MAX:
        found.append(
            TieOut(
                "lines received = lines of the objects",
                "lines",
                (level("lines received"),),
                Reference("objects", "lines"),
            )
        )
    for currency in sorted({one.currency for one in facts.totals.period_amounts}):
        where = (("currency", currency),)
        amounts = (Reference("amounts", "amount", where),)
        for table, parts in (("accounts", "all accounts"), ("revenue", "all SKUs")):
            found.append(TieOut(f"drafts = {parts}", currency, amounts, Reference(table, "amount", where)))
    return tuple(found)


def _tie_out_table(tie_outs: Sequence[TieOut], tables: Sequence[Table]) -> Table:
    rows = []
    for one in tie_outs:
        left = added(referred(tables, reference) for reference in one.left)
        right = referred(tables, one.right)
        with exact():
            difference = left - right
        verdict = Verdict.FAIL if difference else Verdict.PASS
        rows.append(Row((one.sentence, one.unit, left, right, difference, _verdict(verdict))))
    return Table(
        TIE_OUTS,
        "Tie-out of this report",
        (
            Column("sums", "Sums", is_wide=True),
            Column("unit", "Unit"),
            Column("left", "One side", Kind.NUMBER),
            Column("right", "Other side", Kind.NUMBER),
            Column("difference", "Difference", Kind.NUMBER, formula="{left} - {right}"),
            Column("verdict", "Verdict", formula='IF({difference} = 0, "pass", "fail")'),
        ),
        tuple(rows),
        note="Each side adds up another table of this report; in the workbook both are formulas.",
    )
