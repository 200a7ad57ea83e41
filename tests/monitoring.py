"""The tools that check what monitoring reads; one that is missing is a failure that says how to install it."""

from __future__ import annotations

import shutil

PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}


def tool(name: str) -> str:
    """Return the path of a tool of Debian's packages of Prometheus."""
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install --no-install-recommends {PACKAGES[name]}"
    return found
