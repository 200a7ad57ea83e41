"""`billing source`: a ready contract is one command away, and never spoils the project it is written into."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.adapters.project_files import load_project, ready_contracts
from pipeline.core.contract import FieldOrigin, SourceContract
from pipeline.core.reason import QuarantineReason
from tests.fixtures_project import write_project

FEEDS = Path(__file__).resolve().parents[2] / "docs" / "feeds.md"


def billing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_ready_contracts_are_listed_as_sentences_and_as_json() -> None:
    names = [ready.name for ready in ready_contracts()]

    lines = billing("source", "list").stdout.splitlines()
    document = json.loads(billing("source", "list", "--json").stdout)

    assert len(names) >= 10
    assert [line.split()[0] for line in lines] == names
    assert [entry["name"] for entry in document] == names


def test_every_ready_contract_can_be_in_one_project(tmp_path: Path) -> None:
    from pipeline.adapters.project_files import add_ready_contract

    folder = write_project(tmp_path / "project")
    for ready in ready_contracts():
        add_ready_contract(folder, ready.name)

    contracts = {contract.name for contract in load_project(folder).contracts}
    assert contracts == {"usage", *(ready.name for ready in ready_contracts())}


def test_a_contract_is_added_under_another_prefix_and_name(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")

    done = billing(
        "source", "add", "lago", "--prefix", 'eu/"lago"/', "--name", "lago_eu", "--project", folder, "--json"
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"contract": str(folder / "sources" / "lago_eu.toml")}
    [added] = [contract for contract in load_project(folder).contracts if contract.name == "lago_eu"]
    assert added.prefix == 'eu/"lago"/'


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nobody",), "source.unknown_contract"),
        (("lago", "--name", "../lago"), "source.wrong_name"),
        (("lago", "--name", "usage"), "source.exists"),
        (("lago", "--prefix", "usage/"), "project.invalid"),
    ],
)
def test_a_contract_that_cannot_be_added_leaves_the_project_as_it_was(
    tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    folder = write_project(tmp_path / "project")
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    done = billing("source", "add", *arguments, "--project", folder, "--json")

    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == code
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before


def test_both_commands_have_an_example() -> None:
    for command in ("list", "add"):
        assert f"Example: billing source {command}" in billing("source", command, "--help").stdout


# The page about feeds ------------------------------------------------------------------------------------------------


def keys_of(model: type[BaseModel]) -> set[str]:
    """Return every key of a model and of the models below it."""
    keys: set[str] = set()
    seen: set[type[BaseModel]] = set()
    waiting: list[object] = [model]
    while waiting:
        found = waiting.pop()
        if isinstance(found, type) and issubclass(found, BaseModel):
            if found not in seen:
                seen.add(found)
                keys |= set(found.model_fields)
                waiting += [field.annotation for field in found.model_fields.values()]
        else:
            waiting += list(getattr(found, "__args__", ()))
    return keys


def test_every_key_of_a_contract_is_on_the_page() -> None:
    text = FEEDS.read_text(encoding="utf-8")
    named = {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[a-z_]+", code)}
    keys = keys_of(SourceContract)

    assert {"json_depth_max", "data_object", "evidence", "minimum"} <= keys
    assert keys - named == set()
    assert set(FieldOrigin.model_fields) <= named


def test_every_reason_of_quarantine_and_every_ready_contract_is_on_the_page() -> None:
    text = FEEDS.read_text(encoding="utf-8")

    assert [reason.value for reason in QuarantineReason if f"`{reason.value}`" not in text] == []
    assert [ready.name for ready in ready_contracts() if f"| `{ready.name}` |" not in text] == []
