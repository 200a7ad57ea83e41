"""Folders for temporary files that vanish with their process, also when it is killed.

A lock file beside the folder is locked for as long as its process lives; the operating system releases the lock of a
killed process, and whoever makes the next folder removes what such a process left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = ".lock"


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give a new folder below ``parent`` and remove it at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    descriptor, lock_name = tempfile.mkstemp(prefix=f"{name}-", suffix=_LOCK, dir=parent)
    lock = Path(lock_name)
    folder = lock.with_suffix("")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of processes that are gone; those of living ones are left alone."""
    for lock in parent.glob(f"*{_LOCK}"):
        with suppress(OSError), lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
