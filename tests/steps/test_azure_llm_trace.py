"""A public LLM inference trace, billed as a customer would: two CSV files without event id and without customer.

The files (Azure Public Dataset, CC-BY-4.0) are not part of this repository; they are read from
``../shared/data/azure-llm-2023`` beside the checkout. Their totals were computed by others (answers.json).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.dataset import LINE_ITEMS, USAGE, Dataset
from pipeline.core.window import ONE_DAY, parse_window
from pipeline.steps.collect import collect
from pipeline.steps.publish import dataset_files
from pipeline.steps.run import run_window
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import write_project

TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "azure-llm-2023"
NOW = datetime(2023, 11, 18, tzinfo=UTC)

pytestmark = pytest.mark.skipif(not TRACE.is_dir(), reason=f"the public trace is not beside this checkout ({TRACE})")

BILLING = """
name = "Azure LLM trace"
[window]
grain = "1m"
first_window = 2023-11-16
[raw]
bucket = "{bucket}"
endpoint_url = "{endpoint_url}"
[seller]
legal_entity = "Trace Ltd"
number_series = "TRACE"
[close]
sign_off = "none"

[price_books]
approval = "files"
"""

CONTRACT = """
name = "llm_trace"
version = "1"
prefix = ""
suffixes = [".csv"]
format = "csv"
event_types = ["inference"]
received = "event_time"     # history loaded after the fact: the day it was copied here says nothing

[event]
id = { derive = "object_and_line" }
source = { constant = "azure-llm-2023" }
type = { constant = "inference" }
subject = { object_key = 'AzureLLMInferenceTrace_(\\w+)\\.csv$' }
time = { field = "TIMESTAMP", time_zone = "UTC" }

[event.data]
context_tokens = { field = "ContextTokens", type = "decimal", minimum = 0 }
generated_tokens = { field = "GeneratedTokens", type = "decimal", minimum = 0 }
"""

METERS = """
[[meters]]
sku = "context-tokens"
event_type = "inference"
aggregation = "sum"
value = "data.context_tokens"
unit = "token"

[[meters]]
sku = "generated-tokens"
event_type = "inference"
aggregation = "sum"
value = "data.generated_tokens"
unit = "token"

[[meters]]
sku = "requests"
event_type = "inference"
aggregation = "count"
unit = "request"
"""

ACCOUNTS = """account_id,name,currency,time_zone,plan,valid_from,valid_to,external_references
code,Code service,USD,UTC,{plan},2023-11-01T00:00:00Z,,code
conv,Conversation service,USD,UTC,{plan},2023-11-01T00:00:00Z,,conv
"""

PRICES = """
name = "trace"
author = "pricing@example.com"
effective_from = 2023-11-01

[[plans.per_unit.charges]]
sku = "context-tokens"
description = "Input"
currency = "USD"
model = "per_unit"
unit_price = 30
per_units = 1_000_000

[[plans.per_unit.charges]]
sku = "generated-tokens"
description = "Output"
currency = "USD"
model = "per_unit"
unit_price = 60
per_units = 1_000_000

[[plans.per_unit.charges]]
sku = "requests"
description = "Requests"
currency = "USD"
model = "per_unit"
unit_price = 0

[[plans.graduated.charges]]
sku = "context-tokens"
description = "Input"
currency = "USD"
model = "graduated"
per_units = 1_000_000
tiers = [{ up_to = 1_000_000, unit_price = 0 }, { up_to = 10_000_000, unit_price = 2.50 }, { unit_price = 1.25 }]

[[plans.graduated.charges]]
sku = "generated-tokens"
description = "Output"
currency = "USD"
model = "per_unit"
unit_price = 0

[[plans.graduated.charges]]
sku = "requests"
description = "Requests"
currency = "USD"
model = "per_unit"
unit_price = 0
"""


def bill_the_trace(folder: Path, raw_bucket: ObjectStore, plan: str) -> Workspace:
    files = {
        "billing.toml": BILLING,
        "sources/usage.toml": CONTRACT,
        "meters.toml": METERS,
        "accounts.csv": ACCOUNTS.format(plan=plan),
        "price_books/2025-01-01.toml": PRICES,
    }
    write_project(folder, raw_bucket, files)
    for name in ("AzureLLMInferenceTrace_code.csv", "AzureLLMInferenceTrace_conv.csv"):
        raw_bucket.put_file(name, TRACE / name)
    workspace = open_workspace(folder)
    collect(workspace, NOW, lambda _: None)
    run_window(workspace, parse_window("2023-11-16", ONE_DAY), NOW, lambda _: None)
    return workspace


def rows(workspace: Workspace, dataset: Dataset, scope: str, query: str) -> list[tuple[Any, ...]]:
    files = [str(path) for path in dataset_files(workspace, dataset, scope)]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.read_parquet(files).create_view(dataset.name)
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    services: dict[str, Any] = json.loads((TRACE / "answers.json").read_text(encoding="utf-8"))["services"]
    return services


@pytest.mark.slow
def test_tokens_and_amounts_of_the_public_trace_equal_the_published_answers(
    tmp_path: Path, raw_bucket: ObjectStore, answers: dict[str, Any]
) -> None:
    workspace = bill_the_trace(tmp_path / "per_unit", raw_bucket, "per_unit")

    per_minute = rows(
        workspace,
        USAGE,
        "window=2023-11-16",
        """SELECT account_id, strftime(grain_start, '%Y-%m-%d %H:%M') AS minute,
                  SUM(event_count) FILTER (WHERE sku = 'requests'),
                  SUM(quantity) FILTER (WHERE sku = 'context-tokens'),
                  SUM(quantity) FILTER (WHERE sku = 'generated-tokens')
           FROM usage GROUP BY ALL ORDER BY ALL""",
    )
    expected = [
        (service, minute, *map(Decimal, counts))
        for service, facts in sorted(answers.items())
        for minute, counts in sorted(facts["per_minute_[events,context,generated]"].items())
    ]
    assert per_minute == expected

    for service, facts in answers.items():
        [(exact, rounded)] = rows(
            workspace,
            LINE_ITEMS,
            "period=2023-11",
            f"SELECT SUM(amount_exact), SUM(amount) FROM line_items WHERE account_id = '{service}'",
        )
        assert exact == Decimal(facts["rating_example"]["exact_usd"])
        assert rounded == Decimal(facts["rating_example"]["rounded_half_up_usd"])
        assert rounded != Decimal(facts["rating_example"]["wrong_if_each_event_is_rounded_to_cents_half_up"])


@pytest.mark.slow
def test_graduated_tiers_of_the_public_trace_equal_the_published_answers(
    tmp_path: Path, raw_bucket: ObjectStore, answers: dict[str, Any]
) -> None:
    workspace = bill_the_trace(tmp_path / "graduated", raw_bucket, "graduated")

    exact = rows(
        workspace,
        LINE_ITEMS,
        "period=2023-11",
        "SELECT account_id, SUM(amount_exact) FROM line_items GROUP BY account_id ORDER BY account_id",
    )
    assert exact == [
        (service, Decimal(facts["graduated_example"]["exact_usd"])) for service, facts in sorted(answers.items())
    ]
