"""The sections of the report about events and quantities: from lines received to what is billed, and what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from pipeline.core.reason import EXCLUSION_SENTENCES, ExclusionReason, QuarantineReason
from pipeline.core.reconciliation import EventCounts, SkuQuantities
from pipeline.core.report import (
    ExcludedEvent,
    NightFigures,
    QuarantinedLine,
    ReasonCount,
    ReportFacts,
    in_reason_order,
    quarantine_sentence,
)
from pipeline.core.report_charts import Step, StepKind, charts, trend_chart
from pipeline.core.report_model import Badge, Cell, Column, Kind, Row, Section, Table, Tone, exact_figure
from pipeline.core.withdrawal import WITHDRAWAL_FAULT_SENTENCES

SHOWN_MAX = 20


def words(code: str) -> str:
    return code.replace("_", " ")


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def waterfall(counts: EventCounts, quarantine_counts: Mapping[str, int]) -> tuple[Step, ...]:
    """Return the road from the lines received this night to the billed events, one step for each reason that occurs.

    The last level is the number of billed events *as found*; what the steps before it do not explain is a step of its
    own.
    """
    steps: list[Step] = []
    level = counts.night_line_count

    def stand(name: str, meaning: str, link: str = "") -> None:
        steps.append(Step(name, meaning, StepKind.LEVEL, level, level, link))

    def move(name: str, meaning: str, count: int, link: str = "") -> None:
        nonlocal level
        if count:
            level += count
            kind = StepKind.TAKEN if count < 0 else StepKind.ADDED
            steps.append(Step(name, meaning, kind, abs(count), level, link))

    def arrive(name: str, meaning: str, found: int, link: str = "") -> None:
        move("unexplained", "no reason is recorded for these; the reconciliation fails", found - level, "controls")
        stand(name, meaning, link)

    stand("lines received", "records in every object received this night", "objects")
    for reason, count in in_reason_order(quarantine_counts, QuarantineReason):
        move(f"quarantined: {words(reason)}", quarantine_sentence(reason), -count, f"quarantined_{reason}")
    arrive("events received", "lines that could be read as an event", counts.night_event_count, "objects")
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
        meaning = EXCLUSION_SENTENCES[ExclusionReason(reason)]
        move(f"excluded: {words(reason)}", meaning, -count, f"excluded_{reason}")
    arrive("events billed", "billable events, each once", counts.usage_event_count, "quantities")
    return tuple(steps)


def step_rows(steps: Sequence[Step]) -> tuple[Row, ...]:
    """Return the rows of a waterfall's table: step, change, what is left, and what it means."""
    rows = []
    for step in steps:
        tone = Tone.FAIL if step.name == "unexplained" else Tone.SUM if step.change is None else Tone.NONE
        rows.append(Row((step.name, step.change, step.level, step.sentence), tone, step.link))
    return tuple(rows)


def waterfall_section(facts: ReportFacts) -> Section:
    steps = waterfall(facts.totals.events, {group.reason: group.count for group in facts.quarantine})
    table = Table(
        "waterfall",
        "Waterfall of lines and events",
        (
            Column("step", "Step"),
            Column("change", "Change (lines, events)", Kind.NUMBER, is_signed=True),
            Column("left", "Left (lines, events)", Kind.NUMBER),
            Column("meaning", "What it means", is_wide=True),
        ),
        step_rows(steps),
    )
    return Section(
        "waterfall",
        "From lines received to events billed",
        "Every line that arrived this night, and every event of this window, with its reason if it is not billed. "
        "A step leads to the rows behind it.",
        charts=charts("Waterfall from lines received to events billed", "Lines and events", steps),
        tables=(table,),
    )


def quantities_section(facts: ReportFacts) -> Section:
    skus = facts.totals.skus
    reasons = excluded_quantity_reasons(skus)
    columns = [
        Column("sku", "SKU"),
        Column("unit", "Unit"),
        Column("raw_quantity", "Raw quantity", Kind.NUMBER),
        *(Column(reason, f"- {words(reason)}", Kind.NUMBER) for reason in reasons),
        Column(
            "billed_quantity",
            "Billed quantity",
            Kind.NUMBER,
            formula=" - ".join(["{raw_quantity}", *(f"{{{reason}}}" for reason in reasons)]),
        ),
        *([Column("usage_quantity", "In usage", Kind.NUMBER)] if facts.has_usage else []),
        Column("billed_events", "Billed events", Kind.NUMBER),
        Column("unreadable_events", "Events without a readable value", Kind.NUMBER),
    ]
    rows = [
        Row(
            (
                sku.sku,
                sku.unit,
                exact_figure(sku.raw_quantity),
                *(exact_figure(sku.excluded_quantities.get(reason, Decimal(0))) for reason in reasons),
                exact_figure(sku.billed_quantity),
                *([exact_figure(sku.usage_quantity)] if facts.has_usage else []),
                sku.billed_event_count,
                sku.unreadable_count,
            )
        )
        for sku in skus
    ]
    note = "Quantity of every raw event of the window, what each reason takes away, and what is billed."
    table = Table(
        "quantities",
        "Quantities of each SKU",
        tuple(columns),
        tuple(rows),
        empty="No event of this window is counted by a meter.",
    )
    title = "The same in quantities, for each SKU"
    return Section("quantities", title, note if facts.has_usage else f"{note} Usage was not computed.", tables=(table,))


def excluded_quantity_reasons(skus: Sequence[SkuQuantities]) -> list[str]:
    """Return the exclusion reasons that take quantity from any SKU, in the order in which they are decided."""
    occurring = {reason for sku in skus for reason, quantity in sku.excluded_quantities.items() if quantity}
    return [reason.value for reason in ExclusionReason if reason.value in occurring]


def excluded_section(facts: ReportFacts) -> Section:
    days = (facts.outcomes.look_back_seconds if facts.outcomes else 0) // 86_400
    looked = (
        f"the same key in another window is found up to {days:,} days before and after it"
        if days
        else "the same key in another window is not looked for (look-back 0 days)"
    )
    notes = [f"Copies of an event are looked for in the whole window; {looked}."]
    late = facts.totals.events.excluded_counts.get(ExclusionReason.LATE.value, 0)
    if late:
        command = f"billing run --window {facts.revision.window_id} --include-late"
        notes.append(f"{late:,} late: {command} makes a revision that takes them in.")
    summary = Table(
        "excluded_reasons",
        "Excluded events by reason",
        (
            Column("reason", "Reason"),
            Column("events", "Events", Kind.NUMBER, is_summed=True),
            Column("meaning", "What it means", is_wide=True),
        ),
        tuple(
            Row((words(group.reason), group.count, group.sentence), link=f"excluded_{group.reason}")
            for group in facts.excluded
        ),
        empty="Every event of the window is billed.",
        has_sums=True,
    )
    tables = [summary, *(_excluded_samples(group) for group in facts.excluded), *_outcome_tables(facts)]
    return Section("excluded", "Excluded events", " ".join(notes), tables=tuple(tables))


def _excluded_samples(group: ReasonCount) -> Table:
    samples = [sample for sample in group.samples if isinstance(sample, ExcludedEvent)]
    has_winner = any(sample.winner_object_id for sample in samples)
    columns = [
        Column("event", "Event", Kind.CODE, is_wide=True),
        Column("type", "Type"),
        Column("subject", "Subject"),
        Column("used_at", "Used at (UTC)"),
        Column("received_at", "Received at (UTC)"),
        Column("object", "Object", Kind.CODE, is_wide=True),
        Column("line", "Line", Kind.NUMBER),
    ]
    if has_winner:
        columns.append(Column("standing_object", "The copy that stands", Kind.CODE, is_wide=True))
        columns.append(Column("standing_line", "Line", Kind.NUMBER))
    rows = []
    for one in samples:
        cells: list[Cell] = [f"{one.source} {one.id}", one.type, one.subject, one.event_at, one.received_at]
        cells += [one.object_id, one.line_number]
        cells += [one.winner_object_id, one.winner_line_number] if has_winner else []
        rows.append(Row(tuple(cells)))
    return Table(
        f"excluded_{group.reason}",
        f"{group.count:,} {words(group.reason)}: {group.sentence}",
        tuple(columns),
        tuple(rows),
        more=f"and {group.more_count:,} more in excluded_events" if group.more_count else "",
        is_folded=group.reason not in ("conflicting_duplicate", "late"),
    )


def _outcome_tables(facts: ReportFacts) -> list[Table]:
    outcomes = facts.outcomes
    tables = []
    if outcomes and outcomes.fallbacks:
        tables.append(
            Table(
                "fallback_accounts",
                "Usage that no account owns",
                (
                    Column("source", "Source", Kind.CODE, is_wide=True),
                    Column("account", "Billed to"),
                    Column("events", "Events", Kind.NUMBER, is_summed=True),
                ),
                tuple(Row((one.source, one.account_id, one.event_count)) for one in outcomes.fallbacks),
                note="Events billed to a fallback account, as [accounts] of billing.toml says: "
                f"{outcomes.fallback_event_count:,}.",
                has_sums=True,
            )
        )
    place = (Column("object", "Object", Kind.CODE, is_wide=True), Column("line", "Line", Kind.NUMBER))
    if outcomes and outcomes.idle_withdrawals:
        counts = [
            f"{count:,} {words(fault)}: {WITHDRAWAL_FAULT_SENTENCES[fault]}."  # type: ignore[index]
            for fault, count in outcomes.idle_withdrawal_counts.items()
        ]
        tables.append(
            Table(
                "idle_withdrawals",
                "Withdrawals without effect",
                (
                    Column("event", "Event", Kind.CODE, is_wide=True),
                    Column("names", "Names", Kind.CODE),
                    Column("why", "Why"),
                    *place,
                ),
                tuple(
                    Row(
                        (
                            f"{one.source} {one.id}",
                            f"{one.target_source or ''} {one.target_id or ''}".strip(),
                            words(one.fault.value),
                            one.object_id,
                            one.line_number,
                        )
                    )
                    for one in outcomes.idle_withdrawals
                ),
                note=" ".join(counts),
            )
        )
    if outcomes and outcomes.unbilled_replacements:
        counts = [
            f"{count:,} {words(reason)}: {EXCLUSION_SENTENCES[ExclusionReason(reason)]}."
            for reason, count in outcomes.unbilled_replacement_counts.items()
        ]
        tables.append(
            Table(
                "unbilled_replacements",
                "Replacements that are not billed",
                (
                    Column("event", "Event", Kind.CODE, is_wide=True),
                    Column("takes_back", "Takes back", Kind.CODE),
                    Column("why", "Why it is not billed"),
                    *place,
                ),
                tuple(
                    Row(
                        (
                            f"{one.source} {one.id}",
                            f"{one.target_source or ''} {one.target_id or ''}".strip(),
                            words(one.reason),
                            one.object_id,
                            one.line_number,
                        )
                    )
                    for one in outcomes.unbilled_replacements
                ),
                note=" ".join(["Each takes an event back and is not billed in its place.", *counts]),
            )
        )
    return tables


def quarantine_section(facts: ReportFacts) -> Section:
    summary = Table(
        "quarantine_reasons",
        "Quarantined lines by reason",
        (
            Column("reason", "Reason"),
            Column("lines", "Lines", Kind.NUMBER, is_summed=True),
            Column("meaning", "What it means", is_wide=True),
        ),
        tuple(
            Row((words(group.reason), group.count, group.sentence), link=f"quarantined_{group.reason}")
            for group in facts.quarantine
        ),
        empty="Every line received this night could be read as an event.",
        has_sums=True,
    )
    columns = (
        Column("object", "Object", Kind.CODE, is_wide=True),
        Column("line", "Line (0 is the whole object)", Kind.NUMBER),
        Column("message", "Message", is_wide=True),
        Column("read", "What was read", Kind.CODE, is_wide=True),
        Column("bytes", "Size (bytes)", Kind.NUMBER),
    )
    samples = [
        Table(
            f"quarantined_{group.reason}",
            f"{group.count:,} {words(group.reason)}",
            columns,
            tuple(
                Row((one.object_id, one.line_number, one.message, one.raw, one.raw_bytes))
                for one in group.samples
                if isinstance(one, QuarantinedLine)
            ),
            more=f"and {group.more_count:,} more in quarantine" if group.more_count else "",
        )
        for group in facts.quarantine
    ]
    return Section("quarantine", "Quarantined lines", tables=(summary, *samples))


def late_section(facts: ReportFacts) -> Section:
    arrivals = facts.outcomes.late_arrivals if facts.outcomes else ()
    table = Table(
        "late",
        "Late arrivals",
        (
            Column("source", "Source", Kind.CODE, is_wide=True),
            Column("age", "After the cutoff"),
            Column("sku", "SKU"),
            Column("events", "Events", Kind.NUMBER),
            Column("quantity", "Quantity", Kind.NUMBER),
            Column("unit", "Unit"),
        ),
        tuple(
            Row(
                (
                    late.source,
                    late.age,
                    late.sku or "all events",
                    late.event_count,
                    exact_figure(late.quantity) if late.sku and late.quantity is not None else None,
                    late.unit,
                )
            )
            for late in arrivals
        ),
        empty="Nothing of this window had come at or after the cutoff of its first revision.",
    )
    note = "What had come at or after the cutoff of the first revision, by how long after it. " if arrivals else ""
    note += "Events that no SKU counts have only their own row." if arrivals else ""
    return Section("late", "Late arrivals", note, tables=(table,))


TRENDS = {
    "billed_event_count": "Events billed",
    "exact_duplicate_count": "Exact duplicates",
    "conflicting_duplicate_count": "Conflicting duplicates",
    "late_count": "Late events, as far as known",
    "quarantine_count": "Lines quarantined",
}


def trends_section(facts: ReportFacts) -> Section:
    """Return the last windows side by side: how many were billed, came twice, late, or could not be read."""
    nights: list[NightFigures] = [*facts.night.history, facts.night.figures]
    table = Table(
        "trends",
        "The last windows",
        (
            Column("window", "Window"),
            Column("revision", "Revision", Kind.NUMBER),
            Column("line_count", "Lines received", Kind.NUMBER),
            Column("window_event_count", "Events of the window", Kind.NUMBER),
            *(Column(name, title, Kind.NUMBER) for name, title in TRENDS.items()),
        ),
        tuple(
            Row(
                (
                    night.window_id,
                    night.revision,
                    night.line_count,
                    night.window_event_count,
                    *(getattr(night, name) for name in TRENDS),
                )
            )
            for night in nights
        ),
        is_folded=True,
    )
    drawn = [
        trend_chart(title, [(night.window_id, getattr(night, name)) for night in nights])
        for name, title in TRENDS.items()
    ]
    note = (
        f"The last {len(nights):,} windows that have a report, each as its own report had it; the newest is this one."
    )
    return Section("trends", "Duplicates, late events and quarantine over time", note, (), tuple(drawn), (table,))


def completeness_section(facts: ReportFacts) -> Section:
    known = facts.completeness
    tables: list[Table] = []
    note = "What each source had shown was not recorded for this revision."
    if known is not None:
        note = (
            "What each source had shown when this revision was opened. "
            "A source that is not complete is billed only with a recorded exception."
        )
        rows = []
        for source in known.sources:
            missing = source.missing
            verdict = Badge(f"{len(missing):,} missing", Tone.WARN) if missing else Badge("complete", Tone.PASS)
            lines = [f"{one.sentence} (since {one.since:%Y-%m-%d %H:%M:%S} UTC)" for one in missing[:SHOWN_MAX]]
            lines += [f"and {len(missing) - SHOWN_MAX:,} more"] if len(missing) > SHOWN_MAX else []
            shown = source.watermark_at or "nothing is shown yet"
            rows.append(Row((source.contract, verdict, "\n".join(lines), source.evidence_words, shown)))
        tables.append(
            Table(
                "completeness",
                "Completeness of each source",
                (
                    Column("source", "Source"),
                    Column("state", "For this window"),
                    Column("missing", "What is missing", is_wide=True),
                    Column("evidence", "Evidence"),
                    Column("watermark", "Shown to be complete up to (UTC)"),
                ),
                tuple(rows),
                is_stacked=True,
            )
        )
    if facts.night.exceptions:
        rows = []
        for exception in facts.night.exceptions:
            more = len(exception.missing) - SHOWN_MAX
            lines = [*exception.missing[:SHOWN_MAX]]
            lines += [f"and {more:,} more, in the audit log"] if more > 0 else []
            rows.append(Row((exception.contract, "\n".join(lines), exception.reason, exception.at)))
        columns = (
            Column("source", "Source"),
            Column("without", "Closed without", is_wide=True),
            Column("reason", "Reason", is_wide=True),
            Column("at", "Recorded at (UTC)"),
        )
        tables.append(Table("exceptions", "Exceptions", columns, tuple(rows), is_stacked=True))
    if known is not None and known.pending_count:
        pending = (
            Column("object", "Object", Kind.CODE, is_wide=True),
            Column("since", "Since (UTC)"),
            Column("why", "Why", is_wide=True),
        )
        rows = [Row((one.key, one.since, one.message)) for one in known.pending]
        more = known.pending_count - len(rows)
        tables.append(
            Table(
                "pending_objects",
                "Objects that could not be fetched",
                pending,
                tuple(rows),
                more=f"and {more:,} more" if more else "",
            )
        )
    if known is not None and known.unclaimed_count:
        unclaimed = (
            Column("object", "Object", Kind.CODE, is_wide=True),
            Column("why", "Why", is_wide=True),
            Column("bytes", "Size (bytes)", Kind.NUMBER),
            Column("first_seen_at", "First seen at (UTC)"),
        )
        rows = [
            Row(
                (
                    one.key,
                    f"no manifest of {one.contract} lists it" if one.contract else "no contract covers it",
                    one.byte_count,
                    one.first_seen_at,
                )
            )
            for one in known.unclaimed
        ]
        more = known.unclaimed_count - len(rows)
        tables.append(
            Table(
                "unclaimed_objects",
                "Objects that are not collected",
                unclaimed,
                tuple(rows),
                note="No contract covers them, or no manifest of their contract lists them. Nothing of them is billed.",
                more=f"and {more:,} more" if more else "",
            )
        )
    return Section("completeness", "Completeness of each source", note, tables=tuple(tables))
