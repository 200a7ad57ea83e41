"""The style guide, executed: each rule is a function from a text to what is wrong with it, tried on a bad sample first.

A finding reads ``file:line: what, use what instead``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from pipeline.adapters.warehouse import sql_files
from tests.sql.header import parse_header
from tests.sql.test_cases import columns_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline"

CLOCK_IS_READ_BY = ("pipeline/cli.py", "pipeline/cli_text.py", "pipeline/__main__.py", "pipeline/airflow_plugin/")
ENVIRONMENT_IS_READ_BY = ("pipeline/settings.py", "pipeline/airflow_plugin/")

BANNED_SQL = (
    (r"\bCREATE\b", "a file is one SELECT; the warehouse makes the table"),
    (r"\bCOPY\b", "a file is one SELECT; the warehouse writes it"),
    (r"\bBETWEEN\b", "BETWEEN includes its end; use >= start AND < end"),
    (
        r"\b(NOW|TODAY|CURRENT_DATE|CURRENT_TIME|CURRENT_TIMESTAMP|LOCALTIMESTAMP)\b",
        "no clock in SQL; pass a $parameter",
    ),
    (r"\b(DOUBLE|FLOAT|REAL|FLOAT4|FLOAT8)\b", "no binary float; use DECIMAL"),
    (r"\b(AVG|MEAN|MEDIAN|STDDEV)\s*\(", "it answers in DOUBLE; use SUM and COUNT"),
    (r"(?<!/)/(?!/)", "division answers in DOUBLE; multiply, or divide integers with //"),
    (r"\b(RANDOM|UUID|GEN_RANDOM_UUID)\s*\(", "the same inputs make the same rows"),
    # Only for finding equal keys within one query: the hash of a key never leaves it.
    (
        r"\bHASH\s*\((?!(\w+\.)?source, (\w+\.)?id\))",
        "hash() is another one in another version of DuckDB; use md5 or sha256",
    ),
    (r"\bREAD_\w+\s*\(", "no path in SQL; the warehouse names the files"),
    (r"\bGROUP BY\s+(ALL|\d)", "name the columns; ordinals and ALL hide the key"),
)


# ---- SQL ----


def header_findings(stem: str, text: str) -> list[str]:
    """Return where the header is not what the query is."""
    try:
        header = parse_header(text)
    except ValueError as error:
        return [f"{stem}.sql: {error}"]
    with duckdb.connect() as connection:
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            return [f"{stem}.sql: a file is one SELECT"]
        # Parsing alone names the tables; it does not know their columns, which USING and ASOF would ask for.
        plain_joins = re.sub(r"\bUSING \([^)]*\)", "ON TRUE", text).replace("ASOF LEFT JOIN", "LEFT JOIN")
        tables = connection.get_table_names(_without_parameters(plain_joins))
        for table in header.reads:
            columns = ", ".join(f"{name} {sql_type}" for name, sql_type in columns_of(table))
            connection.execute(f"CREATE TABLE {table} ({columns})")
        try:
            connection.execute(f"DESCRIBE {_without_parameters(text)}")
        except duckdb.Error as error:
            return [f"{stem}.sql: does not bind with the tables of its header: {error}"]
    findings = []
    if header.stem != stem:
        findings.append(f"{stem}.sql: the first line names {header.stem!r}")
    if set(header.reads) != tables:
        findings.append(f"{stem}.sql: Reads says {sorted(header.reads)}, the query reads {sorted(tables)}")
    if set(header.params) != statements[0].named_parameters:
        findings.append(
            f"{stem}.sql: Params says {sorted(header.params)}, the query has {sorted(statements[0].named_parameters)}"
        )
    return findings


def _without_parameters(text: str) -> str:
    return re.sub(r"\$[a-z_]+", "NULL", text)


def sql_findings(stem: str, text: str) -> list[str]:
    """Return what the query uses and should not."""
    findings = []
    for number, line in enumerate(text.splitlines(), start=1):
        code = re.sub(r"'[^']*'", "''", line.split("--")[0])
        findings += [
            f"{stem}.sql:{number}: {match[0]}: {instead}"
            for pattern, instead in BANNED_SQL
            if (match := re.search(pattern, code, re.IGNORECASE))
        ]
        if re.search(r"://|\.parquet|\.csv|\.json\b", line):
            findings.append(f"{stem}.sql:{number}: no path in SQL; the warehouse names the files")
    if not re.search(r"\nORDER BY[\w., \n]+\n\Z", text):
        findings.append(f"{stem}.sql: the last clause is an ORDER BY over a unique key")
    return findings


@pytest.mark.parametrize("path", sql_files(), ids=lambda path: path.stem)
def test_the_header_of_an_sql_file_is_its_contract(path: Path) -> None:
    assert header_findings(path.stem, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sql_files(), ids=lambda path: path.stem)
def test_an_sql_file_is_one_ordered_select_without_clock_path_or_float(path: Path) -> None:
    assert sql_findings(path.stem, path.read_text(encoding="utf-8")) == []


GOOD_SQL = """\
-- sample: one row per raw event.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events
-- Params:  $window_end  TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Because a checker that finds nothing in a good file is half of its test.

SELECT
    object_id,
    line_number
FROM raw_events
WHERE event_at < $window_end
ORDER BY object_id, line_number
"""


def test_there_are_sql_files_and_a_good_one_has_no_finding() -> None:
    assert len(sql_files()) >= 5
    assert header_findings("sample", GOOD_SQL) == []
    assert sql_findings("sample", GOOD_SQL) == []


@pytest.mark.parametrize(
    ("good", "bad", "finding"),
    [
        ("-- sample:", "-- other:", "the first line names 'other'"),
        ("one row per raw event", "raw events", "the first line is"),
        ("-- Grain:", "-- Key:", "expected `-- Grain:`"),
        ("Reads:   raw_events", "Reads:   raw_events, quarantine", "Reads says"),
        ("FROM raw_events", "FROM raw_events CROSS JOIN (SELECT 1 FROM quarantine)", "does not bind"),
        ("    line_number\n", "    missing_column\n", "does not bind"),
        ("$window_end  TIMESTAMPTZ  end", "$cutoff_at  TIMESTAMPTZ  end", "Params says ['cutoff_at']"),
        ("TIMESTAMPTZ  end", "end", "a parameter is"),
        ("-- Because a checker that finds nothing in a good file is half of its test.\n", "", "says why"),
        ("SELECT\n", "CREATE TABLE sample AS SELECT\n", "a file is one SELECT"),
        ("ORDER BY object_id, line_number\n", "ORDER BY object_id; SELECT 1\n", "a file is one SELECT"),
    ],
)
def test_a_header_that_is_not_the_query_is_found(good: str, bad: str, finding: str) -> None:
    assert good in GOOD_SQL

    findings = header_findings("sample", GOOD_SQL.replace(good, bad))

    assert any(finding in found for found in findings), findings


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("event_at < $window_end", "event_at BETWEEN $window_end AND $window_end"),
        ("event_at < $window_end", "event_at < now()"),
        ("event_at < $window_end", "event_at < current_timestamp"),
        ("FROM raw_events", "FROM read_parquet('raw/x.parquet')"),
        ("FROM raw_events", "FROM 's3://raw/x'"),
        ("    line_number\n", "    line_number / 2\n"),
        ("    line_number\n", "    CAST(line_number AS DOUBLE)\n"),
        ("    line_number\n", "    avg(line_number)\n"),
        ("    line_number\n", "    hash(line_number)\n"),
        ("SELECT\n", "CREATE TABLE x AS SELECT\n"),
        ("SELECT\n", "COPY (SELECT\n"),
        ("WHERE event_at < $window_end", "GROUP BY 1, 2"),
        ("ORDER BY object_id, line_number\n", ""),
    ],
)
def test_a_query_with_clock_path_float_or_without_order_is_found(good: str, bad: str) -> None:
    assert good in GOOD_SQL

    assert sql_findings("sample", GOOD_SQL.replace(good, bad)) != []


# ---- Python ----


def _called_name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def float_findings(path: str, tree: ast.AST) -> Iterator[str]:
    """Find where a number becomes a binary float; refusing one (``isinstance(x, float)``) is no such place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called_name(node) in ("float", "np.float64", "pa.float64"):
            yield f"{path}:{node.lineno}: {_called_name(node)}(...) is not exact, use Decimal"
        if isinstance(node, ast.Constant) and re.search(r"\b(AS|::) ?(DOUBLE|FLOAT|REAL)\b", str(node.value)):
            yield f"{path}:{node.lineno}: a binary type in SQL is not exact, use DECIMAL"


def clock_findings(path: str, tree: ast.AST) -> Iterator[str]:
    """Find where the clock is read."""
    if path.startswith(CLOCK_IS_READ_BY):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _called_name(node)
            if re.search(r"\b(datetime|date|dt)\.(now|utcnow|today)$", name) or name in ("time.time", "time.time_ns"):
                yield f"{path}:{node.lineno}: {name}() reads the clock, take the instant as an argument"


def environment_findings(path: str, tree: ast.AST) -> Iterator[str]:
    """Find where the environment is read. Setting a name for a library is not reading it."""
    if path.startswith(ENVIRONMENT_IS_READ_BY):
        return
    written = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if (
            id(node) not in written
            and isinstance(node, ast.Attribute)
            and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
        ):
            yield f"{path}:{node.lineno}: {ast.unparse(node)} is read by pipeline/settings.py only"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            for alias in node.names:
                if alias.name in ("environ", "getenv"):
                    yield f"{path}:{node.lineno}: os.{alias.name} is read by pipeline/settings.py only"


def assert_findings(path: str, tree: ast.AST) -> Iterator[str]:
    """Find statements that ``python -O`` removes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"{path}:{node.lineno}: assert is removed by -O, raise instead"


PYTHON_RULES = (float_findings, clock_findings, environment_findings, assert_findings)


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_the_package_follows_the_rule(rule: Callable[[str, ast.AST], Iterator[str]]) -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 20

    findings = [
        finding
        for module in modules
        for finding in rule(module.relative_to(ROOT).as_posix(), ast.parse(module.read_text(encoding="utf-8")))
    ]

    assert findings == []


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        (float_findings, "amount = float(text)"),
        (float_findings, "sql = 'SELECT CAST(quantity AS DOUBLE) FROM usage'"),
        (clock_findings, "at = datetime.now(UTC)"),
        (clock_findings, "at = datetime.datetime.utcnow()"),
        (clock_findings, "day = date.today()"),
        (clock_findings, "import time\nseconds = time.time()"),
        (environment_findings, "import os\nurl = os.environ['URL']"),
        (environment_findings, "import os\nurl = os.getenv('URL')"),
        (environment_findings, "from os import environ"),
        (assert_findings, "assert amount > 0"),
    ],
)
def test_a_rule_finds_its_bad_sample_in_a_step(rule: Callable[[str, ast.AST], Iterator[str]], bad: str) -> None:
    assert len(list(rule("pipeline/steps/sample.py", ast.parse(bad)))) == 1


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_a_rule_finds_nothing_in_code_that_refuses_floats_and_takes_the_time(
    rule: Callable[[str, ast.AST], Iterator[str]],
) -> None:
    good = "def check(at: datetime, x: object) -> None:\n    if isinstance(x, float):\n        raise TypeError(at)"

    assert list(rule("pipeline/core/sample.py", ast.parse(good))) == []


def test_a_todo_names_its_issue() -> None:
    sources = [path for folder in ("pipeline", "dags", "sql") for path in (ROOT / folder).rglob("*.*")]
    texts = {path: path.read_text(encoding="utf-8") for path in sources if path.suffix in (".py", ".sql")}
    assert texts

    findings = [path.name for path, text in texts.items() if re.search(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))", text)]

    assert findings == []
