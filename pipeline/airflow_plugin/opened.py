"""The billing project that the pages show, opened once and again whenever one of its files changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock

from pipeline.core.access import Roles
from pipeline.steps.workspace import Workspace, open_workspace

_FOLDERS = ("sources", "price_books", "expectations")

Signature = tuple[tuple[str, int, int], ...]


class OpenedProject:
    """Gives the workspace of the project, as its files are now.

    Reading ``accounts.csv`` of a hundred thousand accounts takes longer than a page may, so what is open is kept until
    a file is another one. ``with_price_books`` is for what prices something; all else works while a book has a problem.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._lock = Lock()
        self._opened: tuple[Signature, Workspace] | None = None

    def workspace(self, *, with_price_books: bool = False) -> Workspace:
        """Return the open project; one with a problem raises ``InputError``.

        Approved price books may change without a file, so a workspace that has them is opened each time.
        """
        folder = self._folder()
        if with_price_books:
            return open_workspace(folder)
        signature = _signature(folder)
        with self._lock:
            if self._opened is None or self._opened[0] != signature:
                self._opened = signature, open_workspace(folder, with_price_books=False)
            return self._opened[1]

    def roles(self) -> Roles | None:
        """Return who may do what."""
        return self.workspace().project.settings.roles


def _signature(folder: Path) -> Signature:
    files = [*folder.glob("*.toml"), *folder.glob("*.csv")]
    files += [file for name in _FOLDERS for file in (folder / name).glob("**/*") if file.is_file()]
    stats = [(str(file), file.stat()) for file in sorted(files)]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
