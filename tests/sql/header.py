"""The header of an SQL file, read as the contract it is: what a row is, Grain, Reads, Params, why."""

from __future__ import annotations

import re
from dataclasses import dataclass

PARAMETER = re.compile(r"\$(?P<name>[a-z_]+)\s+(?P<type>TIMESTAMPTZ|INTERVAL|VARCHAR|BIGINT|BOOLEAN)\s+\S.*")


@dataclass(frozen=True)
class Header:
    """What an SQL file says about itself."""

    stem: str
    grain: tuple[str, ...]
    reads: tuple[str, ...]
    params: dict[str, str]
    why: str


def parse_header(text: str) -> Header:
    """Return the header; anything that is not in its place raises ``ValueError`` with the place."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    first = re.fullmatch(r"([a-z_]+): one row.*\S", lines[0]) if lines else None
    if first is None:
        raise ValueError("the first line is `-- <file stem>: one row per ...`")
    if len(lines) < 5 or lines[1] != "":
        raise ValueError("the second line of the header is empty, and Grain, Reads and Params follow")
    grain = _labelled(lines[2], "Grain")
    params_at = next((number for number, line in enumerate(lines) if line.startswith("Params:")), 4)
    reads = " ".join([_labelled(lines[3], "Reads"), *lines[4:params_at]])
    end_of_params = lines.index("", params_at) if "" in lines[params_at:] else len(lines)
    params = {}
    param_lines = [_labelled(lines[params_at], "Params"), *lines[params_at + 1 : end_of_params]]
    if param_lines != ["none"]:
        for line in param_lines:
            match = PARAMETER.fullmatch(line)
            if match is None:
                raise ValueError(f"a parameter is `$name  TYPE  meaning`, got {line!r}")
            params[match["name"]] = match["type"]
    why = " ".join(lines[end_of_params + 1 :]).strip()
    if not why:
        raise ValueError("after the parameters and an empty line the header says why")
    return Header(first[1], _names(grain), _names(reads), params, why)


def _labelled(line: str, label: str) -> str:
    if not line.startswith(f"{label}:"):
        raise ValueError(f"expected `-- {label}:`, got {line!r}")
    return line.removeprefix(f"{label}:").strip()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
