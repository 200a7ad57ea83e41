"""Reads an object's bytes as text bytes: plain, gzip or zstd, told apart by what is inside and never by the name.

Reading is streaming and bounded: a bomb costs at most one step's output before a limit stops it. An object is
either read to its proper end or refused as a whole, because the lines before a break cannot be told from
lines that were cut. gzip is inflated by ISA-L, zstd by the reference library.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from isal import igzip_lib

from pipeline.core.reason import QuarantineReason

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 1 << 20
SNIFFED_BYTES = 512
RATIO_FREE_BYTES = 64 << 20  # a small object may be as repetitive as it likes

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # bytes 2 to 4 of a skippable frame, which parallel writers put first
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 27}

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


class _Decompressor(Protocol):
    """What the two libraries have in common; one object reads one gzip member or one zstd frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def read_chunks(stored: Path | bytes, byte_count_max: int, ratio_max: int | None = None) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file or of what was in one, in order, each chunk at most a megabyte.

    Raises ``ObjectFault`` when compressed data ends early or is corrupt, when more than ``byte_count_max`` bytes come
    out, or (after the first 64 MiB) more than ``ratio_max`` for each stored byte, and when the result is no text
    (an image, Parquet, UTF-16, data compressed twice).
    """
    byte_count = 0
    head = b""
    compressed_byte_count = max(len(stored) if isinstance(stored, bytes) else stored.stat().st_size, 1)
    with io.BytesIO(stored) if isinstance(stored, bytes) else stored.open("rb") as file:
        for chunk in _content(file):
            byte_count += len(chunk)
            if byte_count > byte_count_max:
                raise ObjectFault(
                    QuarantineReason.OBJECT_TOO_LARGE,
                    f"more than {byte_count_max:,} bytes once decompressed (limits.object_bytes_max)",
                )
            if ratio_max is not None and byte_count > max(ratio_max * compressed_byte_count, RATIO_FREE_BYTES):
                raise ObjectFault(
                    QuarantineReason.COMPRESSION_RATIO_TOO_HIGH,
                    growth_message(compressed_byte_count, ratio_max),
                )
            if len(head) < SNIFFED_BYTES:
                head = (head + chunk)[:SNIFFED_BYTES]
                _refuse_foreign(head)
            yield chunk


def growth_message(compressed_byte_count: int, ratio_max: int) -> str:
    """Return the message about an object that grows more by decompression than its contract accepts."""
    return (
        f"{compressed_byte_count:,} bytes become more than {ratio_max:,} times as many (limits.decompression_ratio_max)"
    )


def _content(file: BinaryIO) -> Iterator[bytes]:
    start = file.read(4)
    file.seek(0)
    if start.startswith(_GZIP):
        return _inflated(file, lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), "gzip")
    if start == _ZSTD or (start[1:] == _ZSTD_SKIPPABLE and start[0] & 0xF0 == 0x50):
        return _inflated(file, lambda: zstd.ZstdDecompressor(options=_ZSTD_OPTIONS), "zstd")
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _refuse_foreign(head: bytes) -> None:
    for signature, what in _FOREIGN:
        if head.startswith(signature):
            raise ObjectFault(QuarantineReason.UNREADABLE_OBJECT, f"expected lines of text, got {what}")
    # Only the first line: a write that was torn leaves zero bytes at the end of lines that are good.
    if b"\x00" in head.partition(b"\n")[0]:
        raise ObjectFault(
            QuarantineReason.UNREADABLE_OBJECT, f"expected lines of text, got a zero byte at offset {head.index(0)}"
        )


def _inflated(file: BinaryIO, new_decompressor: Callable[[], _Decompressor], name: str) -> Iterator[bytes]:
    """Yield the content of every gzip member or zstd frame; zero bytes after the last gzip member are padding."""
    part = new_decompressor()
    compressed = file.read(CHUNK_BYTES)
    while True:
        try:
            content = part.decompress(compressed, CHUNK_BYTES)
        except (igzip_lib.IsalError, zstd.ZstdError):  # type: ignore[misc]  # its stub calls the class an instance
            raise ObjectFault(QuarantineReason.UNREADABLE_OBJECT, f"the {name} data is corrupt") from None
        if content:
            yield content
        if part.eof:
            compressed = _next_part(file, part.unused_data, name)
            if not compressed:
                return
            part = new_decompressor()
        elif part.needs_input:
            compressed = file.read(CHUNK_BYTES)
            if not compressed:
                raise ObjectFault(QuarantineReason.TRUNCATED_OBJECT, f"the {name} data ends before its end mark")
        else:
            compressed = b""


def _next_part(file: BinaryIO, rest: bytes, name: str) -> bytes:
    """Return the bytes from the start of the next member or frame on; none at the end of the file."""
    is_gzip = name == "gzip"
    rest = rest.lstrip(b"\x00") if is_gzip else rest
    while not rest:
        more = file.read(CHUNK_BYTES)
        if not more:
            return b""
        rest = more.lstrip(b"\x00") if is_gzip else more
    if is_gzip and len(rest) < len(_GZIP):
        rest += file.read(CHUNK_BYTES)
    if is_gzip and not rest.startswith(_GZIP):
        raise ObjectFault(QuarantineReason.UNREADABLE_OBJECT, "something else follows the gzip data")
    return rest
