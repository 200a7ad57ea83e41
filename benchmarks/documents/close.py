"""Make documents of line items, and finalise them: ``python -m benchmarks.documents.close FOLDER ACCOUNTS PROCESSES``.

Line items are those of tiers of tokens, ten for each account, with usage by day of four SKUs. The seconds of wall and
CPU time of both parts are printed as JSON; the files of a run are in a folder of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.adapters.control_plane import ControlPlane
from pipeline.adapters.lake import LocalLake
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.account import Account
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.invoice import InvoiceEvidence
from pipeline.core.manifest import canonical_json
from pipeline.core.price_book import PriceBook
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.tax import TaxTable
from pipeline.steps.documents import stored_in
from pipeline.steps.draft_shares import DraftFacts
from pipeline.steps.drafts import drafts_of

LINES, SKUS, DAYS = 10, 4, 31
TIERS = [{"up_to": "1000", "unit_price": "0.02"}, {"up_to": "10000", "unit_price": "0.01"}, {"unit_price": "0.005"}]
LINE_ITEMS_SQL = """
SELECT
    printf('acct-%06d/sku-%02d/2026-01/graduated/%d', a, s, t) AS line_item_id,
    printf('acct-%06d', a) AS account_id, '2026-01' AS period_id, 1 AS segment,
    TIMESTAMPTZ '2025-12-31 23:00:00+00' AS service_period_start,
    TIMESTAMPTZ '2026-01-31 23:00:00+00' AS service_period_end,
    'standard' AS plan, printf('sku-%02d', s) AS sku, printf('SKU number %d', s) AS description,
    'usage' AS kind, 'graduated' AS model, t::INTEGER AS tier,
    (a * 7 + s * 13 + t + 0.123456789)::DECIMAL(38,9) AS quantity,
    'units' AS unit, 0.02::DECIMAL(18,12) AS unit_price, 1::DECIMAL(38,9) AS per_units, 0::DECIMAL(38,21) AS flat_fee,
    'EUR' AS currency, ((a * 7 + s * 13 + t + 0.123456789) * 0.02)::DECIMAL(38,21) AS amount_exact,
    ((a * 7 + s * 13 + t) * 0.02)::DECIMAL(28,4) AS amount, (0.123456789 * 0.02)::DECIMAL(38,21) AS residual,
    'standard' AS tax_category, 'prices@0123456789ab' AS price_book_version
FROM range({accounts}) AS x(a), range(4) AS y(s), range(1, 4) AS z(t)
WHERE s * 3 + t <= 10
"""


def main(folder: Path, accounts: int, processes: int) -> None:
    """Print what both parts took."""
    lines = folder / f"line_items-{accounts}.parquet"
    if not lines.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with Warehouse(folder) as warehouse:
            warehouse.connection.execute(f"CREATE TABLE line_items AS {LINE_ITEMS_SQL.format(accounts=accounts)}")
            warehouse.write_table("line_items", lines, LINE_ITEMS)
    with tempfile.TemporaryDirectory(dir=folder) as run:
        measured = _measure(lines, Path(run), accounts, processes)
    sys.stdout.write(json.dumps(measured) + "\n")


def _measure(lines: Path, folder: Path, accounts: int, processes: int) -> dict[str, Any]:
    facts = _facts(folder, accounts)
    drafts, drafting = _timed(lambda: drafts_of(facts, [lines], folder, processes))
    control_plane = ControlPlane(f"sqlite:///{folder / 'control_plane.db'}")
    control_plane.migrate()
    store, at = stored_in(LocalLake(folder / "lake")), datetime(2026, 2, 3, tzinfo=UTC)
    issued, finalising = _timed(lambda: control_plane.finalise_period("2026-01", "LLM", drafts.documents(), store, at))
    if len(issued) != accounts:
        raise RuntimeError(f"expected {accounts} documents, got {len(issued)}")
    return {"drafts": drafting, "finalise": finalising}


def _timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, before = time.perf_counter(), os.times()
    result = work()
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return result, {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": cpu}


def _facts(folder: Path, accounts: int) -> DraftFacts:
    charges = [
        {
            "sku": f"sku-{s:02}",
            "description": f"SKU number {s}",
            "currency": "EUR",
            "model": "graduated",
            "tiers": TIERS,
        }
        for s in range(SKUS)
    ]
    book = {
        "name": "prices",
        "author": "a",
        "effective_from": "2025-01-01",
        "plans": {"standard": {"charges": charges}},
    }
    priced = PricedBook(PriceBook.model_validate(book), "prices@0123456789ab")
    usage, places, start = folder / "usage_by_day", {}, 0
    with usage.open("wb") as spool:
        for number in range(accounts):
            days = [str(number * 7919 % 10**6 + day) for day in range(DAYS)]
            entry = {"first_date": "2026-01-01", "quantities": days, "unit": "units"}
            content = canonical_json([{**entry, "sku": f"sku-{s:02}"} for s in range(SKUS)])
            places[f"acct-{number:06}"] = start, spool.write(content)
            start += len(content)
    tax = {"region": "DE", "name": "VAT", "percent": Decimal(19)}
    return DraftFacts(
        "2026-01",
        {
            name: Account(name, f"Customer {name}", "EUR", "Europe/Berlin", "standard", "DE")
            for name in (f"acct-{number:06}" for number in range(accounts))
        },
        SellerSettings(legal_entity="N", address="D", number_series="LLM"),
        {priced.version: priced},
        date(2026, 2, 2),
        InvoiceEvidence("f" * 64, "a" * 64, "b" * 64),
        TaxTable.model_validate({"rates": [tax]}),
        frozenset(),
        usage,
        places,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
