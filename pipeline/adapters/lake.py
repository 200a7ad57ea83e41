"""The lake: content-addressed files in a local folder or in an S3 bucket.

The path of a file is ``<directory>/<sha256><suffix>`` below the lake's root, so a file is never overwritten
with other content and every read is verified: a flipped byte is a ``PublicationError`` that names the file.
Files of an S3 lake are staged locally by hash, because the engines that read them work on local files.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.adapters.object_store import ObjectStore
from pipeline.core.errors import InputError, PublicationError
from pipeline.core.project import ProjectSettings

_PATH = re.compile(r"(?P<directory>(?!\.)[\w.=-]+(/(?!\.)[\w.=-]+)*)/(?P<sha256>[0-9a-f]{64})(?P<suffix>[\w.-]*)")


@dataclass(frozen=True, slots=True)
class DataFileRef:
    """A file of the lake: ``path`` below the root, the SHA-256 that names it, and its length."""

    path: str
    sha256: str
    byte_count: int


class Lake(Protocol):
    """What steps need of a lake."""

    def put_file(self, local: Path, directory: str, suffix: str) -> DataFileRef:
        """Store a copy of a local file under its hash; storing the same bytes again changes nothing."""

    def put_bytes(self, content: bytes, directory: str, suffix: str) -> DataFileRef:
        """Store bytes under their hash; storing the same bytes again changes nothing."""

    def get_bytes(self, path: str) -> bytes:
        """Return the verified content of a file."""

    def read_part(self, path: str, start: int, byte_count: int) -> bytes:
        """Return a part of a file, *unverified*: for a caller that has a hash of that part."""

    def local_file(self, path: str) -> Path:
        """Return a verified local file with the content of ``path``; it must not be written to."""

    def read_only(self, staging: Path) -> Lake:
        """Return the same lake for an audit: nothing is written, and no copy that was staged before is trusted."""


class ReadOnlyLake:
    """A lake that refuses to be written to; to try is a mistake in the program."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def put_file(self, local: Path, directory: str, suffix: str) -> DataFileRef:
        raise PermissionError(f"nothing is written here: {directory}/{local.name}")

    def put_bytes(self, content: bytes, directory: str, suffix: str) -> DataFileRef:
        raise PermissionError(f"nothing is written here: {directory}, {len(content)} bytes")

    def get_bytes(self, path: str) -> bytes:
        return self._lake.get_bytes(path)

    def read_part(self, path: str, start: int, byte_count: int) -> bytes:
        return self._lake.read_part(path, start, byte_count)

    def local_file(self, path: str) -> Path:
        return self._lake.local_file(path)

    def read_only(self, staging: Path) -> Lake:
        return self


class WriteBesideLake:
    """A lake whose files are read, and into which nothing is written: what is put goes into a folder beside it."""

    def __init__(self, lake: Lake, beside: Path) -> None:
        self._lake = lake
        self._beside = LocalLake(beside)

    def put_file(self, local: Path, directory: str, suffix: str) -> DataFileRef:
        return self._beside.put_file(local, directory, suffix)

    def put_bytes(self, content: bytes, directory: str, suffix: str) -> DataFileRef:
        return self._beside.put_bytes(content, directory, suffix)

    def get_bytes(self, path: str) -> bytes:
        return self._of(path).get_bytes(path)

    def read_part(self, path: str, start: int, byte_count: int) -> bytes:
        return self._of(path).read_part(path, start, byte_count)

    def local_file(self, path: str) -> Path:
        return self._of(path).local_file(path)

    def read_only(self, staging: Path) -> Lake:
        return ReadOnlyLake(self)

    def _of(self, path: str) -> Lake:
        return self._beside if self._beside.holds(path) else self._lake


class LocalLake:
    """A lake in a local folder. A file appears whole or not at all, also when its writer is killed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: dict[str, tuple[int, ...]] = {}  # what a file was like when its content was

    def put_file(self, local: Path, directory: str, suffix: str) -> DataFileRef:
        return self._put(lambda temporary: _link_or_copy(local, temporary), directory, suffix)

    def put_bytes(self, content: bytes, directory: str, suffix: str) -> DataFileRef:
        return self._put(lambda temporary: temporary.write_bytes(content), directory, suffix)

    def get_bytes(self, path: str) -> bytes:
        return self.local_file(path).read_bytes()

    def read_part(self, path: str, start: int, byte_count: int) -> bytes:
        _sha256_of_path(path)
        local = self._root / path
        if not local.is_file():
            raise _missing(path, f"no file {local}")
        with local.open("rb") as content:
            content.seek(start)
            return content.read(byte_count)

    def local_file(self, path: str) -> Path:
        expected = _sha256_of_path(path)
        local = self._root / path
        if not local.is_file():
            raise _missing(path, f"no file {local}")
        status = local.stat()
        found = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._verified.get(path) != found:
            _require_hash(path, expected, _sha256_of_file(local), local)
            self._verified[path] = found
        return local

    def read_only(self, staging: Path) -> Lake:
        return ReadOnlyLake(self)

    def unverified_file(self, path: str) -> Path:
        """Return where the file is, for a caller that has just verified or written it."""
        return self._root / path

    def holds(self, path: str) -> bool:
        """Tell whether the file is there and has the content that its path names."""
        expected = _sha256_of_path(path)
        local = self._root / path
        return local.is_file() and _sha256_of_file(local) == expected

    def _put(self, fill: Callable[[Path], object], directory: str, suffix: str) -> DataFileRef:
        folder = self._root / directory
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                "lake.folder_unusable",
                f"the lake's folder cannot be made: {error.strerror}",
                [f"lake {self._root}", "correct lake.url in billing.toml, or the rights on the folder"],
            ) from error
        descriptor, name = tempfile.mkstemp(prefix=".being-written-", dir=folder)
        temporary = Path(name)
        try:
            os.close(descriptor)
            fill(temporary)
            with temporary.open("rb") as target:
                os.fsync(target.fileno())
            sha256 = _sha256_of_file(temporary)
            ref = DataFileRef(f"{directory}/{sha256}{suffix}", sha256, temporary.stat().st_size)
            _sha256_of_path(ref.path)
            if not self.holds(ref.path):
                temporary.chmod(0o644)
                temporary.replace(self._root / ref.path)
                _sync_folder(folder)
        finally:
            temporary.unlink(missing_ok=True)
        return ref


class S3Lake:
    """A lake below a prefix of a bucket; ``staging`` keeps local copies by hash and may be deleted at any time."""

    def __init__(self, store: ObjectStore, prefix: str, staging: Path) -> None:
        self._store = store
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._staging = LocalLake(staging)

    def put_file(self, local: Path, directory: str, suffix: str) -> DataFileRef:
        return self._upload(self._staging.put_file(local, directory, suffix))

    def put_bytes(self, content: bytes, directory: str, suffix: str) -> DataFileRef:
        return self._upload(self._staging.put_bytes(content, directory, suffix))

    def get_bytes(self, path: str) -> bytes:
        return self.local_file(path).read_bytes()

    def read_part(self, path: str, start: int, byte_count: int) -> bytes:
        _sha256_of_path(path)
        if not self._staging.unverified_file(path).is_file():
            self._download(path)
        return self._staging.read_part(path, start, byte_count)

    def local_file(self, path: str) -> Path:
        if not self._staging.holds(path):
            self._download(path)
        return self._staging.unverified_file(path)

    def read_only(self, staging: Path) -> Lake:
        return ReadOnlyLake(S3Lake(self._store, self._prefix, staging))

    def _upload(self, ref: DataFileRef) -> DataFileRef:
        # Always sent: "the key exists" does not show that its bytes are whole.
        self._store.put_file(self._prefix + ref.path, self._staging.unverified_file(ref.path))
        return ref

    def _download(self, path: str) -> None:
        expected = _sha256_of_path(path)
        key = self._prefix + path
        listed = next((found for found in self._store.list_objects(prefix=key) if found.key == key), None)
        if listed is None:
            raise _missing(path, f"no object {key}")
        with tempfile.TemporaryDirectory(prefix="lake-") as folder:
            downloaded = Path(folder) / expected
            self._store.download(listed, downloaded)
            _require_hash(path, expected, _sha256_of_file(downloaded), key)
            directory, name = path.rsplit("/", 1)
            self._staging.put_file(downloaded, directory, name.removeprefix(expected))


def open_lake(settings: ProjectSettings, folder: Path, endpoint_url: str | None, staging: Path) -> Lake:
    """Return the lake of a project: ``s3://bucket/prefix`` at the raw endpoint, or a folder of the project."""
    url = settings.lake.url
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        return S3Lake(ObjectStore(bucket, endpoint_url, settings.raw.region), prefix, staging)
    return LocalLake(folder / url)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a loss of power: the control plane will name this file as published."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name, in the place of an empty one; copy it where the two are on other disks."""
    target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sha256_of_path(path: str) -> str:
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"a path of the lake is <directory>/<sha256><suffix>, got {path!r}")
    return match["sha256"]


def _require_hash(path: str, expected: str, actual: str, where: Path | str) -> None:
    if actual != expected:
        raise PublicationError(
            "lake.content_changed",
            f"{path} does not hold the bytes that were published",
            [f"read from {where}", f"expected SHA-256 {expected}, got {actual}", "restore the file from a backup"],
        )


def _missing(path: str, where: str) -> PublicationError:
    return PublicationError(
        "lake.file_missing",
        f"{path} is not in the lake",
        [where, "a published revision names it; restore the file from a backup, or check the lake's url"],
    )
