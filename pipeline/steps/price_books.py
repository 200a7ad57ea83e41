"""Price books: check, publish, approve, list, find. The life of a price is publish -> approve -> rate.

A draft is a file. What is published is kept in the lake by hash, with a row in the control plane, and never changes;
it rates from the moment at which somebody who neither wrote nor published it approves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from pipeline.adapters.price_book_files import PriceBookFile, read_price_book
from pipeline.adapters.project_files import account_lines, first_book_problems
from pipeline.core.dataset import LINE_ITEMS
from pipeline.core.errors import InputError, PublicationError
from pipeline.core.price_book_rules import account_problems, book_problems, final_period_problems
from pipeline.core.price_book_version import BookState, PriceBookVersion, state_of
from pipeline.core.project import Project
from pipeline.steps.price_trials import require_cases
from pipeline.steps.publish import pin_file, read_manifest
from pipeline.steps.workspace import Workspace, approved_books


@dataclass(frozen=True, slots=True)
class CheckedBook:
    """A book without a problem, in numbers."""

    file: str
    version: str
    effective_from: date
    plan_count: int
    charge_count: int
    override_count: int
    case_count: int


@dataclass(frozen=True, slots=True)
class Published:
    """A published version; ``is_new`` is false when the same bytes were published before."""

    version: PriceBookVersion
    is_new: bool


@dataclass(frozen=True, slots=True)
class Approved:
    """An approved version; ``is_new`` is false when it was approved before. ``replaces`` gave way to it."""

    version: PriceBookVersion
    is_new: bool
    replaces: str | None


@dataclass(frozen=True, slots=True)
class ListedBook:
    """A version, what it is by now, and the periods whose newest line items it has priced."""

    version: str
    state: str
    effective_from: date
    author: str
    published_by: str | None
    approved_by: str | None
    reason: str
    rated_periods: list[str]


def check_files(
    project: Project, paths: Sequence[Path], scratch: Path, case_paths: Sequence[Path] = ()
) -> list[CheckedBook]:
    """Return what is in the files, or raise one ``InputError`` that lists every problem of every one of them.

    A book without a problem has to pass its rating cases: those of ``case_paths``, and those beside it (``_cases``).

    Without a path, all files of ``price_books/`` are checked. A book is asked to price the accounts that are there from
    its ``effective_from`` until the next of the books in the folder begins.
    """
    folder = sorted((project.folder / "price_books").glob("*.toml"))
    chosen = list(paths) or folder
    if not chosen:
        raise InputError(
            "price.no_file", f"there is no price book in {project.folder / 'price_books'}", ["name a file"]
        )
    files = [_read(project, path) for path in chosen]
    beside = [_read(project, path) for path in folder if path.resolve() not in {one.resolve() for one in chosen}]
    begins = [file.book.effective_from for file in (*files, *beside) if file.book is not None]
    _refuse(problem for file in files for problem in _problems(project, file, begins))
    return [
        CheckedBook(
            file.name,
            file.priced.version,
            file.priced.book.effective_from,
            len(file.priced.book.plans),
            sum(len(plan.charges) for plan in file.priced.book.plans.values()),
            len(file.priced.book.overrides),
            require_cases([*case_paths, *_cases(project, file)], file.priced.book, scratch),
        )
        for file in files
    ]


def publish_book(workspace: Workspace, path: Path, by: str, reason: str, at: datetime) -> Published:
    """Publish the book of a file: checked as in check_files, also by its cases, and kept for ever.

    Refused: a book that begins in or before a final period, or has an override that reaches back into one.
    """
    _require_four_eyes(workspace.project)
    _require_reason(reason)
    file = _read(workspace.project, path)
    live = approved_books(workspace.control_plane, workspace.lake)
    begins = [one.priced.book.effective_from for one in live]
    problems = _problems(workspace.project, file, begins)
    if file.book is not None and not any(begin <= file.book.effective_from for begin in begins):
        rows, settings = workspace.project.directory.rows, workspace.project.settings
        problems += first_book_problems(settings, rows, {file.name: file.book})
    _refuse(problems)
    book, version = file.priced.book, file.priced.version
    require_cases(_cases(workspace.project, file), book, workspace.scratch)
    published = workspace.control_plane.publish_price_book(
        PriceBookVersion(
            version=version,
            sha256=pin_file(workspace, file.content),
            name=book.name,
            effective_from=book.effective_from,
            author=book.author,
            published_at=at,
            published_by=by,
            reason=reason,
        ),
        at,
        lambda final: _refuse_final(file, final, live),
    )
    return Published(published, (published.published_at, published.published_by) == (at, by))


def approve_book(workspace: Workspace, name: str, by: str, at: datetime) -> Approved:
    """Put a published version into force; ``name`` is the version, or its beginning if no other begins so."""
    _require_four_eyes(workspace.project)
    versions = workspace.control_plane.price_book_versions()
    chosen = _find_version(versions, name)
    file = _published(workspace, chosen)
    live = approved_books(workspace.control_plane, workspace.lake)
    _refuse(_problems(workspace.project, file, [one.priced.book.effective_from for one in live]))
    approved = workspace.control_plane.approve_price_book(
        chosen.version, by, at, lambda final: _refuse_final(file, final, live)
    )
    is_new = chosen.approval_number is None
    replaced = [one.name for one in live if one.priced.book.effective_from == approved.effective_from]
    return Approved(approved, is_new, replaced[0] if is_new and replaced else None)


def list_books(workspace: Workspace) -> list[ListedBook]:
    """Return every version by effective date: those published, or the files of the folder where these are live."""
    rated = _rated_periods(workspace)
    if workspace.project.settings.price_books.approval == "files":
        return [
            ListedBook(
                priced.version,
                "live file",
                priced.book.effective_from,
                priced.book.author,
                None,
                None,
                "",
                rated.get(priced.version, []),
            )
            for priced in sorted(workspace.project.price_books, key=lambda one: one.book.effective_from)
        ]
    versions = workspace.control_plane.price_book_versions()
    return [
        ListedBook(
            one.version,
            _state_text(one, versions),
            one.effective_from,
            one.author,
            one.published_by,
            one.approved_by,
            one.reason,
            rated.get(one.version, []),
        )
        for one in versions
    ]


def find_sound_book(workspace: Workspace, name: str) -> PriceBookFile:
    """Return a book as find_book does; one that does not fit the meters and accounts of the project is refused."""
    file = find_book(workspace, name)
    _refuse(_problems(workspace.project, file, []))
    return file


def find_book(workspace: Workspace, name: str) -> PriceBookFile:
    """Return a book by the path of its file, or by its version or the beginning of it; one with problems is refused."""
    path = Path(name)
    if path.suffix == ".toml":
        file = _read(workspace.project, path)
        _refuse(file.problems)
        return file
    if workspace.project.settings.price_books.approval == "files":
        files = [
            _read(workspace.project, path) for path in sorted((workspace.project.folder / "price_books").glob("*"))
        ]
        found = [file for file in files if file.book is not None and file.priced.version.startswith(name)]
        if len(found) == 1:
            return found[0]
        raise _unknown(name, [file.priced.version for file in files if file.book is not None])
    return _published(workspace, _find_version(workspace.control_plane.price_book_versions(), name))


# ---- rules ----


def _cases(project: Project, file: PriceBookFile) -> list[Path]:
    """Return the files of ``price_books/cases/`` that a book has to pass.

    One that is named like a book of the folder is about that book, any other about every book.
    """
    folder = project.folder / "price_books"
    others = {path.stem for path in folder.glob("*.toml")} - {Path(file.name).stem}
    return sorted(path for path in (folder / "cases").glob("*.jsonl") if path.stem not in others)


def _read(project: Project, path: Path) -> PriceBookFile:
    """Read a file that is named from the current folder, or from the project."""
    here = path if path.is_file() else project.folder / path
    try:
        content = here.read_bytes()
    except OSError as error:
        raise InputError("price.no_file", f"{path} cannot be read: {error.strerror}", ["name a price book"]) from None
    folder = project.folder.resolve()
    resolved = here.resolve()
    name = resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else str(path)
    return read_price_book(name, content)


def _problems(project: Project, file: PriceBookFile, begins: Iterable[date]) -> list[str]:
    """Return every problem of a book in this project; ``begins`` are the dates of the books beside it."""
    if file.book is None:
        return list(file.problems)
    book, rows = file.book, project.directory.rows
    after = min((begin for begin in begins if begin > book.effective_from), default=None)
    problems = file.told(book_problems(book, project.meters, rows, project.taxes))
    lacking = account_problems(book, rows, project.settings.window.first_window_start, after)
    lines = account_lines(project.files["accounts.csv"]) if lacking else []
    return [
        *problems,
        *(f"accounts.csv line {lines[place]}: {found} (plans of {file.name})" for place, found in lacking),
    ]


def _refuse(found: Iterable[str]) -> None:
    problems = list(found)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError("price.invalid_book", f"{count} in the price book; nothing was done", problems)


def _refuse_final(file: PriceBookFile, final_periods: set[str], live: Sequence[PriceBookFile]) -> None:
    problems = final_period_problems(file.priced.book, final_periods, [one.priced for one in live])
    if problems:
        raise PublicationError(
            "price.final_period",
            f"{file.priced.version} would change what is invoiced",
            [*file.told(problems), "nothing was done; correct a final period by a credit note or an adjustment"],
        )


def _require_four_eyes(project: Project) -> None:
    if project.settings.price_books.approval == "files":
        raise InputError(
            "price.files_are_live",
            "the files of price_books/ are live as they are",
            ['billing.toml: price_books.approval: found "files", accepted "four_eyes" to publish and approve books'],
        )


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise InputError("price.no_reason", "a price book is published with a reason", ["--reason: found nothing"])


# ---- versions ----


def _find_version(versions: Sequence[PriceBookVersion], name: str) -> PriceBookVersion:
    found = [one for one in versions if one.version == name] or [
        one for one in versions if one.version.startswith(name)
    ]
    if len(found) != 1:
        raise _unknown(name, [one.version for one in versions])
    return found[0]


def _unknown(name: str, versions: Sequence[str]) -> InputError:
    return InputError(
        "price.unknown_version",
        f"{name!r} names no price book, or more than one",
        [f"accepted: a file that ends in .toml, or a version: {', '.join(versions) or 'none is there yet'}"],
    )


def _published(workspace: Workspace, version: PriceBookVersion) -> PriceBookFile:
    file = read_price_book(version.version, workspace.lake.get_bytes(f"pins/{version.sha256}"))
    _refuse(file.problems)
    return file


def _state_text(version: PriceBookVersion, versions: Sequence[PriceBookVersion]) -> str:
    state = state_of(version, versions)
    if state is not BookState.REPLACED:
        return state.value
    later = [
        one.version
        for one in versions
        if one.effective_from == version.effective_from and (one.approval_number or 0) > (version.approval_number or 0)
    ]
    return f"replaced by {later[-1]}"


def _rated_periods(workspace: Workspace) -> dict[str, list[str]]:
    rated: dict[str, list[str]] = {}
    for scope in workspace.control_plane.published_scopes(LINE_ITEMS.name):
        receipt = workspace.control_plane.publication(LINE_ITEMS.name, scope)
        if receipt is not None:
            for version in read_manifest(workspace, receipt.manifest_hash).pins["price_books"]:
                rated.setdefault(version, []).append(scope.removeprefix("period="))
    return rated
