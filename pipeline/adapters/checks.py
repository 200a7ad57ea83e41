"""Great Expectations: the one place that opens ``expectations/`` and runs it, inside DuckDB.

A suite is one readable JSON file per dataset, in the form that Great Expectations itself writes. It is read
strictly here: each expectation has a name, a sentence of what must hold, a severity and a reason. Only the
kinds below are accepted, because Great Expectations turns numbers and bounds into floats for the others and
then calls a wrong sum right (P6). What they cannot say, ``unexpected_rows_expectation`` says in SQL, exactly:
a query whose rows are the wrong ones, over the dataset (``{batch}``) and any relation the caller has named.

A billing project may have suites of its own, in its folder ``expectations/``. They add to those of the pipeline and
are read with the project, so that a broken one stops it before any work.

Great Expectations is imported when a suite is run (it takes seconds), never contacts anything, and sees the
dataset only through DuckDB.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from pipeline.core.check import CHECKED, RELATIONS_BESIDE, CheckResult, Severity
from pipeline.core.contract import StrictModel
from pipeline.core.dataset import Dataset
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    import duckdb

SAMPLE_COUNT = 5
SAMPLE_TEXT_MAX = 200

# Great Expectations keeps its current context in a process-wide global, so suites run one after another.
_ONE_AT_A_TIME = threading.Lock()

_ColumnName = Annotated[str, Field(min_length=1)]
_Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]
_Query = tuple[str, list[Any]]


class _Meta(StrictModel):
    """``name``: stable, unique in its suite. ``why``: what goes wrong for whom when it does not hold.

    ``needs = "history"``: it compares with earlier windows, and is skipped, in words, where there are too few.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    why: _Sentence
    needs: Literal["history"] | None = None


class _Expectation(StrictModel):
    description: _Sentence
    severity: Severity
    meta: _Meta

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    def wrong_rows(self, dataset: Dataset) -> _Query | None:
        """Return the query of the rows that break the expectation, for samples; none if it is not about rows."""
        return None

    def as_configuration(self) -> dict[str, Any]:
        """Return the expectation as Great Expectations takes it."""
        return self.model_dump(mode="json")


class _Column(StrictModel):
    column: _ColumnName


class _NotNull(_Expectation):
    type: Literal["expect_column_values_to_not_be_null"]
    kwargs: _Column

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.kwargs.column,)

    def wrong_rows(self, dataset: Dataset) -> _Query:
        return _rows_where(dataset, self.columns, f'"{self.kwargs.column}" IS NULL')


class _Set(_Column):
    value_set: Annotated[tuple[str, ...], Field(min_length=1)]


class _InSet(_Expectation):
    type: Literal["expect_column_values_to_be_in_set"]
    kwargs: _Set

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.kwargs.column,)

    def wrong_rows(self, dataset: Dataset) -> _Query:
        condition = f'NOT list_contains(?, "{self.kwargs.column}")'
        return _rows_where(dataset, self.columns, condition, list(self.kwargs.value_set))


class _Regex(_Column):
    regex: Annotated[str, Field(min_length=1)]


class _MatchRegex(_Expectation):
    type: Literal["expect_column_values_to_match_regex"]
    kwargs: _Regex

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.kwargs.column,)

    def wrong_rows(self, dataset: Dataset) -> _Query:
        condition = f'NOT regexp_matches("{self.kwargs.column}", ?)'
        return _rows_where(dataset, self.columns, condition, self.kwargs.regex)


class _Unique(_Expectation):
    type: Literal["expect_column_values_to_be_unique"]
    kwargs: _Column

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.kwargs.column,)

    def wrong_rows(self, dataset: Dataset) -> _Query:
        return _repeated_values(dataset, self.columns)


class _ColumnList(StrictModel):
    column_list: Annotated[tuple[_ColumnName, ...], Field(min_length=2)]


class _CompoundUnique(_Expectation):
    type: Literal["expect_compound_columns_to_be_unique"]
    kwargs: _ColumnList

    @property
    def columns(self) -> tuple[str, ...]:
        return self.kwargs.column_list

    def wrong_rows(self, dataset: Dataset) -> _Query:
        return _repeated_values(dataset, self.columns)


class _RowCount(StrictModel):
    min_value: Annotated[int, Field(ge=0, strict=True)] | None = None
    max_value: Annotated[int, Field(ge=0, strict=True)] | None = None

    @model_validator(mode="after")
    def _some_number_fits(self) -> Self:
        if self.min_value is None and self.max_value is None:
            raise ValueError("found neither min_value nor max_value, accepted one of them or both")
        if self.min_value is not None and self.max_value is not None and self.min_value > self.max_value:
            raise ValueError(f"min_value {self.min_value} is more than max_value {self.max_value}")
        return self


class _RowCountBetween(_Expectation):
    type: Literal["expect_table_row_count_to_be_between"]
    kwargs: _RowCount


class _RowsQuery(StrictModel):
    unexpected_rows_query: str

    @field_validator("unexpected_rows_query")
    @classmethod
    def _is_about_the_dataset(cls, query: str) -> str:
        if {field for _, field, _, _ in Formatter().parse(query) if field is not None} != {"batch"}:
            raise ValueError("a query names its dataset as {batch} and has no other {placeholder}")
        return query


class _UnexpectedRows(_Expectation):
    type: Literal["unexpected_rows_expectation"]
    kwargs: _RowsQuery

    def wrong_rows(self, dataset: Dataset) -> _Query:
        return self.kwargs.unexpected_rows_query.format(batch=dataset.name), []

    def as_configuration(self) -> dict[str, Any]:
        """Put ``{batch}`` into a CTE: Great Expectations gives it an alias of its own unless the query says JOIN."""
        query = self.kwargs.unexpected_rows_query.format(batch="checked_rows").replace("{", "{{").replace("}", "}}")
        query = f"WITH checked_rows AS (SELECT * FROM {{batch}}) SELECT * FROM ({query})"  # noqa: S608
        return {**super().as_configuration(), "kwargs": {"unexpected_rows_query": query}}


Expectation = Annotated[
    _NotNull | _InSet | _MatchRegex | _Unique | _CompoundUnique | _RowCountBetween | _UnexpectedRows,
    Field(discriminator="type"),
]


class _SuiteFile(StrictModel):
    name: str
    expectations: tuple[Expectation, ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """The checked expectations of one dataset; ``contents`` are the bytes of its files by name, to be pinned."""

    dataset: Dataset
    expectations: tuple[Expectation, ...]
    contents: Mapping[str, bytes]


def suite_files() -> list[Path]:
    """Return every suite of the pipeline: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    beside = sorted((package.parent / "expectations").glob("*.json"))
    return beside or sorted((package / "bundled" / "expectations").glob("*.json"))


def load_suite(dataset: Dataset, project_files: Mapping[str, bytes] | None = None) -> Suite:
    """Return the suite of a dataset, then what the project adds to it; a missing or wrong one raises ``InputError``."""
    own = [path for path in suite_files() if path.stem == dataset.name]
    if not own:
        raise InputError("expectations.missing", f"{dataset.name} has no expectations/{dataset.name}.json", [])
    suite = read_suite(own[0])
    where = f"expectations/{dataset.name}.json"
    added = (project_files or {}).get(where)
    if added is None:
        return suite
    more, problems = _parsed(where, added)
    if more is None or problems:
        raise InputError("expectations.invalid", f"{where} of the project is wrong in {len(problems)} places", problems)
    contents = {**suite.contents, f"project/{dataset.name}": added}
    return Suite(dataset, (*suite.expectations, *more.expectations), contents)


def read_suite(path: Path) -> Suite:
    """Read one suite file; its name is the dataset it is about. Problems are collected and raised together."""
    content = path.read_bytes()
    where = f"expectations/{path.name}"
    suite, problems = _parsed(where, content)
    if suite is None or problems:
        raise InputError("expectations.invalid", f"{where} is wrong in {len(problems)} place(s)", problems)
    return Suite(_DATASETS[suite.name], suite.expectations, {suite.name: content})


def project_suite_problems(where: str, content: bytes) -> list[str]:
    """Return what is wrong with a suite of a project: its form, its names, and SQL that does not run on its tables.

    ``where`` is the path in the project. A query reads the relations of docs/checks.md and no file.
    """
    suite, problems = _parsed(where, content)
    if suite is not None and not problems:
        taken = {expectation.meta.name for expectation in load_suite(_DATASETS[suite.name]).expectations}
        for index, expectation in enumerate(suite.expectations):
            place = f"expectations[{index}] ({expectation.meta.name})"
            if expectation.meta.name in taken:
                problems.append(f"{place}: the pipeline has an expectation of this name; choose another one")
            problem = _sql_problem(_DATASETS[suite.name], expectation)
            if problem is not None:
                problems.append(f"{place}: the query cannot run: {problem}")
    return [f"{where}: {problem}" for problem in problems]


_DATASETS = {dataset.name: dataset for dataset in CHECKED}


def _parsed(where: str, content: bytes) -> tuple[_SuiteFile | None, list[str]]:
    try:
        document = json.loads(content)
    except ValueError as error:
        return None, [f"found text that is not JSON: {error}"]
    try:
        suite = _SuiteFile.model_validate(document)
    except ValidationError as error:
        return None, [_problem(document, fault["loc"], fault["msg"], fault["input"]) for fault in error.errors()]
    return suite, list(_contradictions(suite, Path(where).stem))


def _sql_problem(dataset: Dataset, expectation: Expectation) -> str | None:
    """Run the query on empty relations; return what the engine has against it."""
    query = expectation.wrong_rows(dataset)
    if query is None:
        return None
    if query[0].rstrip().endswith(";"):
        return "it ends in a semicolon; leave it out"
    import duckdb

    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        for name, columns in {dataset.name: dataset.columns, **RELATIONS_BESIDE[dataset.name]}.items():
            definitions = ", ".join(f'"{column}" {sql_type}' for column, sql_type in columns)
            connection.execute(f"CREATE TABLE {name} ({definitions})")
        try:
            if [one.type for one in connection.extract_statements(query[0])] != [duckdb.StatementType.SELECT]:
                return "it is one SELECT and nothing else"
            connection.execute(f"SELECT COUNT(*) FROM ({query[0]})", query[1])  # noqa: S608
            changing = _changing_functions(connection, query[0])
        except duckdb.Error as error:
            return str(error).splitlines()[0]
    if changing:
        return f"{', '.join(changing)} gives another result each time; the same rows have to give the same result"
    return None


def _changing_functions(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """Return what a query uses that is not the same each time: a clock, a random number, a sample."""
    rows = connection.execute("SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'").fetchall()
    functions = {name for (name,) in rows}
    found = set()

    def look(node: Any) -> None:
        if isinstance(node, list):
            for one in node:
                look(one)
        if not isinstance(node, dict):
            return
        names = node.get("column_names", [])
        if str(node.get("function_name", "")).lower() in functions:
            found.add(node["function_name"].lower())
        if len(names) == 1 and names[0].lower() in _CLOCKS:
            found.add(names[0].lower())
        if node.get("sample"):
            found.add("a sample")
        look(list(node.values()))

    # As a text it is SQL's own tree; a macro is not looked into, and a project cannot make one.
    look(json.loads(connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()[0][0]))
    return sorted(found)


_CLOCKS = ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")  # written without ()


def run_suite(
    suite: Suite, scope: str, connection: duckdb.DuckDBPyConnection, too_little_history: str = ""
) -> tuple[CheckResult, ...]:
    """Check the relation named like the suite's dataset; results come in the order of the suite.

    An expectation that cannot be computed (a query that is not SQL, a relation that is not there) raises
    ``InputError``: a check that did not run is never a check that passed. One that needs more history than there is
    (``too_little_history`` says how much) is not run, and says so.
    """
    skipped = {e.meta.name for e in suite.expectations if too_little_history and e.meta.needs == "history"}
    found = _validate(suite, [e for e in suite.expectations if e.meta.name not in skipped], connection)
    return tuple(
        _skipped(suite.dataset, scope, expectation, too_little_history)
        if expectation.meta.name in skipped
        else _result(suite.dataset, scope, expectation, found[expectation.meta.name], connection)
        for expectation in suite.expectations
    )


@cache
def _context() -> Any:
    """Return the context of this process, which knows no store, no file and no network."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when the package is imported
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    # It is kept nowhere, and yet would be written as YAML for each source and batch: a fifth of the time of a check.
    vars(context)["_save_project_config"] = lambda: None
    return context


def _validate(
    suite: Suite, expectations: Sequence[Expectation], connection: duckdb.DuckDBPyConnection
) -> dict[str, dict[str, Any]]:
    """Return what Great Expectations observed, by name of the expectation."""
    from pipeline.adapters.duckdb_dialect import connection_url

    with _ONE_AT_A_TIME, connection_url(connection) as url:
        context = _context()
        from great_expectations import ExpectationSuite

        from pipeline.adapters.expectation_kinds import CLASSES

        # Another URL makes another engine: Great Expectations keeps what an engine has computed.
        source = context.data_sources.add_or_update_sql(name="duckdb", connection_string=url)
        asset = source.add_table_asset(name=suite.dataset.name, table_name=suite.dataset.name)
        batch = asset.add_batch_definition_whole_table("all rows").get_batch()
        made = []
        for expectation in expectations:
            configuration = expectation.as_configuration()
            kwargs = configuration.pop("kwargs")
            made.append(CLASSES[configuration.pop("type")](**kwargs, **configuration))
        outcome: Any = batch.validate(
            ExpectationSuite(name=suite.dataset.name, expectations=made),
            result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
        )
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for result in outcome.results:
        name = result.expectation_config.meta["name"]
        found[name] = {"success": bool(result.success), **result.result}
        if not result.result:
            problems += [f"{name}: {reason}" for reason in _reasons(result.exception_info)]
    if problems:
        raise InputError(
            "expectations.cannot_be_computed",
            f"{len(problems)} expectation(s) of expectations/{suite.dataset.name}.json could not be computed",
            [*sorted(problems), "nothing was checked; mend them, then check again"],
        )
    return found


def _skipped(dataset: Dataset, scope: str, expectation: Expectation, too_little_history: str) -> CheckResult:
    return CheckResult(
        dataset=dataset.name,
        scope=scope,
        expectation=expectation.meta.name,
        column=", ".join(expectation.columns),
        severity=expectation.severity,
        expected=expectation.description,
        why=expectation.meta.why,
        success=True,
        observed=f"not checked: {too_little_history}",
        unexpected_count=0,
        is_checked=False,
    )


def _result(
    dataset: Dataset,
    scope: str,
    expectation: Expectation,
    found: dict[str, Any],
    connection: duckdb.DuckDBPyConnection,
) -> CheckResult:
    query = expectation.wrong_rows(dataset)
    if query is None:
        wrong_count, observed = 0, f"{found['observed_value']:,} rows"
    else:
        wrong_count = int(found.get("unexpected_count", found.get("observed_value")) or 0)  # None in an empty dataset
        observed = f"{wrong_count:,} wrong {'row' if wrong_count == 1 else 'rows'}"
    return CheckResult(
        dataset=dataset.name,
        scope=scope,
        expectation=expectation.meta.name,
        column=", ".join(expectation.columns),
        severity=expectation.severity,
        expected=expectation.description,
        why=expectation.meta.why,
        success=found["success"],
        observed=observed,
        unexpected_count=wrong_count,
        sample_keys=_sample(query, connection) if query and not found["success"] else (),
    )


def _sample(query: _Query, connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Return the first wrong rows as text; their order is total, so the same rows give the same sample."""
    statement, parameters = query
    connection.execute(
        f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM ({statement}) ORDER BY ALL LIMIT {SAMPLE_COUNT}",  # noqa: S608
        parameters,
    )
    names = [name for name, *_ in connection.description or ()]
    return tuple(
        " ".join(f"{name}={'NULL' if text is None else text}" for name, text in zip(names, row, strict=True))[
            :SAMPLE_TEXT_MAX
        ]
        for row in connection.fetchall()
    )


def _rows_where(dataset: Dataset, columns: tuple[str, ...], condition: str, *parameters: Any) -> _Query:
    selected = ", ".join(f'"{column}"' for column in dict.fromkeys((*dataset.key, *columns)))
    return f"SELECT {selected} FROM {dataset.name} WHERE {condition}", list(parameters)  # noqa: S608


def _repeated_values(dataset: Dataset, columns: tuple[str, ...]) -> _Query:
    selected = ", ".join(f'"{column}"' for column in columns)
    there = " AND ".join(f'"{column}" IS NOT NULL' for column in columns)
    query = f"SELECT {selected}, COUNT(*) AS row_count FROM {dataset.name} WHERE {there} "  # noqa: S608
    return query + f"GROUP BY {selected} HAVING COUNT(*) > 1", []


def _contradictions(suite: _SuiteFile, stem: str) -> Iterator[str]:
    """Yield what a schema cannot see: the dataset, its columns, names used twice."""
    dataset = _DATASETS.get(stem)
    if dataset is None or suite.name != stem:
        yield f"name: found {suite.name!r} in {stem}.json; both are one dataset of {', '.join(sorted(_DATASETS))}"
        return
    if not suite.expectations:
        yield "expectations: found none; a dataset without a check is not checked"
    names: set[str] = set()
    for index, expectation in enumerate(suite.expectations):
        place = f"expectations[{index}] ({expectation.meta.name})"
        if expectation.meta.name in names:
            yield f"{place}: the name is used twice; a name is one expectation of its suite"
        names.add(expectation.meta.name)
        for column in expectation.columns:
            if column not in dataset.column_names:
                yield f"{place}: found column {column!r}; {stem} has {', '.join(dataset.column_names)}"


def _problem(document: Any, location: tuple[int | str, ...], message: str, found: Any) -> str:
    """Say where in the file, what is wrong, and what was found."""
    name = ""
    if len(location) > 1 and isinstance(location[1], int):
        expectation = document["expectations"][location[1]]
        meta = expectation.get("meta") if isinstance(expectation, dict) else None
        name = f" ({meta['name']})" if isinstance(meta, dict) and "name" in meta else ""
        location = (*location[:2], *location[3:])  # the third step is the type, which chose the model
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    shown = "" if isinstance(found, dict | list) else f"; found {found!r}"
    return f"{place}{name}: {message}{shown}"


def _reasons(exception_info: Any) -> list[str]:
    """Return the messages of what went wrong, each once; Great Expectations nests them by metric."""
    if not isinstance(exception_info, dict):
        return []
    if "exception_message" in exception_info:
        return [str(exception_info["exception_message"]).splitlines()[0]]
    return list(dict.fromkeys(reason for info in exception_info.values() for reason in _reasons(info)))
