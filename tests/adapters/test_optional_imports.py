"""What a command does not need is not imported: half of the time of a small collection is the start of the program."""

import subprocess
import sys

import pytest

from pipeline.adapters.optional_imports import without

NOT_NEEDED = ("alembic", "great_expectations", "jinja2", "jsonschema", "pandas", "polars", "scipy", "yaml")


def run_python(program: str) -> str:
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_collecting_imports_nothing_that_it_does_not_need() -> None:
    program = "import sys, pipeline.cli, pipeline.steps.collect, pipeline.steps.workspace; print(*sys.modules)"

    imported = run_python(program).split()

    assert "numba" in imported
    assert [name for name in NOT_NEEDED if name in imported] == []


def test_a_frame_can_be_made_after_pandas_was_left_out() -> None:
    program = """
import sys
import pyarrow as pa
import pipeline.adapters.event_files
pa.array(["a text"])
assert "pandas" not in sys.modules
print(pa.table({"count": [1, 2]}).to_pandas()["count"].sum())
import pandas
print(pa.array(pandas.Series([1.0, float("nan")])).null_count)
"""

    assert run_python(program).split() == ["3", "1"]


def test_a_package_is_missing_only_inside() -> None:
    program = """
from pipeline.adapters.optional_imports import without
with without("colorsys"):
    try:
        import colorsys
    except ImportError:
        print("missing")
import colorsys
print("found")
"""

    assert run_python(program).split() == ["missing", "found"]


def test_a_package_that_is_imported_already_stays() -> None:
    with without("pytest"):
        import pytest as again

    assert again is pytest
