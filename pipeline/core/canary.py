"""The canary: a new price book rates a share of the accounts in the shadow: who takes part, and what it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pipeline.core.money import exact
from pipeline.core.price_comparison import CurrencyComparison


def takes_part(account_id: str, percent: Decimal) -> bool:
    """Tell whether an account is in the sample: the same accounts every night, and more of them in a larger share.

    >>> takes_part("acct-7", Decimal(100)), takes_part("acct-7", Decimal("0.0000000001"))
    (True, False)
    """
    place = int.from_bytes(hashlib.sha256(account_id.encode()).digest()[:8])
    with exact():
        return place * 100 < percent * 2**64


def canary_view(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the canary showed as the report has it, with decimals instead of their texts."""
    periods = [
        {**period, "currencies": [CurrencyComparison.from_json(one) for one in period["currencies"]]}
        for period in document["periods"]
    ]
    return {**document, "percent": Decimal(document["percent"]), "periods": periods}
