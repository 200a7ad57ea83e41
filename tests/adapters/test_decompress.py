"""Decompression: told apart by magic bytes, whole or refused, never more than the limit."""

from __future__ import annotations

import gzip
import io
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.decompress import RATIO_FREE_BYTES, ObjectFault, read_chunks
from pipeline.adapters.decompress import zstd as zstd_library
from pipeline.core.reason import QuarantineReason

LINES = b"".join(b'{"id":"%d","x":"%s"}\n' % (number, os.urandom(20).hex().encode()) for number in range(50_000))
LIMIT = 1 << 30


def zstd(content: bytes) -> bytes:
    return zstd_library.compress(content)


def two_gzip_members(content: bytes) -> bytes:
    return gzip.compress(content[:1000]) + gzip.compress(content[1000:])


def two_zstd_frames(content: bytes) -> bytes:
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00\x01\x02\x03\x04"
    return skippable + zstd(content[:1000]) + zstd(content[1000:])


def zstd_without_size(content: bytes) -> bytes:
    compressor = zstd_library.ZstdCompressor(options={zstd_library.CompressionParameter.checksum_flag: 1})
    return compressor.compress(content) + compressor.flush()


def plain(content: bytes) -> bytes:
    return content


def gzip_padded(content: bytes) -> bytes:
    return gzip.compress(content) + b"\x00" * 5_000_000


COMPRESSIONS = [plain, gzip.compress, two_gzip_members, gzip_padded, zstd, two_zstd_frames, zstd_without_size]


def read(folder: Path, content: bytes, limit: int = LIMIT) -> bytes:
    path = folder / "object"
    path.write_bytes(content)
    return b"".join(read_chunks(path, limit))


def fault(folder: Path, content: bytes, limit: int = LIMIT) -> ObjectFault:
    with pytest.raises(ObjectFault) as raised:
        read(folder, content, limit)
    return raised.value


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=lambda compress: compress.__name__)
def test_every_compression_gives_back_the_same_bytes(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    assert read(tmp_path, compress(LINES)) == LINES


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=lambda compress: compress.__name__)
def test_an_object_of_exactly_the_limit_is_read_and_one_byte_more_is_refused(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    assert read(tmp_path, compress(LINES), len(LINES)) == LINES

    assert fault(tmp_path, compress(LINES), len(LINES) - 1).reason is QuarantineReason.OBJECT_TOO_LARGE


@pytest.mark.parametrize("compress", [gzip.compress, two_gzip_members, zstd, two_zstd_frames, zstd_without_size])
@pytest.mark.parametrize("cut", [1, 4, 9, 5_000])
def test_compressed_data_that_ends_early_is_truncated(
    tmp_path: Path, compress: Callable[[bytes], bytes], cut: int
) -> None:
    assert fault(tmp_path, compress(LINES)[:-cut]).reason is QuarantineReason.TRUNCATED_OBJECT


@pytest.mark.parametrize("length", range(3, 25))
def test_no_prefix_of_a_small_compressed_object_passes_as_a_whole_one(tmp_path: Path, length: int) -> None:
    assert fault(tmp_path, gzip.compress(b'{"id":"1"}\n')[:length]).reason is QuarantineReason.TRUNCATED_OBJECT


def test_a_flipped_byte_in_gzip_is_unreadable(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(LINES))
    content[-6] ^= 1

    assert fault(tmp_path, bytes(content)).reason is QuarantineReason.UNREADABLE_OBJECT


def test_a_flipped_byte_in_zstd_is_unreadable(tmp_path: Path) -> None:
    content = bytearray(zstd_without_size(LINES))
    content[-2] ^= 1

    assert fault(tmp_path, bytes(content)).reason is QuarantineReason.UNREADABLE_OBJECT


def test_text_after_gzip_data_is_unreadable(tmp_path: Path) -> None:
    assert fault(tmp_path, gzip.compress(b"{}\n") + b"{}\n").reason is QuarantineReason.UNREADABLE_OBJECT


def parquet_file() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"]}), sink)
    return sink.getvalue()


FOREIGN = {
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "parquet": parquet_file(),
    "zip": b"PK\x03\x04rest",
    "bzip2": b"BZh91AY&SY",
    "utf16": '{"id":"1"}\n'.encode("utf-16"),
    "utf16_without_mark": '{"id":"1"}\n'.encode("utf-16-le"),
    "executable": b"\x7fELF\x02\x01\x01\x00\x00",
    "gzip_in_gzip": gzip.compress(gzip.compress(b"{}\n")),
    "gzip_in_zstd": zstd(gzip.compress(b"{}\n")),
    "zstd_in_gzip": gzip.compress(zstd(b"{}\n")),
    "parquet_in_gzip": gzip.compress(parquet_file()),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_text_is_unreadable_as_a_whole(tmp_path: Path, name: str) -> None:
    assert fault(tmp_path, FOREIGN[name]).reason is QuarantineReason.UNREADABLE_OBJECT


def test_zero_bytes_of_a_torn_write_do_not_condemn_the_lines_before_them(tmp_path: Path) -> None:
    content = b'{"id":"1"}\n' + b"\x00" * 100

    assert read(tmp_path, content) == content


@pytest.mark.parametrize("compress", COMPRESSIONS[:3], ids=lambda compress: compress.__name__)
def test_an_empty_object_is_no_bytes(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    assert read(tmp_path, compress(b"")) == b""


@pytest.mark.parametrize("compress", [gzip.compress, zstd, zstd_without_size], ids=lambda compress: compress.__name__)
def test_a_bomb_is_stopped_at_the_limit_in_bounded_memory(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(compress(b"0" * (400 << 20)))
    assert path.stat().st_size < 1 << 20

    tracemalloc.start()
    with pytest.raises(ObjectFault) as raised:
        for _ in read_chunks(path, 100 << 20):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert raised.value.reason is QuarantineReason.OBJECT_TOO_LARGE
    assert peak < 100 << 20


@pytest.mark.parametrize("compress", [gzip.compress, zstd], ids=lambda compress: compress.__name__)
def test_more_growth_than_the_ratio_is_refused_and_exactly_the_ratio_is_read(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    content = b"0" * RATIO_FREE_BYTES
    path = tmp_path / "object"
    path.write_bytes(compress(b'"' + content))
    ratio = -(-(len(content) + 1) // path.stat().st_size)

    assert sum(map(len, read_chunks(path, LIMIT, ratio))) == len(content) + 1
    with pytest.raises(ObjectFault) as raised:
        list(read_chunks(path, LIMIT, ratio - 1))
    assert raised.value.reason is QuarantineReason.COMPRESSION_RATIO_TOO_HIGH
