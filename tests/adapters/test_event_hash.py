"""The hashes of events are public ones: XXH64 of the last text, seeded with the XXH64 of what is before it."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from pipeline.adapters.block_kernels import text_hashes
from pipeline.adapters.event_hash import key_hashes, payload_hashes


def xxh64(text: bytes, seed: int = 0) -> int:
    edges = np.array([0, len(text)], np.int32)
    return int(text_hashes(np.frombuffer(text, np.uint8), edges, np.array([seed], np.uint64))[0])


# From the reference implementation; the last one is longer than a stripe, so every branch is taken.
@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_a_text_has_the_digest_of_the_reference_implementation(text: bytes, digest: int) -> None:
    assert xxh64(text) == digest


def test_a_key_is_hashed_by_its_bytes_wherever_they_stand_in_a_column() -> None:
    sources, ids = ["s", "s", "sa", "ü"], ["ab", "", "b", "x" * 40]
    whole = key_hashes(pa.chunked_array([sources]), pa.chunked_array([ids]))
    sliced = key_hashes(
        pa.chunked_array([["other", *sources]]).slice(1), pa.chunked_array([ids[:1], ids[1:]], pa.string())
    )

    assert whole.tolist() == sliced.tolist()
    assert whole.tolist() == [
        xxh64(one.encode(), xxh64(source.encode())) for source, one in zip(sources, ids, strict=True)
    ]
    assert len({*whole.tolist()}) == 4


def test_a_payload_is_hashed_by_its_bytes_wherever_it_stands_in_a_column() -> None:
    values = [Decimal("1.5"), None, Decimal(0), Decimal(-1), None]
    texts = ["{}", "{}", "{}", '{"a":"1"}', ""]
    quantities = pa.array([Decimal(9), *values], pa.decimal128(38, 9))
    whole = payload_hashes(pa.chunked_array([quantities[1:]]), pa.chunked_array([texts]))
    sliced = payload_hashes(
        pa.chunked_array([quantities[1:3], quantities[3:]]), pa.chunked_array([texts[:1], texts[1:]], pa.string())
    )

    assert whole.tolist() == sliced.tolist()
    assert whole.tolist() == [
        xxh64(text.encode(), xxh64(b"" if value is None else int(value.scaleb(9)).to_bytes(16, "little", signed=True)))
        for value, text in zip(values, texts, strict=True)
    ]
    assert len({*whole.tolist()}) == 5
