"""A problem that pydantic found in a file, as one line: key, what was found, what is accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

SHOWN_MAX = 80
INSTANT = "an instant with a zone such as 2026-01-01T00:00:00Z"


def sentence(model: type[BaseModel], details: ErrorDetails) -> str:
    key, models = place_of(model, details["loc"])
    context = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return f"{key}: found nothing, accepted a value (the key is required)"
        case "extra_forbidden":
            accepted = sorted({name for at_key in models for name in at_key.model_fields})
            return f"{key}: found an unknown key, accepted {', '.join(accepted)}"
        case "union_tag_invalid":
            return f"{key}.{_discriminator(context)}: found {context['tag']!r}, accepted {context['expected_tags']}"
        case "union_tag_not_found":
            members = place_of(model, (*details["loc"], 0))[1]
            tags = sorted({repr(tag) for member in members for tag in _tags(member)})
            return f"{key}.{_discriminator(context)}: found nothing, accepted {', '.join(tags)}"
        case "value_error":
            prefix = f"{key}: " if key else ""
            found = "" if isinstance(details["input"], Mapping) else f"found {shown(details['input'])}; "
            return f"{prefix}{found}{context['error']}"
        case "timezone_aware" | "datetime_from_date_parsing" | "datetime_parsing" | "datetime_type":
            return f"{key}: found {shown(details['input'])}, accepted {INSTANT}"
        case "too_short":
            return f"{key}: found {shown(details['input'])}, accepted {context['min_length']} or more"
        case _:
            message = details["msg"].removeprefix("Input should be ")
            return f"{key}: found {shown(details['input'])}, accepted {message[:1].lower()}{message[1:]}"


def place_of(model: type[BaseModel], location: Sequence[int | str]) -> tuple[str, list[type[BaseModel]]]:
    """Return the key as people write it (entries of lists count from #1), and the models around its last part."""
    parts: list[str] = []
    models = around = [model]
    for part in location:
        if isinstance(part, int):
            parts.append(f"#{part + 1}")
            continue
        around = models
        with_field = [candidate for candidate in models if part in candidate.model_fields]
        tagged = [candidate for candidate in models if part in _tags(candidate)]
        if with_field:
            models = [found for candidate in with_field for found in _models(candidate.model_fields[part].annotation)]
        elif tagged:
            models = tagged
            continue
        parts.append(part)
    ends_in_entry = bool(location) and isinstance(location[-1], int)
    return ".".join(parts), models if ends_in_entry else around


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models(argument)]


def _discriminator(context: Mapping[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values of the field `model` or `evidence` that choose this member of a union."""
    field = model.model_fields.get("model") or model.model_fields.get("evidence")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, datetime):
        return value.isoformat()
    is_short = isinstance(value, Decimal) and abs(value.adjusted()) < SHOWN_MAX  # 1e999999 has a million digits
    text = f"{value:f}" if is_short else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."
