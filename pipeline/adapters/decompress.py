"""Reads an object's bytes as text bytes: plain, gzip or zstd, told apart by what is inside and never by the name.

Reading is streaming and bounded: a bomb costs at most one step's output before the limit stops it. An object is
either read to its proper end or refused as a whole, because the lines before a break cannot be told from
lines that were cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from pipeline.core.reason import QuarantineReason

CHUNK_BYTES = 1 << 20
SNIFFED_BYTES = 512

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # bytes 2 to 4 of a skippable frame, which parallel writers put first
_ZSTD_WINDOW_BYTES_MAX = 1 << 27
# One kilobyte of zstd holds at most 256 blocks of 128 KiB, so a step never makes more than 32 MiB.
_ZSTD_STEP_BYTES = 1 << 10

_FOREIGN = (
    (b"\x89PNG", "a PNG image"),
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF-", "a PDF document"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x04\x22\x4d\x18", "lz4 data"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy data"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (_GZIP, "gzip data inside compressed data"),
    (_ZSTD, "zstd data inside compressed data"),
)


class ObjectFault(Exception):  # noqa: N818 - it is a fault of the object, recorded in quarantine, not of the program
    """Why no line of an object can be trusted: truncated, unreadable, or larger than the limit."""

    def __init__(self, reason: QuarantineReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def read_chunks(path: Path, byte_count_max: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, in order, each chunk not empty.

    Raises ``ObjectFault`` when compressed data ends early or is corrupt, when more than ``byte_count_max`` bytes come
    out, and when the result is no text (an image, Parquet, UTF-16, data compressed twice).
    """
    byte_count = 0
    head = b""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(_GZIP):
            chunks = _gunzip(file)
        elif start == _ZSTD or (start[1:] == _ZSTD_SKIPPABLE and start[0] & 0xF0 == 0x50):
            chunks = _unzstd(file)
        else:
            chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
        for chunk in chunks:
            byte_count += len(chunk)
            if byte_count > byte_count_max:
                raise ObjectFault(
                    QuarantineReason.OBJECT_TOO_LARGE, f"more than {byte_count_max} bytes once decompressed"
                )
            if len(head) < SNIFFED_BYTES:
                head = (head + chunk)[:SNIFFED_BYTES]
                _refuse_foreign(head)
            yield chunk


def _refuse_foreign(head: bytes) -> None:
    for signature, what in _FOREIGN:
        if head.startswith(signature):
            raise ObjectFault(QuarantineReason.UNREADABLE_OBJECT, f"expected lines of text, got {what}")
    # Only the first line: a write that was torn leaves zero bytes at the end of lines that are good.
    if b"\x00" in head.partition(b"\n")[0]:
        raise ObjectFault(
            QuarantineReason.UNREADABLE_OBJECT, f"expected lines of text, got a zero byte at offset {head.index(0)}"
        )


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of every gzip member; zero bytes after the last one are padding."""
    member = zlib.decompressobj(wbits=31)
    compressed = file.read(CHUNK_BYTES)
    while compressed:
        try:
            content = member.decompress(compressed, CHUNK_BYTES)
        except zlib.error:
            raise ObjectFault(QuarantineReason.UNREADABLE_OBJECT, "the gzip data is corrupt") from None
        if content:
            yield content
        if member.eof:
            compressed = member.unused_data.lstrip(b"\x00")
            while not compressed:
                padding = file.read(CHUNK_BYTES)
                if not padding:
                    return
                compressed = padding.lstrip(b"\x00")
            if len(compressed) < len(_GZIP):
                compressed += file.read(CHUNK_BYTES)
            if not compressed.startswith(_GZIP):
                raise ObjectFault(QuarantineReason.UNREADABLE_OBJECT, "something else follows the gzip data")
            member = zlib.decompressobj(wbits=31)
        else:
            compressed = member.unconsumed_tail or file.read(CHUNK_BYTES)
    # A full output step may have left content inside the decompressor.
    content = member.flush()
    if content:
        yield content
    if not member.eof:
        raise ObjectFault(QuarantineReason.TRUNCATED_OBJECT, "the gzip data ends before its end mark")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of every zstd frame."""
    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    frame = context.decompressobj()
    gathered = bytearray()
    compressed = b""
    while True:
        compressed = compressed or file.read(_ZSTD_STEP_BYTES)
        if not compressed:
            break
        if frame.eof:
            frame = context.decompressobj()
        try:
            gathered += frame.decompress(compressed)
        except zstandard.ZstdError:
            raise ObjectFault(QuarantineReason.UNREADABLE_OBJECT, "the zstd data is corrupt") from None
        compressed = frame.unused_data if frame.eof else b""
        if len(gathered) >= CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)
    if not frame.eof:
        raise ObjectFault(QuarantineReason.TRUNCATED_OBJECT, "the zstd data ends before its end mark")
