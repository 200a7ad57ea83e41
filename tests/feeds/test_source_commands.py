"""`billing source`: a ready contract is one command away, and never spoils the project it is written into."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.adapters.project_files import load_project, ready_contracts
from pipeline.core.completeness import Evidence, manifest_entries, parse_evidence
from pipeline.core.contract import FieldOrigin, SourceContract
from pipeline.core.evidence import Offsets
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
    assert json.loads(done.stdout) == {"contract": str(folder / "sources" / "lago_eu.toml"), "problems": []}
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


def test_the_first_feed_is_added_after_the_sample_is_gone(tmp_path: Path) -> None:
    """Without a contract the project is invalid; adding one is what mends it."""
    folder = write_project(tmp_path / "project")
    (folder / "sources" / "usage.toml").unlink()
    (folder / "sources").rmdir()

    done = billing("source", "add", "stripe_meter_events", "--project", folder)

    assert done.returncode == 0, done.stderr
    assert (folder / "sources" / "stripe_meter_events.toml").is_file()
    assert "is written" in done.stdout


def test_what_else_is_wrong_with_the_project_is_a_warning(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    (folder / "accounts.csv").unlink()
    (folder / "sources" / "usage.toml").write_text("no TOML")

    said = billing("source", "add", "lago", "--project", folder)
    document = json.loads(billing("source", "add", "orb", "--project", folder, "--json").stdout)

    assert said.returncode == 0
    assert "warning: the project cannot be used yet:" in said.stderr
    assert "accounts.csv: found no readable file" in said.stderr
    assert {line.partition(":")[0] for line in document["problems"]} == {"accounts.csv", "sources/usage.toml"}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_without_billing_toml_is_no_project(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "elsewhere"
    if is_there:
        folder.mkdir()

    done = billing("source", "add", "lago", "--project", folder, "--json")

    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "project.not_found"
    assert list(tmp_path.rglob("*.toml")) == []


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


# A fence of the page: its language, the line before it, its content.
FENCES = re.compile(r"(?:^([^\n]*)\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_contract_and_every_evidence_of_the_page_is_what_it_says() -> None:
    contract: SourceContract | None = None
    contracts: list[SourceContract] = []
    read: list[Evidence] = []
    for before, language, content in FENCES.findall(FEEDS.read_text(encoding="utf-8")):
        key = re.search(r"`([^`]+)`:$", before)
        if language == "toml":
            contract = SourceContract.model_validate(tomllib.loads(content, parse_float=Decimal))
            contracts.append(contract)
        elif key is not None:
            assert contract is not None
            said = parse_evidence(contract, key[1], content.encode())
            assert isinstance(said, Evidence), said
            read.append(said)

    assert {found.completeness.evidence for found in contracts} == {"elapsed", "offsets", "control_file", "heartbeat"}
    assert [(one.contract, one.kind.value) for one in read] == [
        *([("api", "control_file")] * 3),
        *((name, "heartbeat") for name in ("sensors", "hourly", "meters")),
        *((name, "manifest") for name in ("exports", "drops")),
    ]
    counts = [[row["count"] for row in json.loads(control.content)] for control in read[:3]]
    assert counts == [[1200], [1200, 0], [311, 290]]
    assert {json.loads(heartbeat.content)["complete_until"] for heartbeat in read[3:6]} == {"2026-01-15T06:00:00+00:00"}
    assert [entry.key for manifest in read[6:] for entry in manifest_entries(manifest)] == [
        "exports/2026-01-15/part-0.csv.gz",
        "exports/shared/part-1.csv.gz",
        "exports/2026-01-15/part-2.csv.gz",
        "drops/data/a.ndjson",
        "drops/data/b.ndjson",
    ]


def test_the_offset_of_the_page_is_read_from_its_key() -> None:
    text = FEEDS.read_text(encoding="utf-8")
    [toml] = [content for _, language, content in FENCES.findall(text) if language == "toml" and "offsets" in content]
    key = re.search(r"^`(topics/[^`]+)` is partition 3 of topic `calls` from offset 41,207 on", text, re.MULTILINE)
    evidence = SourceContract.model_validate(tomllib.loads(toml, parse_float=Decimal)).completeness

    assert key is not None
    assert isinstance(evidence, Offsets)
    assert evidence.offset_of(key[1]) == ("calls", "3", 41_207)


def test_every_reason_of_quarantine_and_every_ready_contract_is_on_the_page() -> None:
    text = FEEDS.read_text(encoding="utf-8")

    assert [reason.value for reason in QuarantineReason if f"`{reason.value}`" not in text] == []
    assert [ready.name for ready in ready_contracts() if f"| `{ready.name}` |" not in text] == []
