"""Object storage through the S3 protocol: the bucket of raw usage, and the lake's bucket.

The settings are those that every server we tried accepts: path-style addresses, signature version 4, checksums only
where required. Many servers ignore conditional requests, so a download is checked here: its ETag and
size must be those that were listed.

Network trouble is ``NotReadyError`` (the same call may succeed later); a missing bucket or missing rights are
``InputError``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.core.errors import BillingError, InputError, NotReadyError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from botocore.loaders import Loader
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES = 1 << 20
_MISSING_KEY = frozenset({"NoSuchKey", "404", "NotFound"})
_REFUSED = frozenset(
    {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"}
)


@dataclass(frozen=True, slots=True, order=True)
class ListedObject:
    """One object as listed. ``version`` is its ETag, which changes with the content; a listing names no version id."""

    key: str
    version: str
    byte_count: int
    last_modified: datetime


def objects_of(entries: Iterable[Mapping[str, Any]]) -> Iterator[ListedObject]:
    """Yield the objects of one page of a listing, without the empty markers that consoles leave for folders."""
    for entry in entries:
        if entry["Size"] or not entry["Key"].endswith("/"):
            yield ListedObject(
                key=entry["Key"],
                version=_plain_etag(entry["ETag"]),
                byte_count=entry["Size"],
                last_modified=entry["LastModified"].astimezone(UTC),
            )


class ObjectStore:
    """One bucket of one S3 endpoint; credentials are boto3's own (``AWS_*``, profile, role).

    boto3 is started when the bucket is first used: a step that works on local files alone does not wait for it.
    """

    def __init__(self, bucket: str, endpoint_url: str | None = None, region: str = "us-east-1") -> None:
        self.bucket = bucket
        self.endpoint_url = endpoint_url
        self.region = region

    @cached_property
    def _client(self) -> S3Client:
        import boto3
        import botocore.session
        from botocore.config import Config

        is_loopback = urlsplit(self.endpoint_url or "").hostname in ("127.0.0.1", "localhost", "::1")
        session = botocore.session.get_session()
        session.register_component("data_loader", _service_descriptions())
        return boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=10,
                read_timeout=60,
                proxies={} if is_loopback else None,
            ),
        )

    def __repr__(self) -> str:
        return f"ObjectStore(s3://{self.bucket} at {self.endpoint_url or 'AWS'})"

    def list_objects(self, prefix: str = "") -> Iterator[ListedObject]:
        """Yield every object below a prefix, in the order of the server."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        with self._refusals(f"list {prefix or 'everything'}"):
            for page in pages:
                yield from objects_of(page.get("Contents", ()))

    def read(self, listed: ListedObject) -> Iterator[bytes]:
        """Yield the bytes of exactly the listed version; another version or size raises ``NotReadyError``."""
        byte_count = 0
        with self._refusals(f"read {listed.key}"):
            response = self._client.get_object(Bucket=self.bucket, Key=listed.key)
            if _plain_etag(response["ETag"]) != listed.version:
                raise NotReadyError(
                    "object_store.object_changed",
                    f"{listed.key} was replaced after it was listed",
                    [
                        f"expected ETag {listed.version}, got {_plain_etag(response['ETag'])}",
                        "list again to see the new one",
                    ],
                )
            with closing(response["Body"]) as body:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    byte_count += len(chunk)
                    yield chunk
        if byte_count != listed.byte_count:
            raise NotReadyError(
                "object_store.incomplete_object",
                f"{listed.key} arrived incomplete",
                [f"expected {listed.byte_count} bytes, got {byte_count}", "the same call may succeed later"],
            )

    def download(self, listed: ListedObject, to: Path) -> str:
        """Write exactly the listed version to a file and return its SHA-256; a failure leaves no file behind."""
        digest = hashlib.sha256()
        try:
            with to.open("wb") as file:
                for chunk in self.read(listed):
                    digest.update(chunk)
                    file.write(chunk)
        except BaseException:
            to.unlink(missing_ok=True)
            raise
        return digest.hexdigest()

    def put_file(self, key: str, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Store a file under a key, replacing what was there."""
        from boto3.s3.transfer import TransferConfig

        with path.open("rb") as file, self._refusals(f"write {key}"):
            self._client.upload_fileobj(
                file,
                self.bucket,
                key,
                ExtraArgs={"Metadata": dict(metadata or {})},
                Config=TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, use_threads=False),
            )

    def put_bytes(self, key: str, content: bytes, metadata: Mapping[str, str] | None = None) -> None:
        """Store bytes under a key, replacing what was there."""
        with self._refusals(f"write {key}"):
            self._client.put_object(Bucket=self.bucket, Key=key, Body=content, Metadata=dict(metadata or {}))

    def get_bytes(self, key: str) -> bytes:
        """Return the content of a small object; a missing one raises ``object_store.no_such_object``."""
        with self._refusals(f"read {key}"):
            response = self._client.get_object(Bucket=self.bucket, Key=key)
            with closing(response["Body"]) as body:
                return body.read()
        raise AssertionError("unreachable: what the block raises is translated, not swallowed")

    def exists(self, key: str) -> bool:
        """Tell whether an object of this key is there."""
        try:
            with self._refusals(f"look for {key}"):
                self._client.head_object(Bucket=self.bucket, Key=key)
        except NotReadyError as error:
            if error.code == "object_store.no_such_object":
                return False
            raise
        return True

    def create_bucket(self) -> None:
        """Guarantee that the bucket is there."""
        from botocore.exceptions import ClientError

        with self._refusals("create the bucket"):
            try:
                self._client.create_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error.response["Error"].get("Code") not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                    raise

    @contextmanager
    def _refusals(self, action: str) -> Iterator[None]:
        """Turn what the S3 client raises into our errors, naming bucket, endpoint and action."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            yield
        except ClientError as error:
            raise self._refusal(error, action) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise InputError(
                "object_store.no_credentials",
                f"cannot {action}: no S3 credentials were found",
                [self._where(), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or any other source boto3 knows"],
            ) from error
        except BotoCoreError as error:
            raise NotReadyError(
                "object_store.unavailable",
                f"cannot {action}: the object store did not answer",
                [self._where(), f"got {type(error).__name__}: {error}", "the same call may succeed later"],
            ) from error

    def _refusal(self, error: ClientError, action: str) -> BillingError:
        code = str(error.response["Error"].get("Code", ""))
        if code == "NoSuchBucket":
            return InputError(
                "object_store.no_such_bucket",
                f"cannot {action}: the bucket {self.bucket!r} does not exist",
                [self._where(), "create it, or correct the bucket or the endpoint_url in billing.toml"],
            )
        if code in _MISSING_KEY:
            return NotReadyError("object_store.no_such_object", f"cannot {action}: no such object", [self._where()])
        if code in _REFUSED:
            return InputError(
                "object_store.access_denied",
                f"cannot {action}: the object store refused the credentials ({code})",
                [self._where(), "check the AWS_* credentials and the rights of their owner on this bucket"],
            )
        return NotReadyError(
            "object_store.unavailable",
            f"cannot {action}: the object store answered {code}",
            [self._where(), f"got {error.response['Error'].get('Message', '')}", "the same call may succeed later"],
        )

    def _where(self) -> str:
        return f"bucket {self.bucket} at {self.endpoint_url or 'AWS'}"


@cache
def _service_descriptions() -> Loader:
    """Return what describes the service to boto3: read once for all clients of the process."""
    from botocore.loaders import create_loader

    return create_loader()


def _plain_etag(etag: str) -> str:
    return etag.strip('"')
