"""Lines of TOML: every key of a file is found where it stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.toml_lines import Path, line_of, toml_lines

HARD = '''# a comment with [brackets] and "quotes"
title = "a = 1 # no comment"

[plans."with.dots"]
multi = """
first [line]
\\""" still in it
last"""
after.dotted.key = 1.5
literal = 'C:\\'

[[plans."with.dots".charges]] # the first
sku = "a"
tiers = [
    { up_to = 1_000, unit_price = 0.1 },  # { not a table }

    { unit_price = 2 },
]
nested = [[1, 2], [
  3]]

  [[plans."with.dots".charges]]
  sku = "b"
  when = 2026-01-01 07:32:00
  [plans."with.dots".charges.match]
  region = "eu"
'''


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    else:
        yield path, value


def test_every_value_of_a_file_is_found_on_its_line() -> None:
    lines = toml_lines(HARD)

    charges = ("plans", "with.dots", "charges")
    found = {path: lines[path] for path, _ in leaves(tomllib.loads(HARD))}
    assert found == {
        ("title",): 2,
        ("plans", "with.dots", "multi"): 5,
        ("plans", "with.dots", "after", "dotted", "key"): 9,
        ("plans", "with.dots", "literal"): 10,
        (*charges, 0, "sku"): 13,
        (*charges, 0, "tiers", 0, "up_to"): 15,
        (*charges, 0, "tiers", 0, "unit_price"): 15,
        (*charges, 0, "tiers", 1, "unit_price"): 17,
        (*charges, 0, "nested", 0, 0): 19,
        (*charges, 0, "nested", 0, 1): 19,
        (*charges, 0, "nested", 1, 0): 20,
        (*charges, 1, "sku"): 23,
        (*charges, 1, "when"): 24,
        (*charges, 1, "match", "region"): 26,
    }
    assert lines[(*charges, 1)] == 22
    assert line_of(lines, (*charges, 1, "no such key")) == 22
    assert line_of(lines, ("no such key",)) == 1


def test_lines_of_a_file_from_windows_are_the_same() -> None:
    assert toml_lines(HARD.replace("\n", "\r\n")) == toml_lines(HARD)


VALUES = st.recursive(
    st.sampled_from(["1", "-2.50", "true", '"a,b]}"', "'''x\ny''''", '"""\nz"""', "2026-01-01", "1979-05-27 07:32:00"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ",\n".join(items) + "\n]"),
        st.lists(inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"k{n} = {item}" for n, item in enumerate(items)) + "}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_a_marked_value_is_found_on_the_line_of_its_mark(values: list[str]) -> None:
    text = "".join(f"[[entries]]\nbefore = {value}\nmarked = 0\n" for value in values)
    marked = [number for number, line in enumerate(text.splitlines(), start=1) if line == "marked = 0"]

    lines = toml_lines(text)

    assert len(tomllib.loads(text)["entries"]) == len(values)
    assert [lines["entries", place, "marked"] for place in range(len(values))] == marked
    assert all(path in lines for path, _ in leaves(tomllib.loads(text)))
