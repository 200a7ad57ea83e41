"""JSON Schema (draft 2020-12) of the data of an event type, checked on exact decimals.

A schema stands on its own: a reference leads to a place inside it, never to another file or the network, so the
pinned bytes of one file say what was accepted. ``format`` is an annotation, as the draft has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

import referencing.exceptions
from jsonschema import Draft202012Validator, SchemaError, ValidationError, validators  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from pipeline.core.json_text import shown
from pipeline.core.reason import QuarantineReason, RejectedError

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SHOWN_CHARACTERS_MAX = 120


def _is_integer(checker: Any, value: Any) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def _multiple_of(validator: Any, factor: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    # Fractions, because the remainder of Decimal fails where the quotient has more digits than its context.
    if validator.is_type(value, "number") and (Fraction(value) / Fraction(factor)).denominator != 1:
        yield ValidationError(f"{value} is not a multiple of {factor}")


_ExactValidator = validators.extend(
    Draft202012Validator,
    validators={"multipleOf": _multiple_of},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def schema_problems(text: str) -> list[str]:
    """Return what is wrong with a schema, one line each with its place; nothing if it can be used."""
    try:
        schema = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        return [f"line {error.lineno} column {error.colno}: found text that is not JSON: {error.msg}"]
    except RecursionError:
        return ["found text that is nested too deep to be read"]
    if not isinstance(schema, dict | bool):
        return [f"found {shown(schema)}, accepted a JSON Schema: an object, true or false"]
    draft = schema.get("$schema", DRAFT) if isinstance(schema, dict) else DRAFT
    if draft not in (DRAFT, f"{DRAFT}#"):
        return [f"$schema: found {shown(draft)}, accepted {DRAFT!r}"]
    try:
        _ExactValidator.check_schema(schema)
    except SchemaError as error:
        return [f"{error.json_path}: {error.message}"]
    return list(_reference_problems(schema))


def _reference_problems(schema: Any) -> Iterator[str]:
    root: Resource[Any] = DRAFT202012.create_resource(schema)
    resolver = Registry().with_resource("", root).resolver()
    for place, reference in _references(schema, "$"):
        if not reference.startswith("#"):
            yield f"{place}: found {shown(reference)}, accepted a reference inside the file, such as '#/$defs/name'"
            continue
        try:
            resolver.lookup(reference)
        except referencing.exceptions.Unresolvable:
            yield f"{place}: found {shown(reference)}, which is nowhere in the file"


def _references(schema: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _references(item, f"{place}[{index}]")
    elif isinstance(schema, dict):
        for name, item in schema.items():
            if name in ("$ref", "$dynamicRef") and isinstance(item, str):
                yield f"{place}.{name}", item
            elif name not in ("const", "enum", "default", "examples"):
                yield from _references(item, f"{place}.{name}")


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    return _ExactValidator(json.loads(text, parse_float=Decimal), registry=Registry())


def check_schema(text: str, data: Any, name: str) -> None:
    """Raise ``RejectedError`` with the place, what is accepted and what was found, if data does not match a schema."""
    try:
        # The error nearest to the root first: what is deeper often follows from it. Ties go to the order of the schema.
        error = min(_validator(text).iter_errors(data), key=lambda found: len(found.absolute_path), default=None)
    except RecursionError:
        raise RejectedError(
            QuarantineReason.NESTED_TOO_DEEP, f"{name}: nested too deep to be checked against its JSON Schema"
        ) from None
    if error is not None:
        place = name + error.json_path.removeprefix("$")
        raise RejectedError(QuarantineReason.SCHEMA_VIOLATION, f"{place}: {_sentence(error)}")


def _sentence(error: ValidationError) -> str:
    """Return expected and actual of an error."""
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"expected {_short(', '.join(map(repr, missing)))}, got nothing"
    if error.validator is None:
        return f"expected nothing here, got {_value(error.instance)}"
    if error.validator == "additionalProperties" and error.validator_value is False:
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        extra = sorted(name for name in error.instance if name not in known)
        return f"expected no other than the declared properties, got {_short(', '.join(map(repr, extra)))}"
    expected = _short(json.dumps(error.validator_value, default=str, ensure_ascii=False))
    return f"expected {error.validator} {expected}, got {_value(error.instance)}"


def _value(value: Any) -> str:
    return str(value)[:_SHOWN_CHARACTERS_MAX] if isinstance(value, Decimal) else shown(value)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[: _SHOWN_CHARACTERS_MAX - 3]}..."
