"""Files of invoices: whole, resumable, the same for any number of processes, and of the bytes that were issued."""

import csv
import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest
from pypdf import PdfReader

from pipeline.adapters import invoice_files
from pipeline.adapters.child_process import ChildProcess
from pipeline.adapters.invoice_files import INDEX, RenderedFiles, StoredDocument, render_invoices
from pipeline.adapters.invoice_page import Withdrawn
from pipeline.core.errors import NotReadyError, PublicationError
from pipeline.core.manifest import canonical_json
from tests.adapters.invoice_documents import document


def stored(folder: Path, numbers: Sequence[int], name: str = "Seven GmbH") -> list[StoredDocument]:
    """Put documents into one bundle and say where each of them is."""
    bundle = folder / "bundle.json"
    found, content = [], b""
    for number in numbers:
        customer = {"account_id": f"acct-{number}", "name": name, "plan": "standard"}
        one = canonical_json(document(number=f"LLM-{number:06d}", customer=customer))
        place = (str(bundle), len(content), len(one))
        found.append(
            StoredDocument(f"LLM-{number:06d}", customer["account_id"], hashlib.sha256(one).hexdigest(), *place)
        )
        content += one
    bundle.write_bytes(content)
    return found


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_document_is_a_page_in_the_folder_of_its_thousand_numbers(tmp_path: Path) -> None:
    documents = stored(tmp_path, [1, 999, 1000])

    result = render_invoices(documents, tmp_path / "out")

    assert result == RenderedFiles(written=3, current=0)
    assert sorted(files_below(tmp_path / "out")) == [
        "LLM-000xxx/LLM-000001_acct-1.html",
        "LLM-000xxx/LLM-000999_acct-999.html",
        "LLM-000xxx/index.csv",
        "LLM-001xxx/LLM-001000_acct-1000.html",
        "LLM-001xxx/index.csv",
    ]
    assert "LLM-001000" in (tmp_path / "out/LLM-001xxx/LLM-001000_acct-1000.html").read_text(encoding="utf-8")


def test_the_index_names_each_file_with_its_hash_and_that_of_its_document(tmp_path: Path) -> None:
    [first] = stored(tmp_path, [1])

    render_invoices([first], tmp_path / "out", ("html", "json"))

    folder = tmp_path / "out/LLM-000xxx"
    rows = list(csv.DictReader((folder / INDEX).read_text(encoding="utf-8").splitlines()))
    assert [(row["file"], row["document_sha256"]) for row in rows] == [
        ("LLM-000001_acct-1.html", first.sha256),
        ("LLM-000001_acct-1.json", first.sha256),
    ]
    for row in rows:
        assert hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    assert json.loads((folder / "LLM-000001_acct-1.json").read_bytes())["number"] == "LLM-000001"


def test_what_is_there_with_the_right_hash_is_left_alone(tmp_path: Path) -> None:
    documents = stored(tmp_path, [1, 2, 3])
    render_invoices(documents, tmp_path / "out")
    before = files_below(tmp_path / "out")
    changed, gone = (tmp_path / f"out/LLM-000xxx/LLM-00000{number}_acct-{number}.html" for number in (1, 2))
    changed.write_bytes(changed.read_bytes()[:-1])
    gone.unlink()

    result = render_invoices(documents, tmp_path / "out")

    assert result == RenderedFiles(written=2, current=1)
    assert files_below(tmp_path / "out") == before
    assert render_invoices(documents, tmp_path / "out") == RenderedFiles(written=0, current=3)


def test_another_template_makes_every_page_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = stored(tmp_path, [1])
    render_invoices(documents, tmp_path / "out")

    monkeypatch.setattr(invoice_files, "_renderer", lambda extension: "another")

    assert render_invoices(documents, tmp_path / "out") == RenderedFiles(written=1, current=0)


def test_documents_that_come_later_join_the_index(tmp_path: Path) -> None:
    documents = stored(tmp_path, [1, 2])

    render_invoices(documents[:1], tmp_path / "out")
    result = render_invoices(documents, tmp_path / "out")

    assert result == RenderedFiles(written=1, current=1)
    assert len((tmp_path / "out/LLM-000xxx/index.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_a_document_that_becomes_void_gets_another_page(tmp_path: Path) -> None:
    [first] = stored(tmp_path, [1])
    render_invoices([first], tmp_path / "out")

    result = render_invoices([first._replace(void=Withdrawn(date(2026, 2, 3), "wrong address"))], tmp_path / "out")

    assert result.written == 1
    page = (tmp_path / "out/LLM-000xxx/LLM-000001_acct-1.html").read_text(encoding="utf-8")
    assert "Void since 3 February 2026: wrong address" in page


def test_a_changed_byte_of_a_document_is_refused_by_number_and_hashes(tmp_path: Path) -> None:
    [first, second] = stored(tmp_path, [1, 2])
    bundle = Path(first.path)
    content = bytearray(bundle.read_bytes())
    content[second.start + 5] ^= 1
    bundle.write_bytes(content)
    actual = hashlib.sha256(content[second.start :]).hexdigest()

    with pytest.raises(PublicationError, match="document LLM-000002 does not have") as refusal:
        render_invoices([first, second], tmp_path / "out")

    assert f"expected SHA-256 {second.sha256}, got {actual}" in str(refusal.value)
    assert not (tmp_path / "out/LLM-000xxx/LLM-000002_acct-2.html").exists()


def test_the_files_are_the_same_for_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoice_files, "FEW", 0)
    documents = stored(tmp_path, [1, 1001, 2001, 2002])

    alone = render_invoices(documents, tmp_path / "alone", processes=1)
    shared = render_invoices(documents, tmp_path / "shared", processes=3)

    assert alone == shared == RenderedFiles(written=4, current=0)
    assert files_below(tmp_path / "alone") == files_below(tmp_path / "shared")


def test_a_run_that_is_killed_leaves_whole_files_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoice_files, "FEW", 0)
    documents = stored(tmp_path, range(2000))
    expected = tmp_path / "expected"
    render_invoices(documents, expected)
    out, send = tmp_path / "out", ChildProcess.send

    def kill_when_pages_appear(process: ChildProcess, task: invoice_files._Task) -> None:
        send(process, task)
        give_up_at = time.monotonic() + 60
        while not list(task.folder.glob("*.html")) and time.monotonic() < give_up_at:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)

    with monkeypatch.context() as killing:
        killing.setattr(ChildProcess, "send", kill_when_pages_appear)
        with pytest.raises(NotReadyError, match="ended before it was done"):
            render_invoices(documents, out, processes=2)
    partial = files_below(out)
    pages = {name: content for name, content in partial.items() if name.endswith(".html")}
    assert 0 < len(pages) < 2000
    right = files_below(expected)
    assert all(content == right[name] for name, content in pages.items())

    render_invoices(documents, out, processes=2)

    assert files_below(out) == right


def test_a_name_that_no_font_has_costs_only_its_own_pdf(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    foreign, plain = stored(tmp_path / "a", [1], name="東京"), stored(tmp_path, [2])

    result = render_invoices([*foreign, *plain], tmp_path / "out", ("html", "pdf"))

    assert result.written == 3
    assert [problem.split(":")[0] for problem in result.problems] == ["LLM-000001_acct-1.pdf"]
    assert "LLM-000002" in PdfReader(tmp_path / "out/LLM-000xxx/LLM-000002_acct-2.pdf").pages[0].extract_text()
    assert not (tmp_path / "out/LLM-000xxx/LLM-000001_acct-1.pdf").exists()
