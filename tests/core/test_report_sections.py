"""The sections of the report: what a finance reader has to find, with figures that add up."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from pipeline.core.line_item import LineKind
from pipeline.core.money import exact
from pipeline.core.report import TOP_ACCOUNTS_MAX, AccountNight, headline
from pipeline.core.report_amounts import CAUSES, KIND_WORDS
from pipeline.core.report_charts import StepKind, trend_chart
from pipeline.core.report_model import Badge, Cell, ReportModel, Tone, added, number_text
from pipeline.core.report_sections import report_model
from tests.core.report_facts import full_facts, rich_facts


def rows_of(model: ReportModel, table: str) -> list[dict[str, Cell]]:
    found = model.table(table)
    return [dict(zip((column.name for column in found.columns), row.cells, strict=True)) for row in found.rows]


def test_the_verdict_says_what_is_unexplained_who_is_held_and_what_is_open() -> None:
    _, sentence = headline(full_facts())

    assert sentence == (
        "reconciled: unexplained 0 events, 0.00 EUR, 0 JPY; "
        "5 events billed, 3 excluded, 2 lines quarantined, 1 break open, 2 accounts held"
    )


def test_the_causes_of_a_change_add_up_to_it() -> None:
    model = report_model(full_facts())

    [euro, yen] = model.table("causes").sums()
    assert euro.cells[2:5] == (Decimal("4.50"), Decimal("2.00"), Decimal("2.50"))
    assert yen.cells[2:5] == (Decimal(4), Decimal(0), Decimal(4))
    for chart in [chart for section in model.sections if section.name == "changes" for chart in section.charts]:
        with exact():
            changes = added(bar.step.change for bar in chart.bars)
            assert chart.bars[0].step.level + changes == chart.bars[-1].step.level


def test_a_reader_finds_why_an_account_grew() -> None:
    [mover] = rows_of(report_model(full_facts()), "movers")

    assert (mover["account"], mover["change"], mover["terms_change"]) == ("acct-7", Decimal("3.00"), Decimal("-0.50"))
    assert mover["mostly"] == "tokens: +3.00 EUR, +60 tokens; usage of this window"


def test_a_fee_that_a_period_has_once_moves_no_account_but_is_explained() -> None:
    model = report_model(full_facts())

    assert [row["account"] for row in rows_of(model, "all_movers")] == ["acct-7", "acct-8"]
    fee = rows_of(model, "all_movers")[1]
    assert (fee["change"], fee["terms_change"]) == (Decimal("0.00"), Decimal("-99.00"))
    assert fee["mostly"] == "platform: -99.00 EUR; fees, minimums, commitments"
    assert {row["account"] for row in rows_of(model, "mover_parts")} == {"acct-7"}
    assert {row["account"] for row in rows_of(model, "all_mover_parts")} == {"acct-7", "acct-8"}
    assert model.table("all_movers").more == "and 1 more that changed less"


def test_the_page_shows_ten_movers_of_each_currency_and_the_files_all() -> None:
    facts = rich_facts()
    movers = tuple(
        AccountNight(f"a{number:02}", currency, Decimal(20 - number), Decimal(0))
        for currency in ("EUR", "JPY")
        for number in range(TOP_ACCOUNTS_MAX + 1)
    )
    comparison = replace(facts.night.comparison, movers=movers, moved_count=len(movers))

    model = report_model(replace(facts, night=replace(facts.night, comparison=comparison)))

    assert [row["currency"] for row in rows_of(model, "movers")] == ["EUR"] * 10 + ["JPY"] * 10
    assert (len(rows_of(model, "all_movers")), model.table("all_movers").more) == (22, "")


def test_an_account_that_fell_is_explained_by_what_fell() -> None:
    facts = rich_facts()
    comparison = facts.night.comparison
    fallen = replace(comparison.movers[0], amount=Decimal("1.50"))
    dearer, *others = comparison.mover_parts
    cheaper = replace(dearer, sku="storage", amount=Decimal("1.00"), quantity=Decimal(30))
    comparison = replace(comparison, movers=(fallen,), mover_parts=(dearer, cheaper, *others))

    [mover] = rows_of(report_model(replace(facts, night=replace(facts.night, comparison=comparison))), "movers")

    assert mover["mostly"] == "storage: -1.00 EUR, -10 tokens; usage of this window"


def test_a_night_of_two_periods_has_a_chart_of_each() -> None:
    facts = rich_facts()
    [euro, _] = facts.totals.period_amounts
    amounts = (euro, replace(euro, period_id="2026-02", amount=Decimal("1.00")))
    other = replace(facts.night.comparison.parts[0], period_id="2026-02", amount=Decimal("1.00"))
    comparison = replace(facts.night.comparison, parts=(*facts.night.comparison.parts, other))
    night = replace(facts.night, comparison=comparison)

    model = report_model(replace(facts, totals=replace(facts.totals, period_amounts=amounts), night=night))

    section = next(section for section in model.sections if section.name == "changes")
    roads = {chart.title: [str(bar.step.level) for bar in chart.bars] for chart in section.charts}
    assert roads == {
        "What this night added to the draft of 2026-01 in EUR": ["7.85", "12.85", "12.35", "12.35"],
        "What this night added to the draft of 2026-02 in EUR": ["0.00", "1.00", "1.00"],
    }


def test_accounts_are_held_by_people_and_by_controls() -> None:
    held = {row["account"]: row["reason"] for row in rows_of(report_model(full_facts()), "holds")}

    assert held == {"acct-7": "-disputed", "acct-8": "1 line differs"}


def test_an_account_is_held_in_its_own_period_only_and_in_one_without_a_draft_too() -> None:
    facts = full_facts()
    next_month = [replace(one, period_id="2026-02", amount=Decimal("3.00")) for one in facts.accounts]
    final = replace(facts.night.holds[0], period_id="2025-12", account_id="acct-9", reason="disputed")
    night = replace(facts.night, holds=(*facts.night.holds, final))

    rows = rows_of(report_model(replace(facts, accounts=(*facts.accounts, *next_month), night=night)), "holds")

    assert [(row["period"], row["account"], row["amount"]) for row in rows] == [
        ("2025-12", "acct-9", None),
        ("2026-01", "acct-7", Decimal("10.35")),
        ("2026-01", "acct-8", Decimal("2.00")),
    ]


def test_the_road_from_prices_to_invoices_ends_at_what_is_not_held() -> None:
    steps = [row for row in rows_of(report_model(full_facts()), "money") if row["currency"] == "EUR"]

    assert [step["step"] for step in steps] == [
        "price of the usage",
        "discounts of charges",
        "rounding",
        "line items",
        "held",
        "to be invoiced",
    ]
    assert [number_text(step["left"]) for step in steps if isinstance(step["left"], Decimal)][-3:] == [
        "12.35",
        "0.00",
        "0.00",
    ]


def test_every_kind_of_line_is_a_step_of_the_road() -> None:
    assert set(KIND_WORDS) == {kind.value for kind in LineKind}


def test_every_cause_of_the_query_has_words() -> None:
    assert list(CAUSES) == ["usage", "other_windows", "price", "terms", "fees"]


def test_the_three_way_match_has_all_three_figures() -> None:
    [row] = rows_of(report_model(full_facts()), "three_way")

    assert [row[name] for name in ("external", "usage", "lines", "delta_usage", "delta_lines")] == [100, 99, 100, -1, 0]
    assert (row["verdict"], row["class"]) == (Badge("fail", Tone.FAIL), "missing")


def test_breaks_stand_under_their_age_on_the_night() -> None:
    model = report_model(full_facts())

    ages = {row["age"]: row["missing"] for row in rows_of(model, "breaks_by_age")}
    assert ages == {"0-1": 0, "2-7": 1, "8-30": 0, "31-60": 0, "61-90": 0, ">90": 0}
    [one] = rows_of(model, "breaks")
    assert (one["owner"], one["delta"]) == ("omar", -1)


def test_an_override_is_said_under_the_verdict() -> None:
    notices = report_model(full_facts()).notices

    [sentence] = [sentence for notice in notices for sentence in notice.sentences]
    assert "ana asked, omar approved" in sentence
    assert "usage: keys are unique" in sentence


def test_an_override_that_nobody_approved_is_not_called_one() -> None:
    facts = full_facts()
    [asked] = facts.night.overrides
    facts = replace(facts, night=replace(facts.night, overrides=(replace(asked, approved_at=None, approved_by=None),)))

    assert report_model(facts).notices == ()


def test_sums_of_different_tables_tie() -> None:
    ties = rows_of(report_model(full_facts()), "tie_outs")

    assert {str(row["sums"]): row["difference"] for row in ties if row["difference"]} == {}
    assert len(ties) == 7


def test_a_report_that_lost_an_account_does_not_tie() -> None:
    facts = full_facts()

    ties = rows_of(report_model(replace(facts, accounts=facts.accounts[1:])), "tie_outs")

    failed = [row for row in ties if row["verdict"] == Badge("fail", Tone.FAIL)]
    assert [(row["sums"], row["unit"], row["difference"]) for row in failed] == [
        ("drafts = all accounts", "EUR", Decimal("10.35"))
    ]


def test_what_was_adjusted_is_shown_with_its_lines_and_causes() -> None:
    model = report_model(full_facts())

    [document] = rows_of(model, "adjustments")
    assert (document["corrects"], document["total"]) == ("INV-000001", Decimal("1.19"))
    assert "1 event of the account differs" in str(document["causes"])
    assert rows_of(model, "adjustment_lines")[0]["amount"] == Decimal("1.00")


def test_nothing_is_compared_without_a_window_before() -> None:
    facts = rich_facts()
    comparison = replace(facts.night.comparison, problem="there is nothing to compare")
    facts = replace(facts, night=replace(facts.night, comparison=comparison))

    section = next(section for section in report_model(facts).sections if section.name == "changes")

    assert (section.note, section.tables, section.charts) == ("there is nothing to compare", (), ())


def test_every_link_leads_to_a_table() -> None:
    model = report_model(full_facts())
    names = {table.name for table in model.tables()}

    links = {row.link for table in model.tables() for row in table.rows if row.link}
    links |= {bar.step.link for section in model.sections for chart in section.charts for bar in chart.bars}

    assert links - {""} <= names


def test_every_table_has_its_own_name_and_as_many_cells_as_columns() -> None:
    tables = report_model(full_facts()).tables()

    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert all(len(row.cells) == len(table.columns) for row in (*table.rows, *table.sums())), table.name


@pytest.mark.parametrize(("count", "width"), [(1, 28), (30, 8)])
def test_the_newest_window_of_a_trend_is_the_last_bar(count: int, width: int) -> None:
    drawn = trend_chart("Late", [(f"2026-01-{day:02}", day) for day in range(1, count + 1)])

    assert [bar.is_last for bar in drawn.bars] == [False] * (count - 1) + [True]
    assert all(bar.x >= 0 and bar.x + drawn.bar_width <= drawn.width for bar in drawn.bars)
    assert drawn.bar_width == width
    assert drawn.bars[-1].height == drawn.height


def test_a_step_of_a_waterfall_is_no_change_when_it_is_a_level() -> None:
    levels = [row for row in report_model(full_facts()).table("waterfall").rows if row.tone is Tone.SUM]

    assert StepKind.LEVEL == "level"
    assert all(row.cells[1] is None for row in levels)


def test_the_service_levels_of_the_night_say_what_is_missed_and_what_was_not_measured() -> None:
    model = report_model(full_facts())

    section = next(section for section in model.sections if section.name == "service_levels")
    assert "missed: Late events, Aggregation accuracy." in section.note
    late, reconciled, recounted, disputed = rows_of(model, "service_levels")
    assert (late["good"], late["total"], late["good_percent"], late["target_percent"]) == (7, 8, Decimal("87.50"), 99)
    assert (late["verdict"], late["budget_left_percent"]) == (
        Badge("spends its budget fast", Tone.FAIL),
        Decimal("-1150.00"),
    )
    assert reconciled["verdict"] == Badge("met", Tone.PASS)
    assert recounted["note"] == "acct-1/requests 12:00: not in usage"
    assert (disputed["verdict"], disputed["good_percent"]) == (Badge("not measured", Tone.NONE), None)
    assert report_model(replace(full_facts(), service_levels=())).sections[-3].name == "trends"


def test_what_somebody_did_is_shown_to_the_second() -> None:
    facts = full_facts()
    at = facts.night.made_at.replace(microsecond=123_456)
    decisions = (replace(facts.night.decisions[0], at=at),)
    sign_offs = (replace(facts.night.sign_offs[0], signed_at=at),)

    model = report_model(
        replace(facts, night=replace(facts.night, made_at=at, decisions=decisions, sign_offs=sign_offs))
    )

    [decision] = rows_of(model, "decisions")
    [signed] = rows_of(model, "sign_offs")
    assert {model.made_at, decision["at"], signed["at"]} == {facts.night.made_at}
