"""A real S3 server for the tests, started once per session, and a fresh bucket of it per test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import count

import pytest

from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.s3_server import S3Endpoint, serve_s3

_BUCKET_NUMBERS = count(1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """The server, its keys in the environment of this process and of those it starts."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in endpoint.environment().items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture
def raw_bucket(s3_server: S3Endpoint) -> ObjectStore:
    """An empty bucket of its own for one test."""
    store = ObjectStore(f"raw-{next(_BUCKET_NUMBERS)}", s3_server.url)
    store.create_bucket()
    return store


def put_object(store: ObjectStore, key: str, content: bytes, received_at: datetime) -> None:
    """Store an object that this server lists as received at the given instant."""
    store.put_bytes(key, content, {"mtime": f"{int(received_at.timestamp())}.{received_at.microsecond:06d}000"})
