"""Daily usage: what an account used on each day of a period, for the chart of its document.

Nothing is billed by it. A sum or a count of a day is a part of that of the period; of any other aggregation the day
has a value of its own, as if it were a period: the highest value of the day, the different users of the day.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, time
from functools import cache
from itertools import groupby, pairwise
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import INSTANT, USAGE
from pipeline.core.terms import PeriodTerms
from pipeline.core.window import ONE_DAY, BillingPeriod
from pipeline.steps.period_usage import PRICED_DIMENSIONS, usage_files, view_usage
from pipeline.steps.workspace import Workspace

ACCOUNT_ZONES = (("account_id", "VARCHAR"), ("time_zone", "VARCHAR"))
ZONE_DAYS = (
    ("time_zone", "VARCHAR"),
    ("day_number", "INTEGER"),  # from 1, the first day of the period
    ("day_start", INSTANT),
    ("day_end", INSTANT),
)
_ROWS_AT_ONCE = 1 << 16


def usage_by_day(
    workspace: Workspace, pins: Mapping[str, Any], terms: PeriodTerms
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield, in order of account, what documents have as ``usage_by_day``: an entry for each SKU, in order.

    An entry is ``sku``, ``unit``, ``first_date`` and ``quantities``, a text for each calendar day of the account's
    period. ``pins`` and ``terms`` are those that the period is rated with. Accounts and SKUs without usage have none.
    """
    days = {account_id: _first_date_and_days(period) for account_id, period in terms.periods.items()}
    with Warehouse(workspace.scratch) as warehouse:
        view_usage(warehouse, workspace, pins)
        _table_days(warehouse, terms)
        _build_day_usage(warehouse, workspace, pins)
        rows = warehouse.stream("daily_usage", {}, _ROWS_AT_ONCE)
        for account_id, of_account in groupby(rows, key=lambda row: row[0]):
            first_date, day_count = days[account_id]
            entries = []
            for (sku, unit), of_sku in groupby(of_account, key=lambda row: (row[1], row[2])):
                quantities = ["0"] * day_count
                for *_, day_number, quantity in of_sku:
                    quantities[day_number - 1] = quantity
                entries.append({"sku": sku, "unit": unit, "first_date": first_date, "quantities": quantities})
            yield account_id, entries


@cache
def _first_date_and_days(period: BillingPeriod) -> tuple[str, int]:
    starts = _day_starts(period)
    return starts[0].date().isoformat(), len(starts) - 1


def _day_starts(period: BillingPeriod) -> list[datetime]:
    """Return when each day of the period begins, and then when the period ends, in its time zone."""
    zone = ZoneInfo(period.time_zone)
    first, end = period.start.astimezone(zone).date(), period.end.astimezone(zone).date()
    return [datetime.combine(first + number * ONE_DAY, time.min, zone) for number in range((end - first).days + 1)]


def _table_days(warehouse: Warehouse, terms: PeriodTerms) -> None:
    zones = [(account_id, period.time_zone) for account_id, period in terms.periods.items()]
    warehouse.table_rows("account_zones", ACCOUNT_ZONES, zones)
    periods = {period.time_zone: period for period in terms.periods.values()}
    days = []
    for time_zone, period in sorted(periods.items()):
        starts = _day_starts(period)
        days += [(time_zone, number, start, end) for number, (start, end) in enumerate(pairwise(starts), start=1)]
    warehouse.table_rows("zone_days", ZONE_DAYS, days)


def _build_day_usage(warehouse: Warehouse, workspace: Workspace, pins: Mapping[str, Any]) -> None:
    """Make ``day_usage``: what ``period_usage`` makes of each day, of all usage that is not simply summed."""
    warehouse.table_rows("priced_dimensions", PRICED_DIMENSIONS, [])
    with scratch_folder(workspace.scratch, "daily_usage") as folder:
        unsummed = warehouse.write("unsummed_usage", {}, folder / "unsummed_usage.parquet", USAGE)
        warehouse.view_files("usage", USAGE, [unsummed])
        known_until = datetime.fromisoformat(pins["levels_until"])
        warehouse.build("account_days", {"known_until": known_until}, name="account_periods")
        warehouse.build("period_usage", {}, name="day_usage")
        warehouse.view_files("usage", USAGE, usage_files(workspace, pins, "usage"))
