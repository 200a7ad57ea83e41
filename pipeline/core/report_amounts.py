"""The sections of the report about money: what changed, what each period comes to, who is held, what was adjusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from pipeline.core.canary import canary_view
from pipeline.core.line_item import LineKind
from pipeline.core.money import exact
from pipeline.core.price_comparison import AmountChange
from pipeline.core.report import (
    TOP_ACCOUNTS_MAX,
    AccountAmount,
    AccountNight,
    NightPart,
    ReportFacts,
    RevisionChange,
    held_accounts,
)
from pipeline.core.report_charts import Chart, Step, StepKind, charts
from pipeline.core.report_events import step_rows, words
from pipeline.core.report_model import (
    Badge,
    Cell,
    Column,
    Kind,
    Row,
    Section,
    Table,
    Tone,
    added,
    amount_figure,
    exact_figure,
    number_text,
)

CHARTS_MAX = 4
PLAIN_ROAD = 3  # steps of a road that has nothing but prices, rounding and line items: no chart

CAUSES = {
    "usage": ("usage of this window", "units that this window adds, at unchanged prices"),
    "other_windows": ("other windows, counted again", "late or mended usage of earlier windows of the period"),
    "price": ("prices", "lines whose unit price is not what it was in the draft before"),
    "terms": ("discounts, maximums, overage", "lines that are no price of usage and follow it"),
    "fees": (
        "fees, minimums, commitments",
        "lines that a period has whatever is used: booked once, and less of them as usage grows",
    ),
}

KIND_WORDS = {
    LineKind.USAGE.value: "price of the usage",
    LineKind.INCLUDED.value: "included units",
    LineKind.FLAT_FEE.value: "flat fees",
    LineKind.DISCOUNT.value: "discounts of charges",
    LineKind.MAXIMUM.value: "taken off by maximums",
    LineKind.MINIMUM.value: "added to minimums",
    LineKind.PLAN_DISCOUNT.value: "discounts of plans",
    LineKind.COMMITMENT.value: "added to commitments",
    LineKind.OVERAGE.value: "overage beyond commitments",
}


def holds_section(facts: ReportFacts) -> Section:
    """Return the accounts that get no document, whoever or whatever holds them, with what they come to."""
    rows: list[tuple[Cell, ...]] = []
    names = {one.account_id: one.name for one in facts.accounts}
    drafts: dict[tuple[str, str], list[AccountAmount]] = {}
    for one in facts.accounts:
        drafts.setdefault((one.period_id, one.account_id), []).append(one)
    for held, reason in held_accounts(facts).items():
        said = (*held, names.get(held[1], ""), reason)
        rows += [(*said, amount_figure(one.amount, one.currency), one.currency) for one in drafts.get(held, [])]
        rows += [] if held in drafts else [(*said, None, "")]
    table = Table(
        "holds",
        "Held accounts",
        (
            Column("period", "Period"),
            Column("account", "Account"),
            Column("name", "Name"),
            Column("reason", "Reason", is_wide=True),
            Column("amount", "Amount so far", Kind.NUMBER),
            Column("currency", "Currency"),
        ),
        tuple(Row(row) for row in rows),
        empty="No account is held.",
        is_stacked=True,
    )
    note = (
        "They get no document of the period until somebody releases them; all others are billed. A final period stands "
        "here for as long as somebody is held in it; an amount is that of a draft of this window."
    )
    return Section("holds", "Held accounts", note, tables=(table,))


def changes_section(facts: ReportFacts) -> Section:
    """Return what the night added to the drafts beside the night before: by cause, by account, and who is new."""
    compared = facts.night.comparison
    title = "What changed since the window before"
    if compared.problem:
        return Section("changes", title, compared.problem)
    note = (
        f"What this window added to the drafts, beside what {compared.window_id} (revision {compared.revision}) added. "
        "Each line differs for one cause, so the causes add up to the cent."
    )
    cause_rows = []
    for currency, cause in sorted({(part.currency, part.cause) for part in compared.parts}, key=_cause_order):
        parts = [part for part in compared.parts if (part.currency, part.cause) == (currency, cause)]
        name, meaning = CAUSES[cause]
        cause_rows.append(Row((currency, name, *_two_nights(parts, currency), meaning)))
    tables = [
        Table(
            "causes",
            "By cause",
            (
                Column("currency", "Currency"),
                Column("cause", "Cause"),
                *_NIGHT_COLUMNS,
                Column("meaning", "What it means", is_wide=True),
            ),
            tuple(cause_rows),
            empty="Neither night changed a draft.",
            sums_by="currency",
            has_sums=True,
        ),
        *_mover_tables(facts),
    ]
    names = {account.account_id: account.name for account in facts.accounts}
    shown = len(compared.activity)
    more = compared.new_count + compared.silent_count - shown
    tables.append(
        Table(
            "activity",
            f"{compared.new_count:,} new and {compared.silent_count:,} silent accounts",
            (
                Column("account", "Account"),
                Column("name", "Name"),
                Column("state", "State"),
                Column("events", "Events", Kind.NUMBER),
            ),
            tuple(
                Row((one.account_id, names.get(one.account_id, ""), one.state, one.event_count))
                for one in compared.activity
            ),
            note=f"New: used something now and nothing in the {compared.windows_looked_at:,} "
            f"window{'s'[: compared.windows_looked_at != 1]} before. Silent: used something in the window before and "
            "nothing now; the events are those of the window before.",
            empty="No account is new or silent.",
            more=f"and {more:,} more" if more else "",
        )
    )
    return Section("changes", title, note, charts=tuple(_night_charts(facts)), tables=tuple(tables))


def _night_charts(facts: ReportFacts) -> list[Chart]:
    """Return for each draft the road from what it came to before this night to what it comes to now."""
    drawn: list[Chart] = []
    for draft in facts.totals.period_amounts[:CHARTS_MAX]:
        period_id, currency = draft.period_id, draft.currency
        parts = [one for one in facts.night.comparison.parts if (one.period_id, one.currency) == (period_id, currency)]
        moved: list[tuple[tuple[str, str], Decimal | int]] = [
            (CAUSES[cause], added(one.amount for one in parts if one.cause == cause)) for cause in CAUSES
        ]
        with exact():
            added_now: Decimal = sum((Decimal(change) for _, change in moved), Decimal(0))
            level = amount_figure(draft.amount - added_now, currency)
            steps = [Step("before this night", "what the draft came to", StepKind.LEVEL, level, level)]
            for (name, meaning), change in moved:
                if change:
                    level = amount_figure(level + Decimal(change), currency)
                    moved_by = StepKind.TAKEN if change < 0 else StepKind.ADDED
                    steps.append(
                        Step(name, meaning, moved_by, amount_figure(abs(Decimal(change)), currency), level, "causes")
                    )
        steps.append(Step("so far", "what the draft comes to now", StepKind.LEVEL, level, level, "amounts"))
        drawn += charts(f"What this night added to the draft of {period_id} in {currency}", currency, steps)
    return drawn


_NIGHT_COLUMNS = (
    Column("amount", "This night", Kind.NUMBER, is_summed=True),
    Column("amount_before", "Night before", Kind.NUMBER, is_summed=True),
    Column("change", "Change", Kind.NUMBER, is_signed=True, is_summed=True, formula="{amount} - {amount_before}"),
)


def _cause_order(pair: tuple[str, str]) -> tuple[str, int]:
    return pair[0], list(CAUSES).index(pair[1])


def _two_nights(parts: Sequence[NightPart], currency: str) -> tuple[Decimal, Decimal, Decimal]:
    with exact():
        now = sum((part.amount for part in parts), Decimal(0))
        before = sum((part.amount_before for part in parts), Decimal(0))
        return amount_figure(now, currency), amount_figure(before, currency), amount_figure(now - before, currency)


def _mover_tables(facts: ReportFacts) -> tuple[Table, ...]:
    """Return the accounts whose usage changed most with what did it, and in the files every account that changed."""
    compared = facts.night.comparison
    parts: dict[tuple[str, str], list[NightPart]] = {}
    for part in compared.mover_parts:
        parts.setdefault((part.account_id, part.currency), []).append(part)
    names = {account.account_id: account.name for account in facts.accounts}
    largest: dict[str, list[AccountNight]] = {}
    for one in compared.movers:
        if one.amount != one.amount_before:
            largest.setdefault(one.currency, []).append(one)
    shown = [one for _, ones in sorted(largest.items()) for one in ones[:TOP_ACCOUNTS_MAX]]
    tables = []
    for prefix, movers, link in (("", shown, "mover_parts"), ("all_", compared.movers, "")):
        rows = []
        for one in movers:
            with exact():
                change = one.amount - one.amount_before
                terms_change = one.terms_amount - one.terms_amount_before
            amounts = (one.amount, one.amount_before, change, terms_change)
            figures = (amount_figure(amount, one.currency) for amount in amounts)
            mostly = _mostly(one, parts.get((one.account_id, one.currency), []))
            cells: tuple[Cell, ...] = (one.account_id, names.get(one.account_id, ""), one.currency, *figures, mostly)
            rows.append(Row(cells, link=link))
        more = compared.moved_count - len(compared.movers) if prefix else 0
        tables += [
            Table(
                f"{prefix}movers",
                "Every account that changed" if prefix else "Accounts whose usage changed most",
                (
                    Column("account", "Account"),
                    Column("name", "Name"),
                    Column("currency", "Currency"),
                    *_NIGHT_COLUMNS,
                    Column("terms_change", "Change of fees and terms", Kind.NUMBER, is_signed=True),
                    Column("mostly", "Mostly because", is_wide=True),
                ),
                tuple(rows),
                note="Amounts are prices of usage; fees and other terms stand apart. Every account that changed is in "
                "the workbook, JSON and Parquet: all_movers and all_mover_parts.",
                empty="No account used for more or less than the night before.",
                more=f"and {more:,} more that changed less" if more else "",
                is_detail=bool(prefix),
            ),
            Table(
                f"{prefix}mover_parts",
                "Why every account changed: SKU and cause" if prefix else "Why they changed: SKU and cause",
                (
                    Column("account", "Account"),
                    Column("sku", "SKU"),
                    Column("cause", "Cause"),
                    Column("unit", "Unit"),
                    Column("quantity", "Quantity this night", Kind.NUMBER),
                    Column("quantity_before", "Quantity night before", Kind.NUMBER),
                    Column("quantity_change", "Change of quantity", Kind.NUMBER, is_signed=True),
                    Column("currency", "Currency"),
                    *_NIGHT_COLUMNS,
                ),
                tuple(_part_row(part) for one in movers for part in parts.get((one.account_id, one.currency), [])),
                is_folded=True,
                is_detail=bool(prefix),
            ),
        ]
    return tuple(tables)


def _mostly(mover: AccountNight, parts: Sequence[NightPart]) -> str:
    """Say which SKU and cause changed the usage lines of an account most, in the direction in which they changed.

    Of an account whose usage lines did not change it is what changed its fees and terms.
    """
    with exact():
        change, of_terms = mover.amount - mover.amount_before, ("fees", "terms")
        is_of_usage = change != 0
        is_up = (change if is_of_usage else mover.terms_amount - mover.terms_amount_before) > 0
        changes = [(part.amount - part.amount_before, part) for part in parts]
        sized = [(one if is_up else -one, part) for one, part in changes if (part.cause not in of_terms) is is_of_usage]
        if not sized:
            return ""
        size, part = max(sized, key=lambda one: one[0])
        quantity = part.quantity - part.quantity_before
        amount = amount_figure(size if is_up else -size, mover.currency)
    units = f", {number_text(exact_figure(quantity), is_signed=True)} {part.unit}" if part.unit and quantity else ""
    return f"{part.sku}: {number_text(amount, is_signed=True)} {mover.currency}{units}; {CAUSES[part.cause][0]}"


def _part_row(part: NightPart) -> Row:
    with exact():
        quantity_change = part.quantity - part.quantity_before
    quantities: tuple[Cell, ...] = (None, None, None)
    if part.unit:
        quantities = tuple(exact_figure(one) for one in (part.quantity, part.quantity_before, quantity_change))
    name = CAUSES[part.cause][0]
    amounts = _two_nights([part], part.currency)
    return Row((part.account_id, part.sku, name, part.unit, *quantities, part.currency, *amounts))


def revision_section(facts: ReportFacts) -> Section | None:
    """Return what changed since the revision before, if there was one."""
    compared = facts.night.since_revision
    if compared is None:
        return None
    title = f"What changed since revision {compared.revision_from}"
    if compared.problem:
        return Section("revision_changes", title, compared.problem)
    columns = (
        Column("unit", "Unit"),
        Column("quantity_from", f"Revision {compared.revision_from}", Kind.NUMBER),
        Column("quantity_to", f"Revision {facts.revision.revision}", Kind.NUMBER),
        *(Column(cause, words(cause.removeprefix("other:")), Kind.NUMBER, is_signed=True) for cause in compared.causes),
    )

    def cells(one: RevisionChange) -> tuple[Cell, ...]:
        parts = (one.parts.get(cause, Decimal(0)) for cause in compared.causes)
        return one.sku, one.unit, *(exact_figure(figure) for figure in (one.quantity_from, one.quantity_to, *parts))

    totals = tuple(Row(cells(one)) for one in compared.totals)
    accounts = tuple(Row((one.account_id, *cells(one))) for one in compared.accounts)
    more = compared.account_change_count - len(accounts)
    tables = (
        Table(
            "revision_skus",
            "Quantities by SKU and cause",
            (Column("sku", "SKU"), *columns),
            totals,
            empty="No quantity changed.",
        ),
        Table(
            "revision_accounts",
            "Accounts that changed",
            (Column("account", "Account"), Column("sku", "SKU"), *columns),
            accounts,
            empty="No account changed.",
            more=f"and {more:,} more; billing diff shows all of them" if more else "",
            is_folded=True,
        ),
    )
    return Section("revision_changes", title, "The parts of each change add up to it.", tables=tables)


def amounts_section(facts: ReportFacts) -> Section:
    """Return what each period comes to so far: the road from prices to line items, revenue by SKU, the accounts."""
    amounts = facts.totals.period_amounts
    summary = Table(
        "amounts",
        "Amounts of the drafts",
        (
            Column("period", "Period"),
            Column("currency", "Currency"),
            Column("accounts", "Accounts", Kind.NUMBER),
            Column("line_items", "Line items", Kind.NUMBER),
            Column("amount_exact", "Exact amount", Kind.NUMBER),
            Column("amount", "Rounded amount", Kind.NUMBER, is_summed=True),
            Column("residual", "Residual", Kind.NUMBER, formula="{amount_exact} - {amount}"),
        ),
        tuple(
            Row(
                (
                    one.period_id,
                    one.currency,
                    one.account_count,
                    one.line_item_count,
                    exact_figure(one.amount_exact, one.currency),
                    amount_figure(one.amount, one.currency),
                    exact_figure(one.residual),
                )
            )
            for one in amounts
        ),
        empty="There is no draft with this revision.",
        sums_by="currency",
    )
    if not amounts:
        return Section("amounts", "Amounts so far", tables=(summary,))
    roads = [(one.period_id, one.currency, _road(facts, one.period_id, one.currency)) for one in amounts]
    drawn: list[Chart] = []
    for period_id, currency, steps in [road for road in roads if len(road[2]) > PLAIN_ROAD][:CHARTS_MAX]:
        drawn += charts(f"{period_id} in {currency}: from prices to line items", currency, steps)
    money = Table(
        "money",
        "From prices to line items",
        (
            Column("period", "Period"),
            Column("currency", "Currency"),
            Column("step", "Step"),
            Column("change", "Change", Kind.NUMBER, is_signed=True),
            Column("left", "Left", Kind.NUMBER),
            Column("meaning", "What it means", is_wide=True),
        ),
        tuple(
            Row((period_id, currency, *row.cells), row.tone, row.link)
            for period_id, currency, steps in roads
            for row in step_rows(steps)
        ),
        is_folded=True,
    )
    note = (
        "The drafts of each period that this window touches. Each line item is rounded once; the residual is what "
        "rounding took (+) or gave (-)."
    )
    return Section(
        "amounts",
        "Amounts so far",
        note,
        charts=tuple(drawn),
        tables=(summary, money, _revenue(facts), *_account_tables(facts)),
    )


def _road(facts: ReportFacts, period_id: str, currency: str) -> list[Step]:
    """Return the steps from the price of the usage to the line items, and what of them is held."""
    kinds = [one for one in facts.night.kinds if (one.period_id, one.currency) == (period_id, currency)]
    steps: list[Step] = []
    level = Decimal(0)
    with exact():
        for kind, name in KIND_WORDS.items():
            part = sum((one.amount_exact for one in kinds if one.kind == kind), Decimal(0))
            level += part
            if not steps:
                steps.append(Step(name, "units at their prices, exact", StepKind.LEVEL, part, part, "revenue"))
            elif part:
                moved = StepKind.TAKEN if part < 0 else StepKind.ADDED
                steps.append(Step(name, f"exact, {kind} lines", moved, abs(part), level, "revenue"))
        residual = sum((one.residual for one in kinds), Decimal(0))
        if residual:
            level -= residual
            moved = StepKind.TAKEN if residual > 0 else StepKind.ADDED
            steps.append(
                Step("rounding", "each line is rounded once; the residual is kept", moved, abs(residual), level)
            )
        steps.append(Step("line items", "what the invoices of the period would be", StepKind.LEVEL, level, level))
        held_ids = held_accounts(facts)
        held = sum(
            (
                one.amount
                for one in facts.accounts
                if one.currency == currency and one.period_id == period_id and (period_id, one.account_id) in held_ids
            ),
            Decimal(0),
        )
        if held:
            level -= held
            moved = StepKind.TAKEN if held > 0 else StepKind.ADDED
            steps.append(Step("held", "accounts that get no document until released", moved, abs(held), level, "holds"))
            steps.append(Step("to be invoiced", "line items of accounts not held", StepKind.LEVEL, level, level))
    return [
        Step(
            step.name,
            step.sentence,
            step.kind,
            exact_figure(step.count, currency),
            exact_figure(step.level, currency),
            step.link,
        )
        for step in steps
    ]


def _revenue(facts: ReportFacts) -> Table:
    """Return what each SKU brings so far and brought this night; quantities of usage, amounts of every line."""
    nights = facts.night.comparison.parts
    rows = []
    for period_id, currency, sku in sorted({(one.period_id, one.currency, one.sku) for one in facts.night.kinds}):
        kinds = [
            one for one in facts.night.kinds if (one.period_id, one.currency, one.sku) == (period_id, currency, sku)
        ]
        usage = [one for one in kinds if one.kind in (LineKind.USAGE.value, LineKind.INCLUDED.value)]
        units = sorted({one.unit for one in usage})
        quantity = added(one.quantity for one in usage) if len(units) == 1 else None
        key = (period_id, currency, sku)
        of_night = [one for one in nights if (one.period_id, one.currency, one.sku) == key]
        rows.append(
            Row(
                (
                    period_id,
                    currency,
                    sku,
                    None if quantity is None else exact_figure(quantity),
                    units[0] if len(units) == 1 else "",
                    added(one.line_item_count for one in kinds),
                    amount_figure(added(one.amount for one in kinds), currency),
                    amount_figure(added(one.amount for one in of_night), currency),
                )
            )
        )
    columns = (
        Column("period", "Period"),
        Column("currency", "Currency"),
        Column("sku", "SKU"),
        Column("quantity", "Quantity so far", Kind.NUMBER),
        Column("unit", "Unit"),
        Column("line_items", "Line items", Kind.NUMBER),
        Column("amount", "Amount so far", Kind.NUMBER, is_summed=True),
        Column("amount_night", "of it this night", Kind.NUMBER, is_summed=True),
    )
    return Table("revenue", "Revenue by SKU", columns, tuple(rows), sums_by="currency", has_sums=True)


def largest_accounts(accounts: Sequence[AccountAmount]) -> tuple[AccountAmount, ...]:
    """Return the accounts with the largest amounts of each period and currency; equal amounts in order of account."""
    by_draft: dict[tuple[str, str], list[AccountAmount]] = {}
    for account in sorted(accounts, key=lambda account: (account.amount.copy_negate(), account.account_id)):
        by_draft.setdefault((account.period_id, account.currency), []).append(account)
    return tuple(account for _, largest in sorted(by_draft.items()) for account in largest[:TOP_ACCOUNTS_MAX])


def _account_tables(facts: ReportFacts) -> tuple[Table, Table]:
    columns = (
        Column("period", "Period"),
        Column("account", "Account"),
        Column("name", "Name"),
        Column("line_items", "Line items", Kind.NUMBER),
        Column("amount", "Amount so far", Kind.NUMBER, is_summed=True),
        Column("currency", "Currency"),
    )

    def rows(accounts: Iterable[AccountAmount]) -> tuple[Row, ...]:
        return tuple(
            Row(
                (
                    one.period_id,
                    one.account_id,
                    one.name,
                    one.line_item_count,
                    amount_figure(one.amount, one.currency),
                    one.currency,
                )
            )
            for one in accounts
        )

    largest = Table("largest_accounts", "Largest accounts", columns, rows(largest_accounts(facts.accounts)))
    everyone = Table(
        "accounts",
        "All accounts",
        columns,
        rows(facts.accounts),
        sums_by="currency",
        has_sums=True,
        is_detail=True,
    )
    return largest, everyone


def adjustments_section(facts: ReportFacts) -> Section:
    """Return the documents that settled earlier periods since the report of the window before."""
    documents = facts.night.adjusting_documents
    note = "Documents issued since the report of the window before that settle a period which was final already."
    summary = Table(
        "adjustments",
        "Adjusting documents",
        (
            Column("number", "Document"),
            Column("kind", "Kind"),
            Column("corrects", "Corrects"),
            Column("period", "Period"),
            Column("account", "Account"),
            Column("total", "Total with taxes", Kind.NUMBER, is_signed=True, is_summed=True),
            Column("currency", "Currency"),
            Column("causes", "Why", is_wide=True),
        ),
        tuple(
            Row(
                (
                    one.number,
                    words(one.kind),
                    one.corrects,
                    one.period_id,
                    one.account_id,
                    amount_figure(one.total, one.currency),
                    one.currency,
                    "\n".join(one.causes),
                ),
                link="adjustment_lines",
            )
            for one in documents
        ),
        empty="No earlier period was adjusted.",
        sums_by="currency",
        has_sums=True,
        is_stacked=True,
    )
    lines = Table(
        "adjustment_lines",
        "Their lines",
        (
            Column("number", "Document"),
            Column("line", "Line"),
            Column("sku", "SKU"),
            Column("quantity", "Quantity", Kind.NUMBER, is_signed=True),
            Column("unit", "Unit"),
            Column("amount", "Amount", Kind.NUMBER, is_signed=True, is_summed=True),
            Column("currency", "Currency"),
        ),
        tuple(
            Row(
                (
                    one.number,
                    line.description,
                    line.sku,
                    exact_figure(line.quantity),
                    line.unit,
                    amount_figure(line.amount, one.currency),
                    one.currency,
                )
            )
            for one in documents
            for line in one.lines
        ),
        sums_by="currency",
        has_sums=True,
    )
    return Section(
        "adjustments", "Adjustments of earlier periods", note, tables=(summary, *([lines] if documents else []))
    )


def estimates_section(facts: ReportFacts) -> Section | None:
    if facts.estimates is None:
        return None
    note = (
        "What the whole period is expected to come to: the usage of the last days goes on to its end and is rated at "
        "each account's terms; low and high are the lowest and the highest of these days. An estimate, nothing is "
        "billed by it."
    )

    def figure(amount: Decimal | None, currency: str) -> Decimal | None:
        return None if amount is None else amount_figure(amount, currency)

    amounts = ("amount_to_date", "forecast_amount", "low_amount", "high_amount")
    titles = ("Amount to date", "Forecast", "Low", "High")
    columns = tuple(Column(name, title, Kind.NUMBER) for name, title in zip(amounts, titles, strict=True))
    totals = Table(
        "estimates",
        "Estimate of the month",
        (
            Column("period", "Period"),
            Column("currency", "Currency"),
            Column("accounts", "Accounts", Kind.NUMBER),
            *columns,
            Column("problems", "Without forecast", Kind.NUMBER),
        ),
        tuple(
            Row(
                (
                    row["period_id"],
                    row["currency"],
                    row["account_count"],
                    *(figure(row[name], row["currency"]) for name in amounts),
                    row["problem_count"],
                )
            )
            for row in facts.estimates.totals
        ),
    )
    accounts = Table(
        "largest_estimates",
        "Largest forecasts",
        (
            Column("period", "Period"),
            Column("account", "Account"),
            Column("days_known", "Days known", Kind.NUMBER),
            Column("days", "of days", Kind.NUMBER),
            *columns,
            Column("currency", "Currency"),
        ),
        tuple(
            Row(
                (
                    row["period_id"],
                    row["account_id"],
                    row["days_known"],
                    row["days"],
                    *(figure(row[name], row["currency"]) for name in amounts),
                    row["currency"],
                )
            )
            for row in facts.estimates.accounts
        ),
        empty="No account has a forecast.",
    )
    return Section("estimates", "Estimate of the month", note, tables=(totals, accounts))


def canary_section(facts: ReportFacts) -> Section | None:
    if facts.canary is None:
        return None
    canary = canary_view(facts.canary)
    note = (
        f"{canary['version']} rated {canary['account_count']:,} of {canary['all_account_count']:,} accounts "
        f"({canary['percent']:f} %, the same every night) in the shadow, as if it were in force: now is the live book, "
        "then the canary. Nothing is issued from it."
    )
    skus: list[Row] = []
    accounts: list[Row] = []
    problems: list[Row] = []
    for period in canary["periods"]:
        period_id = period["period_id"]
        problems += [Row((period_id, Badge("not rated", Tone.WARN), problem)) for problem in period["problems"]]
        for one in period["currencies"]:
            skus += [
                Row(
                    (period_id, one.currency, row.name, row.accounts, row.changed_accounts, *_change(row, one.currency))
                )
                for row in one.by_sku
            ]
            for row in (*one.pay_more, *one.pay_less):
                accounts.append(Row((period_id, one.currency, row.name, *_change(row, one.currency))))
    changed = (
        Column("amount_now", "Now", Kind.NUMBER, is_summed=True),
        Column("amount_then", "Then", Kind.NUMBER, is_summed=True),
        Column("change", "Change", Kind.NUMBER, is_signed=True, is_summed=True, formula="{amount_then} - {amount_now}"),
        Column("percent", "Change (%)", Kind.NUMBER, is_signed=True),
    )
    where = (Column("period", "Period"), Column("currency", "Currency"))
    tables = [
        Table(
            "canary_skus",
            "Live and canary amounts by SKU",
            (
                *where,
                Column("sku", "SKU"),
                Column("accounts", "Accounts", Kind.NUMBER),
                Column("changed_accounts", "of them changed", Kind.NUMBER),
                *changed,
            ),
            tuple(skus),
            empty="Nothing was rated.",
            sums_by="currency",
            has_sums=True,
        ),
        Table(
            "canary_accounts",
            "Accounts that would pay most more or less",
            (*where, Column("account", "Account"), *changed),
            tuple(accounts),
            empty="No account would pay another amount.",
        ),
    ]
    if problems:
        columns = (Column("period", "Period"), Column("state", "State"), Column("problem", "Problem", is_wide=True))
        tables.insert(0, Table("canary_problems", "Accounts that could not be rated", columns, tuple(problems)))
    return Section("canary", "Canary price book", note, tables=tuple(tables))


def _change(one: AmountChange, currency: str) -> tuple[Cell, ...]:
    figures = [amount_figure(amount, currency) for amount in (one.amount_now, one.amount_then, one.change)]
    return (*figures, None if one.percent is None else exact_figure(one.percent))
