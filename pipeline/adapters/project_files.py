"""The files of a billing project: read whole, checked whole, before any work.

Every problem of every file is collected and shown together, one line each: file, key, what was found, what is
accepted. TOML numbers are read as exact decimals. ``write_starter_project`` writes a project to begin with.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.adapters.accounts_table import ACCOUNT_COLUMNS, DATED, OPTIONAL_ACCOUNT_COLUMNS, accounts_table
from pipeline.adapters.checks import project_suite_problems
from pipeline.adapters.model_errors import INSTANT, sentence
from pipeline.adapters.price_book_files import PriceBookFile, read_price_book
from pipeline.core.account import VALID_FOR_EVER, AccountDirectory, AccountRow, directory_problems, plan_change_problems
from pipeline.core.contract import SourceContract, StrictModel, WithdrawalRule
from pipeline.core.errors import InputError
from pipeline.core.evidence import ControlFile
from pipeline.core.external import ExternalContract
from pipeline.core.meter import MeterFile
from pipeline.core.operations import SpendThresholdFile
from pipeline.core.price_book import PriceBook
from pipeline.core.price_book_rules import book_problems
from pipeline.core.project import Project, ProjectSettings
from pipeline.core.tax import TaxTable
from pipeline.core.window import BillingPeriod, billing_period, grain_cuts_zone, period_containing

STARTER_PROJECT = Path(__file__).parent.parent / "templates" / "project"
READY_CONTRACTS = Path(__file__).parent.parent / "templates" / "contracts"
TAX_TABLE = "taxes.toml"
SPEND_THRESHOLDS = "spend_thresholds.toml"
_ACCOUNT_ROWS = TypeAdapter(list[AccountRow])
PERIODS_CHECKED = 13  # one year and a month from the first window: both halves of daylight saving time

Model = TypeVar("Model", bound=StrictModel)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Make many objects that all stay: looking for garbage among them again and again takes longer than making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()
def load_project(folder: Path, *, with_price_books: bool = True) -> Project:
    """Return the checked project, or raise one ``InputError`` that lists every problem of every file.

    Price books are read where ``price_books.approval`` is "files", and wanted.
    """
    if not folder.is_dir():
        raise InputError(
            "project.not_found", f"there is no folder {folder}", ["`billing init PATH` writes a project to begin with"]
        )
    reader = _Reader(folder)
    settings = reader.toml("billing.toml", ProjectSettings)
    contracts = [reader.contract(name) for name in reader.names("sources")]
    meter_file = reader.toml("meters.toml", MeterFile)
    has_drafts = settings is not None and settings.price_books.approval == "four_eyes"
    is_unread = has_drafts or not with_price_books
    books = {} if is_unread else {name: reader.price_book(name) for name in reader.names("price_books")}
    named = {account_id for _, account_id in settings.accounts.fallbacks} if settings is not None else set()
    for file in books.values():
        if file is not None and file.book is not None:
            named |= {override.account_id for override in file.book.overrides}
    compared = reader.compared_accounts("accounts.csv", named)
    rows = reader.accounts("accounts.csv") if compared is None else compared
    files = _Files(
        settings,
        [contract for contract in contracts if contract is not None],
        None not in contracts,
        meter_file,
        {name: file for name, file in books.items() if file is not None},
        all(file is not None and file.book is not None for file in books.values()),
    )
    broken_rules = _rule_problems(files, rows)
    if broken_rules and compared is not None:
        broken_rules = _rule_problems(files, reader.accounts("accounts.csv"))
    taxes = reader.toml(TAX_TABLE, TaxTable) if (folder / TAX_TABLE).exists() else None
    spend = reader.toml(SPEND_THRESHOLDS, SpendThresholdFile) if (folder / SPEND_THRESHOLDS).exists() else None
    reader.suites()
    reader.refuse_other_files("external", ".toml")
    read_externals = [
        reader.toml(f"external/{path.name}", ExternalContract) for path in sorted((folder / "external").glob("*.toml"))
    ]
    externals = tuple(one for one in read_externals if one is not None)
    problems = [*reader.problems, *broken_rules, *_external_problems(externals, files.contracts)]
    if problems or settings is None or meter_file is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError("project.invalid", f"{folder} has {count}; nothing was done", problems)
    return Project(
        folder=folder,
        settings=settings,
        contracts=tuple(files.contracts),
        meters=meter_file.meters,
        read_directory=lambda: AccountDirectory(tuple(reader.accounts("accounts.csv"))),
        price_books=tuple(file.priced for file in files.books.values()),
        files=reader.files,
        externals=externals,
        taxes=taxes,
        spend_thresholds=spend.thresholds if spend else (),
    )


def live_book_problems(
    rows: Sequence[AccountRow], books: Mapping[str, PriceBook], settings: ProjectSettings | None
) -> list[str]:
    """Return which accounts the books that rate leave without a price, and whether the first month has a book."""
    problems = [*_plan_problems(rows, books.values())]
    return problems if settings is None else [*problems, *first_book_problems(settings, rows, books)]


def account_lines(content: bytes) -> list[int]:
    """Return the line of each row of ``accounts.csv``, in order; of a file that was read before."""
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    next(reader)
    lines, line_number = [], reader.line_num + 1
    for cells in reader:
        if cells:
            lines.append(line_number)
        line_number = reader.line_num + 1
    return lines


@dataclass(frozen=True, slots=True)
class _Files:
    """The files that could be read, and whether all of a kind could."""

    settings: ProjectSettings | None
    contracts: list[SourceContract]
    has_every_contract: bool
    meter_file: MeterFile | None
    books: dict[str, PriceBookFile]
    has_every_book: bool


def _rule_problems(files: _Files, rows: Sequence[AccountRow]) -> list[str]:
    """Return what breaks a rule between rows or between files."""
    settings, meter_file = files.settings, files.meter_file
    problems = [f"accounts.csv: {problem}" for problem in directory_problems(rows)]
    problems += _contract_problems(files.contracts)
    read_books = {name: file.book for name, file in files.books.items() if file.book is not None}
    problems += _price_book_problems(read_books)
    if settings is not None:
        problems += _settings_problems(settings)
        problems += _control_file_problems(settings, files.contracts)
        problems += _grain_problems(settings, rows)
        problems += [f"accounts.csv: {problem}" for problem in plan_change_problems(rows, settings.window.grain)]
        problems += _fallback_problems(settings, rows)
    problems += _withdrawal_problems(files.contracts, meter_file)
    if files.books and files.has_every_book:
        problems += live_book_problems(rows, read_books, settings)
    if meter_file is not None:
        for file in files.books.values():
            if file.book is not None:
                problems += file.told(book_problems(file.book, meter_file.meters, rows))
        if files.contracts and files.has_every_contract:
            problems += _event_type_problems(meter_file, files.contracts)
            problems += _meter_path_problems(meter_file, files.contracts)
        if settings is not None:
            problems += _bucket_problems(settings, meter_file)
    return problems


def load_settings(folder: Path) -> ProjectSettings:
    """Return ``billing.toml`` alone, for callers that only need to know when windows begin."""
    reader = _Reader(folder)
    settings = reader.toml("billing.toml", ProjectSettings)
    if settings is None:
        raise InputError("project.invalid", f"billing.toml of {folder} cannot be used", reader.problems)
    return settings


def write_starter_project(folder: Path) -> list[Path]:
    """Write a commented project that loads as it is, and return its files; a folder that holds anything is refused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "init.folder_not_empty",
            f"{folder} is not an empty folder",
            ["nothing was written; name a folder that is empty or does not exist"],
        )
    written = []
    for template in sorted(path for path in STARTER_PROJECT.rglob("*") if path.is_file()):
        relative = template.relative_to(STARTER_PROJECT)
        target = folder / (".gitignore" if relative == Path("gitignore") else relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(template, target)
        written.append(target)
    return written


@dataclass(frozen=True, slots=True)
class ReadyContract:
    """A source contract that comes with the package, for a feed that many teams have."""

    name: str
    description: str
    prefix: str


def ready_contracts() -> list[ReadyContract]:
    """Return the contracts that ``add_ready_contract`` can write, by name."""
    found = []
    for path in sorted(READY_CONTRACTS.glob("*.toml")):
        contract = SourceContract.model_validate(tomllib.loads(path.read_text("utf-8"), parse_float=Decimal))
        found.append(ReadyContract(path.stem, contract.description, contract.prefix))
    return found


@dataclass(frozen=True, slots=True)
class AddedContract:
    """The file of a contract that was added, and the problems that the project still has, which may be older."""

    path: Path
    problems: tuple[str, ...]


def add_ready_contract(
    folder: Path, ready_name: str, prefix: str | None = None, name: str | None = None
) -> AddedContract:
    """Write a ready contract into ``sources/`` of a project, under another prefix or name if one is given.

    Nothing is overwritten, and nothing is written if the contract cannot be used or covers a key of another one. Any
    other problem of the project is returned and not raised: a contract may be what mends it.
    """
    names = [ready.name for ready in ready_contracts()]
    if ready_name not in names:
        raise InputError(
            "source.unknown_contract", f"there is no ready contract {ready_name!r}", [f"accepted: {', '.join(names)}"]
        )
    name = name or ready_name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            "source.wrong_name",
            f"found the name {name!r}, accepted a letter, then letters, digits and underscores, all small",
        )
    if not (folder / "billing.toml").is_file():
        raise InputError(
            "project.not_found",
            f"{folder} is no billing project: there is no billing.toml in it",
            ["nothing was written; name the folder with --project; `billing init PATH` writes a project to begin with"],
        )
    target = folder / "sources" / f"{name}.toml"
    text = (READY_CONTRACTS / f"{ready_name}.toml").read_text("utf-8")
    values = {"name": name} | ({} if prefix is None else {"prefix": prefix})
    for key, value in values.items():
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        text = re.sub(rf"^{key} = .*$", lambda _, line=line: line, text, count=1, flags=re.MULTILINE)  # type: ignore[misc]
    if not target.exists():
        problems = _new_contract_problems(folder, text)
        if problems:
            raise InputError("project.invalid", f"{target} cannot be used; nothing was written", problems)
        target.parent.mkdir(exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            "source.exists", f"{target} is there already", ["nothing was written; give the contract another --name"]
        ) from None
    try:
        load_project(folder)
    except InputError as error:
        return AddedContract(target, tuple(error.details))
    return AddedContract(target, ())


def _new_contract_problems(folder: Path, text: str) -> list[str]:
    """Return why a contract cannot be used beside those of the project that can be read, or by itself."""
    reader = _Reader(folder)
    others = [reader.contract(f"sources/{path.name}") for path in sorted((folder / "sources").glob("*.toml"))]
    try:
        new = SourceContract.model_validate(tomllib.loads(text, parse_float=Decimal))
    except ValidationError as error:
        return [sentence(SourceContract, details) for details in error.errors()]
    return [problem for other in others if other is not None for problem in _contract_problems([other, new])]


class _Reader:
    """Reads files of one folder; keeps their bytes, and every problem instead of raising it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[str, bytes] = {}
        self.problems: list[str] = []

    def names(self, folder: str) -> list[str]:
        names = sorted(f"{folder}/{path.name}" for path in (self._folder / folder).glob("*.toml"))
        if not names:
            self.problems.append(f"{folder}/: found no file, accepted one or more *.toml")
        return names

    def toml(self, name: str, model: type[Model]) -> Model | None:
        text = self._text(name)
        if text is None:
            return None
        try:
            return model.model_validate(tomllib.loads(text, parse_float=Decimal))
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{name}: found text that is not TOML: {error}")
        except ValidationError as error:
            self.problems += [f"{name}: {sentence(model, details)}" for details in error.errors()]
        return None

    def price_book(self, name: str) -> PriceBookFile | None:
        content = self._bytes(name)
        if content is None:
            return None
        file = read_price_book(name, content)
        self.problems += file.problems
        return file

    def suites(self) -> None:
        """Read the project's own expectations, of which there may be none."""
        self.refuse_other_files("expectations", ".json")
        for path in sorted((self._folder / "expectations").glob("*.json")):
            name = f"expectations/{path.name}"
            content = self._bytes(name)
            if content is not None:
                self.problems += project_suite_problems(name, content)

    def refuse_other_files(self, folder: str, suffix: str) -> None:
        """Name each file of a folder that would not be read: whoever put it there thinks that it counts."""
        for path in sorted((self._folder / folder).rglob("*")):
            inside = path.relative_to(self._folder / folder)
            is_read = len(inside.parts) == 1 and path.suffix == suffix
            is_note = path.suffix == ".md" or any(part.startswith(".") for part in inside.parts)
            if path.is_file() and not is_read and not is_note:
                self.problems.append(
                    f"{folder}/{inside.as_posix()}: is not read; accepted {folder}/NAME{suffix}, notes as .md"
                )

    def contract(self, name: str) -> SourceContract | None:
        """Return a contract with its JSON Schemas, whose files are kept with it."""
        contract = self.toml(name, SourceContract)
        if contract is None or not contract.schemas:
            return contract
        documents = {
            event_type: self._schema(f"{name}: schemas.{event_type}", file)
            for event_type, file in contract.schemas.items()
        }
        return contract.with_schema_documents(documents)

    def _schema(self, where: str, file: str) -> str:
        if not _SCHEMA_FILE.fullmatch(file) or ".." in file.split("/"):
            self.problems.append(
                f"{where}: found {file!r}, accepted the name of a file below sources/ that ends in .json"
            )
            return "true"
        name = f"sources/{file}"
        is_read_before = name in self.files
        text = self._text(name)
        if text is not None and not is_read_before:
            from pipeline.core.json_schema import schema_problems  # slow to start, and few projects have a schema

            self.problems += [f"{name}: {problem}" for problem in schema_problems(text)]
        return text if text is not None else "true"

    def compared_accounts(self, name: str, account_ids: set[str]) -> list[AccountRow] | None:
        """Return every row that a rule between rows or files can be about; None if each row has to be looked at."""
        try:
            content = self.files[name] = (self._folder / name).read_bytes()
        except OSError:
            return None
        table = accounts_table(content)
        if table is None:
            return None
        cells = table.compared_rows(account_ids)
        found = [one for row in cells for one in self._account(name, list(row), list(row.values()))]
        try:
            return _ACCOUNT_ROWS.validate_python([values for _, values in found])
        except ValidationError:
            return None

    @_without_garbage_collection()
    def accounts(self, name: str) -> list[AccountRow]:
        """Return every row, each looked at by itself; what is wrong with one names its line."""
        text = self._text(name)
        if text is None:
            return []
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        found: list[tuple[str, dict[str, Any]]] = []
        try:
            header = next(reader, [])
            missing = [column for column in OPTIONAL_ACCOUNT_COLUMNS if column not in header]
            if sorted([*header, *missing]) != sorted(ACCOUNT_COLUMNS):
                self.problems.append(
                    f"{name} line 1: found the header {','.join(header)!r}, accepted {_ACCOUNT_HEADER}"
                )
                return []
            line_number = reader.line_num + 1
            for cells in reader:
                if cells:
                    found += self._account(f"{name} line {line_number}", header, cells)
                line_number = reader.line_num + 1
        except csv.Error as error:
            self.problems.append(f"{name} line {reader.line_num}: found text that is not CSV: {error}")
        try:
            rows = _ACCOUNT_ROWS.validate_python([values for _, values in found])
        except ValidationError as error:
            rows = []
            for details in error.errors():
                place, *path = details["loc"]
                where = found[int(place)][0]
                self.problems.append(f"{where}: {sentence(AccountRow, {**details, 'loc': tuple(path)})}")
        if not rows and not self.problems:
            self.problems.append(f"{name}: found no account, accepted one or more rows below the header")
        return rows

    def _account(self, where: str, header: Sequence[str], cells: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        if len(cells) != len(header):
            self.problems.append(f"{where}: found {len(cells)} columns, accepted {len(header)}: {_ACCOUNT_HEADER}")
            return []
        values: dict[str, Any] = dict(zip(header, map(str.strip, cells), strict=True))
        references = values["external_references"].split(";")
        values["external_references"] = [text for text in map(str.strip, references) if text]
        if not values["valid_to"]:
            del values["valid_to"]
        undated = [
            column for column in ("valid_from", "valid_to") if not DATED.match(values.get(column, "0000-00-00T"))
        ]
        if undated:
            self.problems += [f"{where}: {column}: found {values[column]!r}, accepted {INSTANT}" for column in undated]
            return []
        return [(where, values)]

    def _bytes(self, name: str) -> bytes | None:
        try:
            content = self.files.get(name) or (self._folder / name).read_bytes()
        except OSError as error:
            self.problems.append(f"{name}: found no readable file ({error.strerror}), accepted a file of this name")
            return None
        self.files[name] = content
        return content

    def _text(self, name: str) -> str | None:
        content = self._bytes(name)
        if content is None:
            return None
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line_number = content[: error.start].count(b"\n") + 1
            self.problems.append(f"{name} line {line_number}: found bytes that are not UTF-8, accepted UTF-8 text")
            return None


_ACCOUNT_HEADER = ",".join(column for column in ACCOUNT_COLUMNS if column not in OPTIONAL_ACCOUNT_COLUMNS)
_SCHEMA_FILE = re.compile(r"[^/\\]+(/[^/\\]+)*\.json")


# ---- rules across files ----


def _settings_problems(settings: ProjectSettings) -> Iterable[str]:
    lake, database = settings.lake.url, settings.control_plane.url
    if "://" in lake and not lake.startswith("s3://"):
        yield f'billing.toml: lake.url: found {lake!r}, accepted a folder or "s3://bucket/prefix"'
    elif lake.startswith("s3://") and lake.removeprefix("s3://").partition("/")[0] in ("", settings.raw.bucket):
        yield f"billing.toml: lake.url: found {lake!r}, accepted a bucket other than raw.bucket, which is only read"
    if not database.startswith(("sqlite:///", "postgresql://", "postgresql+")) or database == "sqlite:///":
        scheme = database.partition(":")[0]
        yield f'billing.toml: control_plane.url: found {scheme!r}, accepted "sqlite:///file.db" or "postgresql+psycopg://..."'


def _contract_problems(contracts: Sequence[SourceContract]) -> Iterable[str]:
    for one, other in combinations(contracts, 2):
        if one.name == other.name:
            yield f"sources/: name: found {one.name!r} in two contracts, accepted one contract of a name"
        nested = one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)
        if nested and any(a.endswith(b) or b.endswith(a) for a in one.suffixes for b in other.suffixes):
            yield (
                f"sources/: prefix and suffixes: found keys that both {one.name} and {other.name} cover, "
                "accepted one contract for each key"
            )


def _external_problems(externals: Sequence[ExternalContract], contracts: Sequence[SourceContract]) -> Iterable[str]:
    """Find reports that share a name or an object with another contract: an object is of one contract."""
    for number, external in enumerate(externals):
        others: list[SourceContract | ExternalContract] = [*contracts, *externals[:number]]
        for other in others:
            if other.name == external.name:
                yield f"external/: name: found {external.name!r} in two contracts, accepted one contract of a name"
            nested = external.prefix.startswith(other.prefix) or other.prefix.startswith(external.prefix)
            if nested and any(a.endswith(b) or b.endswith(a) for a in external.suffixes for b in other.suffixes):
                yield (
                    f"external/: prefix and suffixes: found keys that both {external.name} and {other.name} cover, "
                    "accepted one contract for each key"
                )


def _control_file_problems(settings: ProjectSettings, contracts: Sequence[SourceContract]) -> Iterable[str]:
    """Find windows that cut an hour in two: a control file counts whole hours."""
    by_hour = [contract.name for contract in contracts if isinstance(contract.completeness, ControlFile)]
    if by_hour and settings.window.length % timedelta(hours=1):
        yield (
            f"billing.toml: window.length: found {_duration(settings.window.length)}, accepted whole hours, because "
            f"{', '.join(by_hour)} is shown to be complete by control files for each hour"
        )


def _price_book_problems(books: Mapping[str, PriceBook]) -> Iterable[str]:
    first_at: dict[date, str] = {}
    for name, book in books.items():
        first = first_at.setdefault(book.effective_from, name)
        if first != name:
            yield (
                f"{name}: effective_from: found {book.effective_from.isoformat()}, the same as {first}, "
                "accepted one book for each date"
            )


def _plan_problems(rows: Sequence[AccountRow], books: Iterable[PriceBook]) -> Iterable[str]:
    """Find accounts whose plan no book has, or whose plan no book prices in their currency."""
    currencies_of_plan: dict[str, set[str]] = {}
    for book in books:
        for plan, priced in book.plans.items():
            currencies_of_plan.setdefault(plan, set()).update(charge.currency for charge in priced.charges)
    unpriced = {
        (plan, currency)
        for plan, currency in {(row.plan, row.currency) for row in rows}
        if currency not in currencies_of_plan.get(plan, ())
    }
    accounts = {(row.account_id, row.plan, row.currency) for row in rows if (row.plan, row.currency) in unpriced}
    for account_id, plan, currency in sorted(accounts):
        currencies = currencies_of_plan.get(plan)
        if currencies is None:
            yield (
                f"accounts.csv: plan of account {account_id}: found {plan!r}, "
                f"accepted {', '.join(sorted(currencies_of_plan))} (plans of the price books)"
            )
        else:
            yield (
                f"accounts.csv: currency of account {account_id}: found {currency}, "
                f"accepted {', '.join(sorted(currencies))} (charges of plan {plan!r} in the price books)"
            )


def first_book_problems(
    settings: ProjectSettings, rows: Sequence[AccountRow], books: Mapping[str, PriceBook]
) -> Iterable[str]:
    """Find a first period that no book prices: the month in which the first window begins, where the account is."""
    first_name, first_book = min(books.items(), key=lambda item: item[1].effective_from)
    for time_zone in sorted({row.time_zone for row in rows}):
        first_day = date.fromisoformat(
            f"{period_containing(settings.window.first_window_start, time_zone).period_id}-01"
        )
        if first_book.effective_from > first_day:
            yield (
                f"{first_name}: effective_from: found {first_book.effective_from.isoformat()}, accepted "
                f"{first_day.isoformat()} or before, the month in which the first window begins in {time_zone}"
            )
            return


def _event_type_problems(meter_file: MeterFile, contracts: Sequence[SourceContract]) -> Iterable[str]:
    if not all(contract.event_types for contract in contracts):
        return
    declared = sorted({event_type for contract in contracts for event_type in contract.event_types})
    for meter in meter_file.meters:
        if meter.event_type not in declared:
            yield (
                f"meters.toml: event_type of {meter.sku}: found {meter.event_type!r}, "
                f"accepted {', '.join(declared)} (event_types in sources/)"
            )


def _meter_path_problems(meter_file: MeterFile, contracts: Sequence[SourceContract]) -> Iterable[str]:
    """Find paths of data that no feed of the event type can fill: each event would be excluded, or counted wrongly."""
    for meter in meter_file.meters:
        feeds = [feed for feed in contracts if not feed.event_types or meter.event_type in feed.event_types]
        if meter.value == "quantity" and feeds and all(feed.event.quantity is None for feed in feeds):
            yield (
                f"meters.toml: value of {meter.sku}: found 'quantity', which no contract maps; "
                "accepted a path of data, or [event.quantity] in sources/"
            )
        if not feeds or any(not feed.event.data or feed.unknown_fields == "keep" for feed in feeds):
            continue
        declared = sorted({name for feed in feeds for name in feed.event.data})
        paths = {"value": meter.value.removeprefix("data.")} if meter.value and meter.value != "quantity" else {}
        paths |= {f"filter.{path}": path for path in meter.filter}
        paths |= {f"dimensions.#{number}": path for number, path in enumerate(meter.dimensions, start=1)}
        for key, path in paths.items():
            if path.partition(".")[0] not in declared:
                yield (
                    f"meters.toml: {key} of {meter.sku}: found {path!r}, which no contract takes from a record; "
                    f"accepted {', '.join(declared)} ([event.data] in sources/)"
                )


def _fallback_problems(settings: ProjectSettings, rows: Sequence[AccountRow]) -> Iterable[str]:
    """Find fallback accounts that are not there the whole time: usage of nobody may come for any instant."""
    if not settings.accounts.fallbacks:
        return
    start = settings.window.first_window_start
    for source, account_id in settings.accounts.fallbacks:
        covered_until = start
        for row in sorted((row for row in rows if row.account_id == account_id), key=lambda row: row.valid_from):
            if row.valid_from <= covered_until:
                covered_until = max(covered_until, row.valid_to)
        if covered_until < VALID_FOR_EVER:
            key = "fallback" if source is None else f"fallback_by_source.{source}"
            yield (
                f"billing.toml: accounts.{key}: found {account_id!r}, accepted an account of accounts.csv "
                f"that is valid from {start.date().isoformat()} or before, without an end"
            )


def _withdrawal_problems(contracts: Sequence[SourceContract], meter_file: MeterFile | None) -> Iterable[str]:
    """Find types that withdraw by two rules, that no feed can fill, or that are billed although they never are."""
    first_rule: dict[str, tuple[str, WithdrawalRule]] = {}
    for contract in contracts:
        for rule in contract.withdrawals:
            name, first = first_rule.setdefault(rule.event_type, (contract.name, rule))
            if first != rule:
                yield (
                    f"sources: withdrawals of {rule.event_type}: found one rule in {name} and another in "
                    f"{contract.name}, accepted the same one in both"
                )
            if not contract.event.data or contract.unknown_fields == "keep":
                continue
            for key, path in (("id", rule.id), ("source", rule.source)):
                declared = sorted(contract.event.data)
                if path is not None and path.split(".")[1] not in declared:
                    yield (
                        f"sources: withdrawals.{key} of {contract.name}: found {path!r}, which the contract does not "
                        f"take from a record; accepted {', '.join(declared)} ([event.data])"
                    )
    for meter in meter_file.meters if meter_file is not None else ():
        _, withdrawing = first_rule.get(meter.event_type, ("", None))
        if withdrawing is not None and not withdrawing.replaces:
            yield (
                f"meters.toml: event_type of {meter.sku}: found {meter.event_type!r}, which only withdraws other "
                "events and is never billed; accepted another type, or replaces = true for it in sources/"
            )


def _bucket_problems(settings: ProjectSettings, meter_file: MeterFile) -> Iterable[str]:
    grain = settings.window.grain
    for meter in meter_file.meters:
        if meter.bucket is not None and meter.bucket % grain:
            yield (
                f"meters.toml: bucket of {meter.sku}: found {_duration(meter.bucket)}, accepted a whole multiple of "
                f"the grain of {_duration(grain)} (window.grain in billing.toml)"
            )


def _grain_problems(settings: ProjectSettings, rows: Sequence[AccountRow]) -> Iterable[str]:
    grain = settings.window.grain
    accounts_of: dict[str, list[str]] = {}
    for row in rows:
        accounts_of.setdefault(row.time_zone, []).append(row.account_id)
    for time_zone, account_ids in sorted(accounts_of.items()):
        if not all(grain_cuts_zone(grain, period) for period in _first_periods(settings, time_zone)):
            others = len(set(account_ids)) - 1
            accounts = f"account {account_ids[0]}" + (f" and {others} more" if others else "")
            yield (
                f"accounts.csv: time_zone of {accounts}: found {time_zone}, whose months do not start on a grain of "
                f"{_duration(grain)}; accepted a zone that the grain cuts, or a smaller window.grain in billing.toml"
            )


def _first_periods(settings: ProjectSettings, time_zone: str) -> list[BillingPeriod]:
    first = settings.window.first_window
    months = [first.year * 12 + first.month - 1 + offset for offset in range(PERIODS_CHECKED)]
    return [billing_period(f"{month // 12:04d}-{month % 12 + 1:02d}", time_zone) for month in months]


def _duration(duration: timedelta) -> str:
    minutes = duration // timedelta(minutes=1)
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"
