"""A real billing project in a temporary folder, opened over a real bucket, with builders for what goes into it.

A test changes only what matters to it: ``write_project(folder, raw, {"meters.toml": ...})``,
``usage_event(id="a", time="2026-01-15T12:00:00Z")``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_s3 import put_object

BILLING = """
name = "test project"

[window]
length = "1d"
grace_period = "6h"
grain = "1h"
first_window = 2026-01-01

[raw]
bucket = "{bucket}"
endpoint_url = "{endpoint_url}"

[seller]
legal_entity = "Test Ltd"
address = "1 Test Street"
number_series = "TEST"

[price_books]
approval = "files"

[rating]
estimates = false

[close]
sign_off = "none"
"""

CONTRACT = """
name = "usage"
version = "1"
prefix = "usage/"
suffixes = [".ndjson", ".ndjson.gz", ".ndjson.zst"]
format = "ndjson"
event_types = ["request.completed"]
"""

METERS = """
[[meters]]
sku = "tokens-input"
event_type = "request.completed"
aggregation = "sum"
value = "data.input_tokens"
unit = "tokens"

[[meters]]
sku = "requests"
event_type = "request.completed"
aggregation = "count"
unit = "requests"
"""

ACCOUNTS = """account_id,name,currency,time_zone,plan,valid_from,valid_to,external_references
acct-1,First Customer,USD,UTC,standard,2026-01-01T00:00:00Z,,customer-1
acct-2,Second Customer,USD,America/New_York,standard,2026-01-01T00:00:00Z,,customer-2;customer-2b
acct-3,Dritte Kundin,EUR,Europe/Berlin,standard,2025-12-31T23:00:00Z,,customer-3
"""

PRICE_BOOK = """
name = "standard"
author = "finance@example.com"
effective_from = 2025-01-01

[plans.standard]

[[plans.standard.charges]]
sku = "tokens-input"
description = "Input tokens"
model = "per_unit"
currency = "USD"
unit_price = 3
per_units = 1_000_000

[[plans.standard.charges]]
sku = "tokens-input"
description = "Input tokens"
model = "per_unit"
currency = "EUR"
unit_price = 2.8
per_units = 1_000_000

[[plans.standard.charges]]
sku = "requests"
description = "Requests"
model = "graduated"
currency = "USD"
tiers = [{ up_to = 10, unit_price = 0 }, { unit_price = 0.01 }]

[[plans.standard.charges]]
sku = "requests"
description = "Requests"
model = "graduated"
currency = "EUR"
tiers = [{ up_to = 10, unit_price = 0 }, { unit_price = 0.01 }]
"""

PROJECT_FILES = {
    "billing.toml": BILLING,
    "sources/usage.toml": CONTRACT,
    "meters.toml": METERS,
    "accounts.csv": ACCOUNTS,
    "price_books/2025-01-01.toml": PRICE_BOOK,
}


def write_project(folder: Path, raw: ObjectStore | None = None, files: Mapping[str, str] | None = None) -> Path:
    """Write the test project, with some files replaced or added, for the bucket of ``raw``."""
    bucket = raw.bucket if raw else "raw-usage"
    endpoint_url = (raw.endpoint_url if raw else None) or "http://127.0.0.1:9"
    for name, content in {**PROJECT_FILES, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content.replace("{bucket}", bucket).replace("{endpoint_url}", endpoint_url)
        path.write_text(text, encoding="utf-8")
    return folder


def usage_event(**changed: Any) -> dict[str, Any]:
    """Return a CloudEvent of the test contract; ``data`` is merged, any other key replaced."""
    event: dict[str, Any] = {
        "source": "api",
        "id": "req-1",
        "type": "request.completed",
        "subject": "customer-1",
        "time": "2026-01-15T12:00:00Z",
        "data": {"input_tokens": 1000},
    }
    return {**event, **changed, "data": {**event["data"], **changed.get("data", {})}}


def put_events(raw: ObjectStore, key: str, events: Sequence[Mapping[str, Any]], received_at: datetime) -> None:
    """Put events, one JSON object per line, into the bucket as if it had received them at that instant."""
    content = "".join(f"{json.dumps(event)}\n" for event in events).encode()
    put_object(raw, key, content, received_at)


@pytest.fixture
def project_folder(tmp_path: Path, raw_bucket: ObjectStore) -> Path:
    """A valid project whose raw bucket is a fresh one of the S3 server."""
    return write_project(tmp_path / "project", raw_bucket)


@pytest.fixture
def workspace(project_folder: Path) -> Workspace:
    """The opened project."""
    return open_workspace(project_folder)
