"""Inputs as a manifest pins them: read back from the lake by hash, whatever the project says by now (P1)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal

from pipeline.adapters.warehouse import sql_text
from pipeline.core.price_book import PriceBook
from pipeline.core.project import PricedBook, SellerSettings
from pipeline.core.tax import TaxTable
from pipeline.steps.publish import pin_file
from pipeline.steps.workspace import Workspace


def pin_sql(workspace: Workspace, queries: Iterable[str]) -> dict[str, str]:
    """Keep the SQL files of these queries in the lake and return their SHA-256, by query."""
    return {query: pin_file(workspace, sql_text(query).encode()) for query in queries}


def pinned_sql(workspace: Workspace, pins: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each pinned query; it is what a warehouse runs instead of the files of today."""
    return {query: workspace.lake.get_bytes(f"pins/{sha256}").decode() for query, sha256 in pins.items()}


def pinned_price_books(workspace: Workspace, pins: Mapping[str, str]) -> tuple[PricedBook, ...]:
    """Return pinned price books, from their SHA-256 by version."""
    books = []
    for version, sha256 in pins.items():
        text = workspace.lake.get_bytes(f"pins/{sha256}").decode("utf-8-sig")
        books.append(PricedBook(PriceBook.model_validate(tomllib.loads(text, parse_float=Decimal)), version))
    return tuple(books)


def pinned_seller(workspace: Workspace, pin: str) -> SellerSettings:
    """Return the seller as he was pinned."""
    return SellerSettings.model_validate(json.loads(workspace.lake.get_bytes(f"pins/{pin}")))


def pinned_taxes(workspace: Workspace, pin: str | None) -> TaxTable | None:
    """Return a pinned ``taxes.toml``; None for a project that had none."""
    if pin is None:
        return None
    text = workspace.lake.get_bytes(f"pins/{pin}").decode("utf-8-sig")
    return TaxTable.model_validate(tomllib.loads(text, parse_float=Decimal))
