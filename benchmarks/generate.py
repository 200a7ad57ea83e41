"""Writes a usage feed into a folder that can be served as a bucket.

    python -m benchmarks.generate --events 10_000_000 --out /tmp/feed
    python -m benchmarks.generate --events 100_000 --layout kafka_connect --out /tmp/kafka

The same arguments make the same bytes before compression, whatever the number of workers. The bucket is the folder
``raw-usage`` of ``--out``; ``feed.json`` beside it says what a correct reader finds (a layout that writes whole seconds
or whole bytes keeps the rest to itself). A file's modification time, which an S3 server lists as LastModified, is two
minutes after its last event.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from isal import igzip

from benchmarks.events import NOTHING, Broken, Feed, Totals, make_events
from benchmarks.layouts import BUCKET, LAYOUTS, Compression, Damage, Layout, export_manifests

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUMMARY = "feed.json"
DEFAULT_MIX = "gz=6,zst=3,plain=1"
LINES_PER_FILE_MAX = 1_000_000
_GZIP_LEVEL = 2
_ZSTD_LEVEL = 3
_SECONDS_TO_ARRIVE = 120
_UNLISTED_LINES = 100
_MIX_NAMES = {"gz": Compression.GZIP, "zst": Compression.ZSTD, "plain": Compression.PLAIN}


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One file of the feed; ``sha256`` and ``text_bytes`` are of its bytes before compression."""

    key: str
    sha256: str
    text_bytes: int
    file_bytes: int
    stored_sha256: str
    totals: Totals


def parse_mix(text: str) -> tuple[Compression, ...]:
    """Return the compressions that files take in turn, spread evenly.

    >>> [compression.name for compression in parse_mix("gz=2,plain=1")]
    ['GZIP', 'PLAIN', 'GZIP']
    """
    shares = {_MIX_NAMES[name]: int(share) for name, _, share in (part.partition("=") for part in text.split(","))}
    count = sum(shares.values())
    turns = sorted(((2 * n + 1) * count / share, c.value) for c, share in shares.items() for n in range(share))
    return tuple(Compression(value) for _, value in turns)


def file_bytes(feed: Feed, layout: Layout, file: int) -> tuple[bytes, Totals]:
    """Return the bytes of one file before compression, and what is in it."""
    events = make_events(feed, feed.positions(file))
    if layout.damage is Damage.NO_SUBJECT:
        events.broken[events.broken != Broken.NO] = Broken.NO_SUBJECT
    elif layout.damage is Damage.FIELDS:
        events.broken[events.broken == Broken.TRUNCATED] = Broken.BAD_QUANTITY
        events.broken[events.broken == Broken.NOT_A_RECORD] = Broken.BAD_TIME
    return layout.content(events), events.totals


def write_file(feed: Feed, layout_name: str, mix: Sequence[Compression], bucket: Path, file: int) -> WrittenFile:
    """Write one file of the feed into the folder of the bucket."""
    layout = LAYOUTS[layout_name]
    text, totals = file_bytes(feed, layout, file)
    compression = layout.compression or mix[file % len(mix)]
    key = layout.key(feed, file) + compression.value
    stored = _compressed(text, compression)
    arrived_at = feed.instant(feed.positions(file).stop).timestamp() + _SECONDS_TO_ARRIVE
    _write(bucket / key, stored, arrived_at)
    if layout.name == "manifest" and file == 0:
        # A draft that the manifest does not list: who collects it has ignored the manifest.
        head = b"\n".join(text.split(b"\n")[:_UNLISTED_LINES]) + b"\n"
        _write((bucket / key).with_name("usage-00000-draft.ndjson"), head, arrived_at)
    return WrittenFile(key, _sha256(text), len(text), len(stored), _sha256(stored), totals)


def generate(feed: Feed, layout: Layout, mix: Sequence[Compression], out: Path, workers: int) -> list[WrittenFile]:
    """Write a whole feed, its manifest if the layout has one, and last ``feed.json``; return the files in order."""
    if not 0 < feed.lines_per_file <= LINES_PER_FILE_MAX:
        raise ValueError(f"lines per file: expected 1 to {LINES_PER_FILE_MAX:,}, got {feed.lines_per_file:,}")
    bucket = out / BUCKET
    write = partial(write_file, feed, layout.name, mix, bucket)
    if workers == 1:
        files = [write(file) for file in range(feed.file_count)]
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            files = list(pool.map(write, range(feed.file_count)))
    if layout.name == "manifest":
        listed = [
            {
                "key": f"s3://{BUCKET}/{file.key}",
                "records": file.totals.lines,
                "bytes": file.file_bytes,
                "sha256": file.stored_sha256,
            }
            for file in files
        ]
        arrived_at = feed.instant(feed.events).timestamp() + _SECONDS_TO_ARRIVE
        for key, content in export_manifests(listed).items():
            _write(bucket / key, content, arrived_at)
    totals = sum((file.totals for file in files), NOTHING)
    summary = {
        "feed": asdict(feed),
        "layout": layout.name,
        "files": len(files),
        "text_bytes": sum(file.text_bytes for file in files),
        "file_bytes": sum(file.file_bytes for file in files),
        "totals": {**asdict(totals), "quantity": f"{totals.quantity:f}"},
        "sha256": _sha256("".join(f"{file.sha256} {file.key}\n" for file in files).encode()),
    }
    (out / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return files


def _compressed(text: bytes, compression: Compression) -> bytes:
    match compression:
        case Compression.GZIP:
            return igzip.compress(text, _GZIP_LEVEL)
        case Compression.ZSTD:
            return zstd.compress(text, _ZSTD_LEVEL)
        case Compression.PLAIN:
            return text


def _write(path: Path, content: bytes, modified_at: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified_at, modified_at))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _count(text: str) -> int:
    return int(text.replace("_", "").replace(",", ""))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a feed as the command line says, and print what was written."""
    defaults = Feed(events=1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=_count, default=1_000_000)
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="cloudevents")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--days", type=int, default=defaults.days)
    parser.add_argument("--accounts", type=_count, default=defaults.accounts)
    parser.add_argument("--mix", default=DEFAULT_MIX, help="shares of compressions, where the layout leaves it open")
    parser.add_argument("--lines-per-file", type=_count, default=defaults.lines_per_file)
    parser.add_argument("--bad", type=float, default=defaults.broken, help="share of broken records")
    parser.add_argument("--dup", type=float, default=defaults.duplicates, help="share of duplicates")
    parser.add_argument("--late", type=float, default=defaults.late, help="share of events of an earlier time")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    feed = Feed(
        events=options.events,
        seed=options.seed,
        days=options.days,
        accounts=options.accounts,
        lines_per_file=options.lines_per_file,
        broken=options.bad,
        duplicates=options.dup,
        late=options.late,
    )
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    started = time.monotonic()
    files = generate(feed, LAYOUTS[options.layout], parse_mix(options.mix), options.out, options.workers)
    seconds = time.monotonic() - started
    text_bytes, stored = sum(file.text_bytes for file in files), sum(file.file_bytes for file in files)
    sys.stdout.write(
        f"{feed.events:,} events in {len(files):,} files, {text_bytes:,} bytes of text, {stored:,} on disk; "
        f"{seconds:.1f} s, {feed.events / seconds:,.0f} events/s\n"
    )


if __name__ == "__main__":
    main()
