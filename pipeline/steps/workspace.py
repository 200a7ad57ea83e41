"""What every step works on: the checked project, the lake, the control plane, the raw bucket, and two folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import settings
from pipeline.adapters.control_plane import ControlPlane
from pipeline.adapters.lake import Lake, open_lake
from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.price_book_files import PriceBookFile, read_price_book
from pipeline.adapters.project_files import live_book_problems, load_project
from pipeline.core.errors import InputError, NotReadyError
from pipeline.core.price_book_version import in_force
from pipeline.core.project import Project


@dataclass(frozen=True)
class Workspace:
    """An open project. ``scratch`` holds temporary files, ``out`` the readable copies of reports and invoices."""

    project: Project
    lake: Lake
    control_plane: ControlPlane
    raw: ObjectStore
    scratch: Path
    out: Path


def open_workspace(folder: Path, *, with_price_books: bool = True) -> Workspace:
    """Return the open project of a folder, its control plane migrated; a project with a problem is refused first.

    Where books are approved by two people, those in force are put into the project. Without ``with_price_books`` it
    has none: what mends a book can be done although a book has a problem.
    """
    folder = folder.resolve()
    project = load_project(folder, with_price_books=with_price_books)
    endpoint_url = settings.endpoint_url(project.settings)
    control_plane = ControlPlane(settings.database_url(project.settings, folder), project.settings.roles)
    control_plane.migrate()
    scratch = folder / ".billing" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    lake = open_lake(project.settings, folder, endpoint_url, folder / ".billing" / "staging")
    if with_price_books and project.settings.price_books.approval == "four_eyes":
        project = _with_approved_books(project, control_plane, lake)
    return Workspace(
        project=project,
        lake=lake,
        control_plane=control_plane,
        raw=ObjectStore(project.settings.raw.bucket, endpoint_url, project.settings.raw.region),
        scratch=scratch,
        out=folder / "out",
    )


def require_price_book(project: Project) -> None:
    """Refuse to rate while no price book is in force, or while those in force leave an account without a price.

    Files that are live were checked when the project was read.
    """
    if not project.price_books:
        raise NotReadyError(
            "rate.no_price_book",
            "no price book is in force, so nothing can be priced",
            [
                "collected and counted usage stays; price it once a book is approved:",
                "billing price publish price_books/FILE.toml --by NAME --reason TEXT",
                "billing price approve VERSION --by SOMEBODY_ELSE",
            ],
        )
    if project.settings.price_books.approval == "four_eyes":
        books = {priced.version: priced.book for priced in project.price_books}
        problems = live_book_problems(project.directory.rows, books, project.settings)
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise InputError("project.invalid", f"{project.folder} has {count}; nothing was rated", problems)


def approved_books(control_plane: ControlPlane, lake: Lake) -> list[PriceBookFile]:
    """Return the books in force, by effective date."""
    files = [
        read_price_book(version.version, lake.get_bytes(f"pins/{version.sha256}"))
        for version in in_force(control_plane.price_book_versions())
    ]
    problems = [problem for file in files for problem in file.problems]
    if problems:
        raise InputError("project.invalid", "an approved price book cannot be read by this release", problems)
    return files


def _with_approved_books(project: Project, control_plane: ControlPlane, lake: Lake) -> Project:
    files = approved_books(control_plane, lake)
    if not files:
        return project
    return replace(
        project,
        price_books=tuple(file.priced for file in files),
        files={**project.files, **{f"price_books/{file.name}.toml": file.content for file in files}},
    )
