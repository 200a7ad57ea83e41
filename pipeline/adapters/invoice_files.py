"""Files of invoices: pages, PDFs and data of many documents, rendered in parallel into folders that people open.

A folder holds the documents of a thousand numbers (``LLM-000001`` to ``LLM-000999`` are in ``LLM-000xxx``) and
``index.csv``, which names each of its files with the SHA-256 of the file and of the document it was made from. A file
appears whole or not at all. The index is written last, so that a run that was killed is done again for its last
folders, and whatever the index names and has its hash is left as it is.
"""

from __future__ import annotations

import csv
import gc
import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Self

from pipeline.adapters import documents, invoice_page, text_formats
from pipeline.adapters.child_process import ProcessDiedError, serve, spread
from pipeline.adapters.documents import TEMPLATES, render_texts
from pipeline.adapters.invoice_page import Withdrawn, read_document
from pipeline.adapters.invoice_page import invoice_page as page_of
from pipeline.adapters.invoice_pdf import LetterWithoutFontError, invoice_pdf
from pipeline.core.errors import NotReadyError, PublicationError

Format = Literal["html", "pdf", "json"]

INDEX = "index.csv"
ACCOUNT_LETTERS_MAX = 100  # in the name of a file; the number before it is what makes it one
FEW = 500  # documents for which no process is worth starting


class StoredDocument(NamedTuple):
    """The bytes of a document: ``byte_count`` of the file ``path`` from ``start`` on, issued with this SHA-256."""

    number: str
    account_id: str
    sha256: str
    path: str
    start: int
    byte_count: int
    void: Withdrawn | None = None

    @property
    def folder(self) -> str:
        """Return the folder it belongs into.

        >>> StoredDocument("LLM-012345", "acct-7", "", "", 0, 0).folder
        'LLM-012xxx'
        """
        return re.sub(r"[0-9]{1,3}$", "xxx", self.number)

    @property
    def stem(self) -> str:
        return f"{self.number}_{self.account_id[:ACCOUNT_LETTERS_MAX]}"


@dataclass(frozen=True, slots=True)
class RenderedFiles:
    """How many files were written and how many were there already; ``problems`` says which could not be made."""

    written: int
    current: int
    problems: tuple[str, ...] = ()

    def __add__(self, other: RenderedFiles) -> RenderedFiles:
        return RenderedFiles(self.written + other.written, self.current + other.current, self.problems + other.problems)


class _Entry(NamedTuple):
    """One row of an index."""

    file: str
    number: str
    account_id: str
    sha256: str
    document_sha256: str
    void: str
    renderer: str


class _Task(NamedTuple):
    folder: Path
    documents: Sequence[StoredDocument]
    formats: Sequence[Format]
    fonts: Path | None


def render_invoices(
    stored: Iterable[StoredDocument],
    folder: Path,
    formats: Sequence[Format] = ("html",),
    processes: int = 1,
    fonts: Path | None = None,
) -> RenderedFiles:
    """Render documents into folders of ``folder``; what is there already, from the same document, is left as it is.

    ``fonts`` is a folder with fonts for the PDF beside those of the Typst package. Bytes that are not those of the
    document raise ``PublicationError``. The files are the same for any number of processes.
    """
    folders: defaultdict[str, list[StoredDocument]] = defaultdict(list)
    for document in stored:
        folders[document.folder].append(document)
    tasks = [_Task(folder / name, sorted(those), formats, fonts) for name, those in sorted(folders.items())]
    count = processes if sum(len(task.documents) for task in tasks) > FEW else 1
    return sum(spread(__name__, _render_folder, tasks, count, _worker_died), RenderedFiles(0, 0))


def _worker_died(error: ProcessDiedError) -> NotReadyError:
    return NotReadyError(
        "render.worker_died",
        "a process that rendered invoices ended before it was done",
        [
            f"its exit code is {error.exit_code}; memory may have run out, or somebody killed it",
            "what was rendered stays; the same call goes on from there",
        ],
    )


def _render_folder(task: _Task) -> RenderedFiles:
    task.folder.mkdir(parents=True, exist_ok=True)
    before = _read_index(task.folder / INDEX)
    after: dict[str, _Entry] = {}
    current = 0
    problems: list[str] = []
    with _Bundles() as bundles:
        for document in task.documents:
            missing = []
            for extension in task.formats:
                entry = _entry(document, extension)
                found = before.get(entry.file)
                if found is not None and found._replace(sha256="") == entry and _has_hash(task.folder, found):
                    current += 1
                else:
                    missing.append((extension, entry))
            if not missing:
                continue
            page = _Page(bundles.content(document), document.void)
            for extension, entry in missing:
                try:
                    made = page.made(extension, task.fonts)
                except LetterWithoutFontError as error:
                    problems.append(f"{entry.file}: {error}")
                    continue
                _write_whole(task.folder / entry.file, made)
                after[entry.file] = entry._replace(sha256=hashlib.sha256(made).hexdigest())
    if after:
        _write_index(task.folder / INDEX, {**before, **after})
    return RenderedFiles(len(after), current, tuple(problems))


class _Bundles:
    """The files that documents are in, each opened once."""

    def __init__(self) -> None:
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def content(self, document: StoredDocument) -> bytes:
        """Return the bytes of a document; it was issued with a hash, and nothing else is shown in its name."""
        file = self._files.get(document.path)
        if file is None:
            file = self._files[document.path] = Path(document.path).open("rb")  # noqa: SIM115 - until the folder is done
        file.seek(document.start)
        content = file.read(document.byte_count)
        actual = hashlib.sha256(content).hexdigest()
        if actual != document.sha256:
            raise PublicationError(
                "render.document_changed",
                f"document {document.number} does not have the bytes that it was issued with",
                [
                    f"read from {document.path}, {document.byte_count:,} bytes from {document.start:,} on",
                    f"expected SHA-256 {document.sha256}, got {actual}",
                    "nothing was rendered from it; restore the file from a backup",
                ],
            )
        return content


class _Page:
    """One document and the texts of its page, which are made when the first format needs them."""

    def __init__(self, content: bytes, void: Withdrawn | None) -> None:
        self._content = content
        self._void = void
        self._texts: Mapping[str, Any] | None = None

    def made(self, extension: Format, fonts: Path | None) -> bytes:
        if extension == "json":
            return self._content
        if self._texts is None:
            self._texts = page_of(read_document(self._content), self._void)
        if extension == "html":
            return render_texts("invoice.html", self._texts).encode()
        return invoice_pdf(self._texts, fonts)


def _entry(document: StoredDocument, extension: Format) -> _Entry:
    void = f"{document.void.on.isoformat()} {document.void.reason}" if document.void else ""
    file = f"{document.stem}.{extension}"
    return _Entry(file, document.number, document.account_id, "", document.sha256, void, _renderer(extension))


@cache
def _renderer(extension: Format) -> str:
    """Return a name for the code that makes a format: other code makes other bytes of the same document."""
    if extension == "json":
        return ""
    code = [TEMPLATES / {"html": "invoice.html", "pdf": "invoice.typ"}[extension]]
    code += [Path(module.__file__ or "") for module in (invoice_page, text_formats, documents)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()[:12]


def _has_hash(folder: Path, entry: _Entry) -> bool:
    try:
        with (folder / entry.file).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    except OSError:
        return False


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name and then give it its own; the kernel writes it to disk in its own time."""
    temporary = f"{path}.part"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
    os.rename(temporary, path)  # noqa: PTH104 - a hundred thousand times


def _read_index(path: Path) -> dict[str, _Entry]:
    """Return the entries of an index by file; one that is not there, or not an index, is empty."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    if not rows or tuple(rows[0]) != _Entry._fields:
        return {}
    return {row[0]: _Entry(*row) for row in rows[1:] if len(row) == len(_Entry._fields)}


def _write_index(path: Path, entries: Mapping[str, _Entry]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_Entry._fields)
    writer.writerows(entries[file] for file in sorted(entries))
    _write_whole(path, text.getvalue().encode())


if __name__ == "__main__":
    gc.set_threshold(100_000)
    from pipeline.adapters.invoice_files import _render_folder as render_folder  # answers must not be of `__main__`

    serve(render_folder)
