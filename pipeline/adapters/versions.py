"""Which versions compute: recorded in the manifest of a run, so that another result can be explained later."""

from __future__ import annotations

import platform
import re
import zoneinfo
from importlib.metadata import version
from pathlib import Path

from pipeline import __version__

ENGINES = ("duckdb", "great-expectations", "pyarrow")


def engine_versions() -> dict[str, str]:
    """Return the version of the pipeline, of its engines, of Python and of the time zone data, by name."""
    return {
        "pipeline": __version__,
        **{engine: version(engine) for engine in ENGINES},
        "python": platform.python_version(),
        "time_zone_data": time_zone_data_version(),
    }


def time_zone_data_version() -> str:
    """Return the release of the time zone data that Python reads, such as ``2026a``: the system's, else the package's.

    A system that does not say which release it has is ``unknown``.
    """
    for folder in (Path(path) for path in zoneinfo.TZPATH):
        if (folder / "Etc" / "UTC").is_file():
            for name, pattern in (("tzdata.zi", r"# version (\S+)"), ("+VERSION", r"(\S+)")):
                if (folder / name).is_file():
                    with (folder / name).open(encoding="utf-8") as lines:
                        found = re.match(pattern, lines.readline())
                    if found is not None:
                        return found[1]
            return "unknown"
    return version("tzdata")
