"""Render the documents of a bundle: ``python -m benchmarks.documents.ours BUNDLE OUT html|pdf COUNT PROCESSES``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.adapters.invoice_files import StoredDocument, render_invoices


def main(bundle: str, out: str, extension: str, count: str, processes: str) -> None:
    """Print how many files were written."""
    documents = str(Path(bundle) / "documents.jsonl")
    places = json.loads((Path(bundle) / "places.json").read_text(encoding="utf-8"))[: int(count)]
    stored = [
        StoredDocument(number, account, sha, documents, start, size) for number, account, sha, start, size in places
    ]
    rendered = render_invoices(stored, Path(out), ["pdf" if extension == "pdf" else "html"], int(processes))
    sys.stdout.write(f"{rendered.written} {rendered.current}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
