"""Documents to render: invoices of 22 lines over 8 SKUs with their usage by day, in one bundle as the lake has them.

The same number makes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from pipeline.core.manifest import canonical_json

SKUS, DAYS = 8, 31
VAT = {"category": "S", "name": "VAT", "percent": "23", "net": "1234.5", "tax": "283.94", "reason": "", "note": ""}
TIERS = (
    ("0", {"above": "0", "first_unit": "1", "up_to": "1000000"}),
    ("2.5", {"above": "1000000", "first_unit": "1000001", "up_to": "10000000"}),
    ("1.75", {"above": "10000000", "first_unit": "10000001"}),
)


def make_bundle(folder: Path, invoices: int) -> Path:
    """Write ``documents.jsonl`` and, beside it, ``places.json``: number, account, SHA-256, start and length of each."""
    folder.mkdir(parents=True, exist_ok=True)
    places, start = [], 0
    numbers = random.Random(5)  # noqa: S311 - the same every time
    with (folder / "documents.jsonl").open("wb") as bundle:
        for number in range(1, invoices + 1):
            document = _document(number, numbers)
            content = canonical_json(document)
            bundle.write(content + b"\n")
            customer = document["customer"]["account_id"]
            places.append((document["number"], customer, hashlib.sha256(content).hexdigest(), start, len(content)))
            start += len(content) + 1
    (folder / "places.json").write_text(json.dumps(places), encoding="utf-8")
    return folder


def _document(number: int, numbers: random.Random) -> dict[str, Any]:
    lines, usage = [], []
    for sku in (f"tokens-model-{one}" for one in range(SKUS)):
        tiers = TIERS if sku[-1] in "012345" else TIERS[:2]
        lines += [_line(number, sku, tier, numbers) for tier in range(1, len(tiers) + 1)]
        quantities = [str(numbers.randrange(10**8)) for _ in range(DAYS)]
        usage.append({"sku": sku, "unit": "tokens", "first_date": "2026-01-01", "quantities": quantities})
    name = f"Customer {number}{' & Sons' if number % 10 == 0 else ''}"
    return {
        "document": "invoice",
        "document_version": 2,
        "number": f"LLM-{number:06}",
        "causes": [],
        "corrects": None,
        "issue_date": "2026-02-01",
        "seller": {"legal_entity": "Northwind Inference Ltd", "address": "1 Harbour Street\nDublin", "tax_id": ""},
        "customer": {
            "account_id": f"account-{number}",
            "name": name,
            "address": "",
            "tax_id": "",
            "plan": "standard",
            "tax_region": "IE",
        },
        "period": {
            "period_id": "2026-01",
            "time_zone": "Europe/Dublin",
            "start": "2026-01-01T00:00:00+00:00",
            "end": "2026-02-01T00:00:00+00:00",
            "first_date": "2026-01-01",
            "last_date": "2026-01-31",
        },
        "currency": "EUR",
        "lines": lines,
        "subtotal": "1234.5",
        "taxes": [
            {
                "category": "S",
                "name": "VAT",
                "percent": "23",
                "net": "1234.5",
                "tax": "283.94",
                "reason": "",
                "note": "",
            }
        ],
        "total": "1518.44",
        "credits": [],
        "amount_due": "1518.44",
        "usage_by_day": usage,
        "evidence": {
            "price_book_versions": ["standard@0123456789ab"],
            "rounding": "half_up",
            "line_items_manifest": "a" * 64,
            "usage_manifests_sha256": "b" * 64,
            "tax_table_sha256": "c" * 64,
        },
    }


def _line(number: int, sku: str, tier: int, numbers: random.Random) -> dict[str, Any]:
    quantity = numbers.randrange(1, 10**9)
    amount = f"{quantity % 10**5}.{quantity % 89 + 11}".rstrip("0")
    return {
        "line_item_id": f"account-{number}/{sku}/2026-01/graduated/{tier}",
        "kind": "usage",
        "segment": 1,
        "service_period_start": "2026-01-01T00:00:00+00:00",
        "service_period_end": "2026-02-01T00:00:00+00:00",
        "service_first_date": "2026-01-01",
        "service_last_date": "2026-01-31",
        "plan": "standard",
        "sku": sku,
        "description": f"Tokens of model {sku[-1]}",
        "model": "graduated",
        "tier": tier,
        "terms": TIERS[tier - 1][1],
        "quantity": str(quantity),
        "unit": "tokens",
        "unit_price": TIERS[tier - 1][0],
        "per_units": "1000000",
        "flat_fee": "0",
        "amount_exact": amount,
        "amount": amount,
        "residual": "0",
        "tax_category": "standard",
        "price_book_version": "standard@0123456789ab",
        "corrects_line_item_id": None,
    }
