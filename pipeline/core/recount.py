"""Recount: the usage of a few accounts, counted again from their raw events in plain Python, without any SQL.

It shares nothing with ``sql/`` but the inputs, so that a fault of the one is not a fault of the other. What a grain of
a level or a percentile comes to needs more than its own events: of these the control totals are compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any, NamedTuple

from pipeline.core.meter import Aggregation, Meter
from pipeline.core.window import EPOCH

_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,29}(\.[0-9]{1,9})?")
_BILLIONTH = Decimal("0.000000001")


class RecountedEvent(NamedTuple):
    """What the recount reads of a raw event that is billed."""

    type: str
    event_at: datetime
    quantity: Decimal | None
    data: str | None


class RowKey(NamedTuple):
    """A row of usage, by name."""

    account_id: str
    sku: str
    dimensions: str
    grain_start: datetime


class RowFigures(NamedTuple):
    """What a row of usage says; ``quantity`` is None where a grain alone does not tell it."""

    quantity: Decimal | None
    value_sum: Decimal
    event_count: int


@dataclass(slots=True)
class _Grain:
    values: list[Decimal] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)


def recounted_usage(
    events: Iterable[tuple[str, RecountedEvent]], meters: Sequence[Meter], grain: timedelta
) -> dict[RowKey, RowFigures]:
    """Return the rows of usage that events, each with its account, come to; grains count from 1970-01-01 UTC."""
    of_type: dict[str, list[Meter]] = {}
    for meter in meters:
        of_type.setdefault(meter.event_type, []).append(meter)
    grains: dict[RowKey, _Grain] = {}
    aggregations = {meter.sku: meter.aggregation for meter in meters}
    for account_id, event in events:
        data = json.loads(event.data) if event.data else {}
        start = event.event_at - (event.event_at - EPOCH) % grain
        for meter in of_type.get(event.type, []):
            if not all(_text(_at(data, path)) == expected for path, expected in meter.filter.items()):
                continue
            key = RowKey(account_id, meter.sku, _dimensions(meter, data), start)
            _add(grains.setdefault(key, _Grain()), meter, event, data)
    return {key: _figures(aggregations[key.sku], found) for key, found in grains.items() if found.values}


def wrong_rows(
    found: Mapping[RowKey, tuple[Aggregation, RowFigures]], recounted: Mapping[RowKey, RowFigures]
) -> list[str]:
    """Return a sentence for each row of usage that is not what was counted again, or that only one side has."""
    return list(_wrong_rows(found, recounted))


def _wrong_rows(
    found: Mapping[RowKey, tuple[Aggregation, RowFigures]], recounted: Mapping[RowKey, RowFigures]
) -> Iterator[str]:
    for key in sorted(found.keys() | recounted.keys()):
        name = f"{key.account_id}/{key.sku}{key.dimensions if key.dimensions != '{}' else ''} {key.grain_start:%H:%M}"
        expected, actual = recounted.get(key), found.get(key)
        if expected is None or actual is None:
            yield f"{name}: {'only in usage' if expected is None else 'not in usage'}"
            continue
        aggregation, figures = actual
        compared = {"value_sum": expected.value_sum, "event_count": expected.event_count}
        if expected.quantity is not None:
            compared["quantity"] = expected.quantity
        differences = [
            f"{word} expected {one}, got {getattr(figures, word)}"
            for word, one in compared.items()
            if one != getattr(figures, word)
        ]
        if differences:
            yield f"{name} ({aggregation.value}): {', '.join(differences)}"


def _add(found: _Grain, meter: Meter, event: RecountedEvent, data: Any) -> None:
    if meter.aggregation is Aggregation.COUNT:
        found.values.append(Decimal(1))
    elif meter.value == "quantity":
        if event.quantity is not None:
            found.values.append(event.quantity)
    else:
        text = _text(_at(data, str(meter.value).removeprefix("data.")))
        if text is None:
            return
        if meter.aggregation is Aggregation.UNIQUE_COUNT:
            found.values.append(Decimal(1))
            found.texts.add(text)
        elif _PLAIN_NUMBER.fullmatch(text):
            found.values.append(Decimal(text))


def _figures(aggregation: Aggregation, found: _Grain) -> RowFigures:
    with localcontext() as context:
        context.prec = 60
        total = sum(found.values, Decimal(0))
        quantity: Decimal | None = total
        match aggregation:
            case Aggregation.MAX | Aggregation.PERCENTILE | Aggregation.SUM_OF_MAXIMA:
                quantity = max(found.values)
            case Aggregation.MIN:
                quantity = min(found.values)
            case Aggregation.AVERAGE:
                quantity = (total / len(found.values)).quantize(_BILLIONTH, ROUND_HALF_UP)
            case Aggregation.UNIQUE_COUNT:
                quantity = Decimal(len(found.texts))
            case Aggregation.LATEST | Aggregation.TIME_WEIGHTED_SUM:
                quantity = None
        return RowFigures(quantity, total, len(found.values))


def _dimensions(meter: Meter, data: Any) -> str:
    named = [f"{_json(path)}:{_json(_at(data, path))}" for path in meter.dimensions]
    return "{" + ",".join(named) + "}"


def _at(data: Any, path: str) -> Any:
    for name in path.split("."):
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
