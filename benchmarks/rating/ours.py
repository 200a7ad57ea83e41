"""One part of rating a period, over slices of usage that were made before.

Run as ``python -m benchmarks.rating.ours FOLDER ACCOUNTS SKUS PART``; the parts are prepare, sql, reference, both.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.adapters.warehouse import Warehouse, sql_text
from pipeline.core.account import AccountDirectory, AccountRow
from pipeline.core.price_book import PriceBook
from pipeline.core.project import PricedBook
from pipeline.core.terms import AccountTerms, period_terms
from pipeline.settings import GARBAGE_THRESHOLD
from pipeline.steps.rate import COMPARE_QUERIES, RATE_QUERIES
from pipeline.steps.rate_slices import Slice, compare_slices, cut_slices, problems_of_slices, rate_slices
from pipeline.steps.sql_rater import EVENT_VALUES, PERIOD_USAGE

TIERS = (("1000", "0.010"), ("10000", "0.008"), ("1000000", "0.005"), (None, "0.003"))


def terms_of(account_count: int, sku_count: int) -> list[AccountTerms]:
    """Return the terms of accounts that are all on one plan of graduated prices, four tiers for each SKU."""
    tiers = [{"unit_price": price, **({"up_to": up_to} if up_to else {})} for up_to, price in TIERS]
    charges = [
        {"sku": f"sku-{sku:02}", "description": f"SKU {sku}", "currency": "USD", "model": "graduated", "tiers": tiers}
        for sku in range(sku_count)
    ]
    content = {"name": "prices", "author": "benchmark", "effective_from": "2025-01-01"}
    book = PriceBook.model_validate({**content, "plans": {"standard": {"charges": charges}}})
    facts = {"name": "One", "currency": "USD", "time_zone": "UTC", "plan": "standard"}
    times = {"valid_from": "2025-01-01T00:00:00Z", "external_references": ["one"]}
    row = AccountRow.model_validate({"account_id": "one", **facts, **times})
    one = period_terms(AccountDirectory((row,)), (PricedBook(book, "prices@0123456789ab"),), "2026-01").accounts["one"]
    return [
        replace(one, account=replace(one.account, account_id=f"acct-{number:06}")) for number in range(account_count)
    ]


def prepare(folder: Path, terms: Sequence[AccountTerms], sku_count: int) -> list[Slice]:
    """Make usage of every account and SKU, between a ten-thousandth of a unit and a million units, and cut it."""
    with Warehouse(folder) as warehouse:
        warehouse.connection.execute(
            f"""CREATE TEMP TABLE period_usage AS SELECT
                'acct-' || LPAD(CAST(row // {sku_count} AS VARCHAR), 6, '0') AS account_id,
                'sku-' || LPAD(CAST(row % {sku_count} AS VARCHAR), 2, '0') AS sku, CAST(1 AS INTEGER) AS segment,
                '' AS dimensions, 'sum' AS aggregation, 'units' AS unit,
                CAST(CAST(HASH(row) % 1000000 AS DECIMAL(38, 9)) * CASE HASH(row + 7) % 4
                    WHEN 0 THEN 1 WHEN 1 THEN 0.01 WHEN 2 THEN 0.001234567 ELSE 0.2 END AS DECIMAL(38, 9)) AS quantity,
                CAST(3 AS BIGINT) AS event_count FROM RANGE({len(terms) * sku_count}) AS rows (row)"""  # noqa: S608
        )
        warehouse.table_rows("event_values", EVENT_VALUES, [])
        sql = {query: sql_text(query) for query in (*RATE_QUERIES, *COMPARE_QUERIES)}
        return cut_slices(warehouse, terms, folder / "slices", sql)


def main(folder: str, account_count: str, sku_count: str, part: str) -> None:
    """Do the part, and print how many lines it came to."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    terms = terms_of(int(account_count), int(sku_count))
    if part == "prepare":
        sys.stdout.write(f"{len(prepare(Path(folder), terms, int(sku_count)))}\n")
        return
    sql = {query: sql_text(query) for query in (*RATE_QUERIES, *COMPARE_QUERIES)}
    slices = slices_in(Path(folder), terms, sql)
    line_count = 0
    if part in ("sql", "both"):
        line_count = sum(one.line_count for one in rate_slices(slices))
    if part == "reference":
        line_count = sum(one.line_count for one in problems_of_slices(slices, None))
    if part == "both":
        compared = compare_slices(slices)
        if any(one.disagreements or one.problems for one in compared):
            raise RuntimeError(f"the raters do not agree: {compared}")
    sys.stdout.write(f"{line_count}\n")


def slices_in(folder: Path, terms: Sequence[AccountTerms], sql: dict[str, str]) -> list[Slice]:
    """Return the slices that were prepared in a folder."""
    with Warehouse(folder) as warehouse:
        warehouse.table_rows("period_usage", PERIOD_USAGE, [])
        warehouse.table_rows("event_values", EVENT_VALUES, [])
        empty = cut_slices(warehouse, terms, folder / "none", sql)
    prepared = folder / "slices"
    return [
        replace(
            one, usage=prepared / one.usage.name, values=prepared / one.values.name, lines=prepared / one.lines.name
        )
        for one in empty
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
