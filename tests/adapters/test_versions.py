"""The versions that a run manifest records are those that compute."""

from __future__ import annotations

import platform
import zoneinfo
from importlib.metadata import version
from pathlib import Path

import duckdb
import pytest

from pipeline.adapters.versions import engine_versions, time_zone_data_version


def test_each_engine_has_its_version() -> None:
    versions = engine_versions()

    assert versions["duckdb"] == duckdb.__version__
    assert versions["python"] == platform.python_version()
    assert all(versions.values())


@pytest.mark.parametrize(("name", "text"), [("tzdata.zi", "# version 2031c\n# more\n"), ("+VERSION", "2031c\n")])
def test_the_time_zone_data_is_that_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    (tmp_path / "Etc").mkdir()
    (tmp_path / "Etc" / "UTC").write_bytes(b"TZif")
    monkeypatch.setattr(zoneinfo, "TZPATH", (str(tmp_path / "no such folder"), str(tmp_path)))

    assert time_zone_data_version() == "unknown"
    (tmp_path / name).write_text(text)
    assert time_zone_data_version() == "2031c"


def test_without_a_system_database_it_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "TZPATH", ())

    assert time_zone_data_version() == version("tzdata")
