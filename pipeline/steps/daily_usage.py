"""Daily usage: what an account used on each day of a period, for the chart of its document.

Nothing is billed by it. A sum or a count of a day is a part of that of the period; of any other aggregation the day
has a value of its own, as if it were a period: the highest value of the day, the different users of the day.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, time
from functools import cache
from itertools import groupby, pairwise
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import INSTANT, USAGE
from pipeline.core.manifest import canonical_json
from pipeline.core.window import ONE_DAY, BillingPeriod
from pipeline.steps.period_usage import PRICED_DIMENSIONS, periods_in, usage_files, view_usage
from pipeline.steps.workspace import Workspace

ACCOUNT_ZONES = (("account_id", "VARCHAR"), ("time_zone", "VARCHAR"))
ZONE_DAYS = (
    ("time_zone", "VARCHAR"),
    ("day_number", "INTEGER"),  # from 1, the first day of the period
    ("day_start", INSTANT),
    ("day_end", INSTANT),
)
_ROWS_AT_ONCE = 1 << 16


def usage_by_day(workspace: Workspace, period_id: str, pins: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield, in order of account, what documents have as ``usage_by_day``, as canonical JSON: an entry for each SKU.

    An entry is ``first_date``, ``quantities`` (a text for each calendar day of the account's period), ``sku`` and
    ``unit``. ``pins`` are those that the period is rated with. Accounts and SKUs without usage have none.
    """
    periods = periods_in(period_id, json.loads(workspace.lake.get_bytes(f"pins/{pins['time_zones']}")))
    accounts = pins.get("accounts")
    with Warehouse(workspace.scratch) as warehouse:
        view_usage(warehouse, workspace, pins, account_ids=accounts)
        _table_days(warehouse, periods)
        _build_day_usage(warehouse, workspace, pins)
        rows = warehouse.stream("daily_usage", {}, _ROWS_AT_ONCE)
        for account_id, of_account in groupby(rows, key=lambda row: row[0]):
            if accounts is not None and account_id not in accounts:
                continue
            first_date, day_count = _first_date_and_days(periods[account_id])
            entries = [
                '{"first_date":"%s","quantities":["%s"],%s' % (first_date, _quantities(days, texts, day_count), sku)
                for _, *names, days, texts in of_account
                for sku in [_names(*names)]
            ]
            yield account_id, f"[{','.join(entries)}]".encode()


def _quantities(day_numbers: str, quantities: str, day_count: int) -> str:
    """Return the quantities of all days, zero where there is none, as the inside of a JSON array of texts."""
    if day_numbers.count(" ") + 1 < day_count:
        found = dict(zip(map(int, day_numbers.split()), quantities.split(), strict=True))
        quantities = " ".join([found.get(number, "0") for number in range(1, day_count + 1)])
    return quantities.replace(" ", '","')


@cache
def _names(sku: str, unit: str) -> str:
    return canonical_json({"sku": sku, "unit": unit}).decode()[1:]


@cache
def _first_date_and_days(period: BillingPeriod) -> tuple[str, int]:
    starts = _day_starts(period)
    return starts[0].date().isoformat(), len(starts) - 1


def _day_starts(period: BillingPeriod) -> list[datetime]:
    """Return when each day of the period begins, and then when the period ends, in its time zone."""
    zone = ZoneInfo(period.time_zone)
    first, end = period.start.astimezone(zone).date(), period.end.astimezone(zone).date()
    return [datetime.combine(first + number * ONE_DAY, time.min, zone) for number in range((end - first).days + 1)]


def _table_days(warehouse: Warehouse, periods: Mapping[str, BillingPeriod]) -> None:
    zones = [(account_id, period.time_zone) for account_id, period in periods.items()]
    warehouse.table_rows("account_zones", ACCOUNT_ZONES, zones)
    of_zone = {period.time_zone: period for period in periods.values()}
    days = []
    for time_zone, period in sorted(of_zone.items()):
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
