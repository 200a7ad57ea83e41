"""The hash of a key is a public one: XXH64 of the id, seeded with the XXH64 of the source."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.adapters.block_kernels import text_hashes
from pipeline.adapters.event_hash import key_hashes


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
