"""Meters: how events become the quantity of one SKU.

Meters are bound when a window is computed, not when an event is collected, so a wrong meter is mended by a
new revision from the same raw events. One event may feed several meters.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.core.contract import StrictModel


class Aggregation(StrEnum):
    """How the values of many events become one quantity. Empty window: 0. Neutral element: 0."""

    SUM = "sum"
    COUNT = "count"


class Meter(StrictModel):
    """Counts events of one type (and filter) into the quantity of one SKU.

    ``value`` is ``quantity`` (the typed column) or ``data.<path>``; a count needs none.
    ``filter`` maps paths of ``data`` to the text they must equal.
    """

    sku: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    event_type: Annotated[str, Field(min_length=1)]
    aggregation: Aggregation
    value: Annotated[str, Field(pattern=r"^(quantity|data\.[A-Za-z0-9_.]+)$")] | None = None
    unit: Annotated[str, Field(min_length=1)]
    filter: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")], str] = Field(default_factory=dict)
    dimensions: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")], ...] = ()

    @model_validator(mode="after")
    def _value_fits_aggregation(self) -> Self:
        if (self.aggregation is Aggregation.COUNT) != (self.value is None):
            raise ValueError('a sum needs `value` ("quantity" or "data.<path>"); a count has none')
        return self


class MeterFile(StrictModel):
    """The file ``meters.toml``: every meter of the project; one meter per SKU."""

    meters: Annotated[tuple[Meter, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_meter_per_sku(self) -> Self:
        seen: set[str] = set()
        for meter in self.meters:
            if meter.sku in seen:
                raise ValueError(f"SKU {meter.sku!r} has two meters; one SKU has one meter")
            seen.add(meter.sku)
        return self
