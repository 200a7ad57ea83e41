"""Documents that people read: Jinja2 templates of ``pipeline/templates``, filled with finished values.

A template formats. It never adds, rounds or decides, and the filters refuse to lose a digit: an amount with more
decimals than its currency has raises instead of being rounded for the page. A name that the model
lacks raises too, so no page shows a hole.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.adapters.text_formats import (
    format_amount,
    format_date,
    format_instant,
    format_quantity,
    format_unit_price,
)

TEMPLATES = Path(__file__).parent.parent / "templates"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        quantity=format_quantity,
        amount=format_amount,
        unit_price=format_unit_price,
        long_date=format_date,
        instant=format_instant,
    )
    return environment


def render(template: str, model: Mapping[str, Any]) -> str:
    """Return the template filled with the model: every text escaped, no name missing, the same bytes each time."""
    return _environment().get_template(template).render(model)
