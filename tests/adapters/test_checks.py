"""Suites are read strictly and run inside DuckDB, with the same outcome every time."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.checks import SAMPLE_COUNT, project_suite_problems, read_suite, run_suite
from pipeline.adapters.project_files import load_project
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.check import CheckResult, Severity
from pipeline.core.dataset import USAGE
from pipeline.core.errors import InputError
from tests.fixtures_project import write_project
from tests.test_expectations import usage

ROOT = Path(__file__).resolve().parents[2]


def expectation(**changed: Any) -> dict[str, Any]:
    good = {
        "type": "expect_column_values_to_not_be_null",
        "description": "a SKU on each row",
        "severity": "critical",
        "kwargs": {"column": "sku"},
        "meta": {"name": "sku_is_there", "why": "Usage without a SKU has no price."},
    }
    return {**good, **changed}


def rows_query(query: str, name: str = "query", severity: str = "critical") -> dict[str, Any]:
    return expectation(
        type="unexpected_rows_expectation",
        severity=severity,
        kwargs={"unexpected_rows_query": query},
        meta={"name": name, "why": "This is only a test."},
    )


def write_suite(folder: Path, *expectations: Any, name: str = "usage") -> Path:
    path = folder / "usage.json"
    path.write_text(json.dumps({"name": name, "expectations": expectations}), encoding="utf-8")
    return path


def problems_of(path: Path) -> tuple[str, ...]:
    with pytest.raises(InputError) as refused:
        read_suite(path)
    return refused.value.details


def results_of(folder: Path, rows: list[dict[str, Any]], *expectations: Any) -> tuple[CheckResult, ...]:
    with Warehouse(folder / "scratch") as warehouse:
        warehouse.table_rows(USAGE.name, USAGE.columns, [tuple(row.values()) for row in rows])
        return run_suite(read_suite(write_suite(folder, *expectations)), "window=2026-01-15", warehouse.connection)


# ---- reading ----


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"severity": "info"}, "expectations[0].severity (sku_is_there)"),
        ({"severity": "info"}, "'critical' or 'warning'; found 'info'"),
        ({"meta": {"name": "sku_is_there"}}, "meta.why (sku_is_there): Field required"),
        ({"meta": {"name": "sku_is_there", "why": ""}}, "meta.why (sku_is_there): String should have at least 10"),
        ({"meta": {"name": "Not A Name", "why": "a good enough reason"}}, "meta.name (Not A Name)"),
        ({"description": ""}, "description (sku_is_there)"),
        ({"kwargs": {}}, "kwargs.column (sku_is_there): Field required"),
        ({"kwargs": {"column": "sku", "mostly": 0.9}}, "kwargs.mostly (sku_is_there): Extra inputs are not permitted"),
        (
            {"kwargs": {"column": "no_such"}},
            "expectations[0] (sku_is_there): found column 'no_such'; usage has",
        ),
        ({"type": "expect_column_sum_to_be_between"}, "found using 'type' does not match any of the expected tags"),
        ({"window": 1}, "window (sku_is_there): Extra inputs are not permitted; found 1"),
    ],
)
def test_a_broken_expectation_is_refused_with_its_place(broken: dict[str, Any], said: str, tmp_path: Path) -> None:
    (problem,) = problems_of(write_suite(tmp_path, expectation(**broken)))

    assert said in problem


def test_every_problem_of_a_suite_is_named_at_once(tmp_path: Path) -> None:
    path = write_suite(tmp_path, expectation(severity="info"), expectation(), expectation(kwargs={}))

    assert len(problems_of(path)) == 2


def test_a_name_is_used_once(tmp_path: Path) -> None:
    assert problems_of(write_suite(tmp_path, expectation(), expectation())) == (
        "expectations[1] (sku_is_there): the name is used twice; a name is one expectation of its suite",
    )


def test_a_suite_is_named_like_its_dataset(tmp_path: Path) -> None:
    (problem,) = problems_of(write_suite(tmp_path, expectation(), name="usages"))

    assert problem.startswith("name: found 'usages' in usage.json; both are one dataset of")


def test_a_suite_without_expectations_is_refused(tmp_path: Path) -> None:
    assert problems_of(write_suite(tmp_path)) == ("expectations: found none; a dataset without a check is not checked",)


def test_a_suite_that_is_not_json_is_refused_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    path.write_text('{\n  "name": "usage",\n}', encoding="utf-8")

    with pytest.raises(InputError, match=r"(?s)expectations/usage.json is wrong.*not JSON: .* line 3 column 1"):
        read_suite(path)


@pytest.mark.parametrize("query", ["SELECT 1", "SELECT * FROM {batch} WHERE sku = '{sku}'", "SELECT '{' FROM {batch}"])
def test_a_query_names_its_dataset_and_nothing_else_in_braces(query: str, tmp_path: Path) -> None:
    assert len(problems_of(write_suite(tmp_path, rows_query(query)))) == 1


# ---- running ----


def test_results_are_plain_values_in_the_order_of_the_suite(tmp_path: Path) -> None:
    rows = [usage(), usage(sku=None, account_id="acct-2")]
    row_count = expectation(
        type="expect_table_row_count_to_be_between",
        kwargs={"min_value": 3},
        severity="warning",
        description="at least 3 rows",
        meta={"name": "three_rows", "why": "This is only a test."},
    )

    results = results_of(tmp_path, rows, row_count, expectation(), rows_query("SELECT * FROM {batch} WHERE false"))

    assert results == (
        CheckResult(
            "usage", "window=2026-01-15", "three_rows", "", Severity.WARNING, "at least 3 rows",
            "This is only a test.", False, "2 rows", 0,
        ),
        CheckResult(
            "usage", "window=2026-01-15", "sku_is_there", "sku", Severity.CRITICAL, "a SKU on each row",
            "Usage without a SKU has no price.", False, "1 wrong row", 1,
            ("account_id=acct-2 sku=NULL dimensions={} grain_start=2026-01-15 00:00:00+00",),
        ),
        CheckResult(
            "usage", "window=2026-01-15", "query", "", Severity.CRITICAL, "a SKU on each row",
            "This is only a test.", True, "0 wrong rows", 0,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "kwargs", "sample"),
    [
        ("expect_column_values_to_be_in_set", {"column": "unit", "value_set": ["it's", 'a "unit"']}, "unit=tokens"),
        ("expect_column_values_to_match_regex", {"column": "unit", "regex": "^it's \\{"}, "unit=tokens"),
        ("expect_column_values_to_be_unique", {"column": "unit"}, "unit=tokens row_count=2"),
        (
            "expect_compound_columns_to_be_unique",
            {"column_list": ["sku", "unit"]},
            "sku=tokens unit=tokens row_count=2",
        ),
        ("unexpected_rows_expectation", {"unexpected_rows_query": "SELECT '{{}}' AS braces FROM {batch}"}, "braces={}"),
    ],
)
def test_a_failure_shows_the_rows_it_is_about(kind: str, kwargs: dict[str, Any], sample: str, tmp_path: Path) -> None:
    rows = [usage(account_id="acct-1"), usage(account_id="acct-2")]

    (result,) = results_of(tmp_path, rows, expectation(type=kind, kwargs=kwargs))

    assert not result.success
    assert result.unexpected_count == 2
    assert all(sample in key for key in result.sample_keys)
    assert result.sample_keys


def test_the_sample_is_the_first_keys_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [usage(account_id=f"acct-{number:04d}", sku=None) for number in range(2000)]

    (forwards,) = results_of(tmp_path, rows, expectation())
    (backwards,) = results_of(tmp_path, rows[::-1], expectation())

    assert forwards == backwards
    assert [key.split()[0] for key in forwards.sample_keys] == [f"account_id=acct-{n:04d}" for n in range(SAMPLE_COUNT)]


def test_an_amount_is_compared_to_the_last_digit(tmp_path: Path) -> None:
    rows = [usage(quantity=Decimal("12345678901234567890.000000001"))]

    (result,) = results_of(tmp_path, rows, rows_query("SELECT sku FROM {batch} WHERE quantity <> 12345678901234567890"))

    assert not result.success


def test_an_expectation_that_cannot_be_computed_is_an_error_even_if_it_is_a_warning(tmp_path: Path) -> None:
    broken = rows_query("SELECT no_such_column FROM {batch}", name="broken", severity="warning")

    with pytest.raises(InputError, match=r"(?s)1 expectation\(s\) of expectations/usage.*broken: .*no_such_column"):
        results_of(tmp_path, [usage()], expectation(), broken)


def test_suites_run_at_the_same_time_in_threads_do_not_mix(tmp_path: Path) -> None:
    def wrong_rows(number: int) -> int:
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = [usage(account_id=f"acct-{n}", sku=None) for n in range(number)]
        (result,) = results_of(folder, rows, expectation())
        return result.unexpected_count

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(wrong_rows, range(12))) == list(range(12))


MILLION_ROWS = """
import resource, socket, sys
from pathlib import Path

import great_expectations
from pipeline.adapters.checks import load_suite, run_suite
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import USAGE
from pipeline.core.check import RELATIONS_BESIDE
from tests.test_expectations import REFERENCE_ROWS

def refuse(*arguments):
    raise OSError("no network in a check")

socket.socket.connect = socket.getaddrinfo = refuse
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Warehouse(Path(sys.argv[1]), memory_limit="200MB", threads=2) as warehouse:
    warehouse.connection.execute('''
        COPY (
            SELECT 'acct-' || (1 + n % 2) AS account_id, 'tokens' AS sku, '{"n":"' || n || '"}' AS dimensions,
                TIMESTAMPTZ '2026-01-15 00:00:00Z' AS grain_start, 'sum' AS aggregation,
                CAST(n AS DECIMAL(38, 9)) AS quantity, CAST(n AS DECIMAL(38, 9)) AS value_sum,
                'tokens' AS unit, CAST(1 AS BIGINT) AS event_count, CAST(n AS UBIGINT) AS event_set_hash
            FROM range(1000000) AS numbers(n)
        ) TO $path (FORMAT parquet)''', {"path": sys.argv[1] + "/usage.parquet"})
    warehouse.view_files(USAGE.name, USAGE, [Path(sys.argv[1]) / "usage.parquet"])
    for name, columns in RELATIONS_BESIDE[USAGE.name].items():
        warehouse.table_rows(name, columns, [] if name in ("usage_levels", "account_history") else REFERENCE_ROWS[name])
    results = run_suite(load_suite(USAGE), "window=2026-01-15", warehouse.connection)
assert all(result.success for result in results), results
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_million_rows_are_checked_in_duckdb_without_noise_network_or_memory(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = tmp_path / "million_rows.py"
    script.write_text(MILLION_ROWS, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, script, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    # DuckDB may use 200 MB. The rows as Python values or in pandas would take more than 400 MB on top.
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 400
    # Neither progress bars, nor the complaints of a connection that was left open.
    assert run.stderr == ""


# ---- suites of a project ----


def suite_problems(*expectations: Any, name: str = "usage", dataset: str = "usage") -> list[str]:
    content = json.dumps({"name": name, "expectations": expectations}).encode()
    return project_suite_problems(f"expectations/{dataset}.json", content)


def test_a_good_suite_of_a_project_has_no_problem() -> None:
    beside = "SELECT h.account_id FROM account_history AS h ANTI JOIN {batch} AS u ON u.account_id = h.account_id"

    assert suite_problems(rows_query(beside), expectation(meta={"name": "my_sku", "why": "This is only a test."})) == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT no_such_column FROM {batch}", "no_such_column"),
        ("SELECT * FROM {batch} ANTI JOIN no_such_relation USING (sku)", "no_such_relation"),
        ("SELECT * FROM {batch} WHERE sku IN (SELECT sku FROM held_accounts)", "held_accounts"),  # beside invoices only
        ("SELECT * FROM {batch} WHERE", "syntax error"),
        ("SELECT 1 FROM {batch}); DROP TABLE usage; SELECT (1", "syntax error"),
        ("SELECT * FROM {batch} WHERE false; ", "it ends in a semicolon"),
        ("SELECT * FROM {batch} WHERE random() < 0.5", "random gives another result each time"),
        ("SELECT * FROM {batch} WHERE EXISTS (SELECT Now())", "now gives another result"),
        ("SELECT * FROM {batch} WHERE grain_start > current_timestamp", "current_timestamp gives another result"),
        ("SELECT * FROM {batch} USING SAMPLE 10%", "a sample gives another result"),
        ("SELECT 1 FROM {batch}; DROP TABLE usage", "one SELECT and nothing else"),
        ("UPDATE {batch} SET quantity = 0", "one SELECT and nothing else"),
        ("SELECT * FROM {batch}, read_csv('/etc/passwd')", "disabled by configuration"),
    ],
)
def test_a_query_that_cannot_run_is_found_before_the_night(query: str, said: str) -> None:
    (problem,) = suite_problems(rows_query(query))

    assert problem.startswith("expectations/usage.json: expectations[0] (query): the query cannot run: ")
    assert said in problem


@pytest.mark.parametrize(
    ("bounds", "said"),
    [({"min_value": 5, "max_value": 4}, "min_value 5 is more than max_value 4"), ({}, "found neither min_value nor")],
)
def test_a_row_count_that_no_table_or_every_table_has_is_refused(bounds: dict[str, int], said: str) -> None:
    (problem,) = suite_problems(expectation(type="expect_table_row_count_to_be_between", kwargs=bounds))

    assert said in problem


def test_a_row_count_of_exactly_one_number_is_accepted() -> None:
    five = expectation(
        type="expect_table_row_count_to_be_between",
        kwargs={"min_value": 5, "max_value": 5},
        meta={"name": "five_rows", "why": "This is only a test."},
    )

    assert suite_problems(five) == []


def test_a_reason_of_spaces_is_no_reason() -> None:
    (problem,) = suite_problems(expectation(meta={"name": "my_sku", "why": " " * 20}))

    assert "why" in problem and "at least 10 characters" in problem


def test_a_file_that_would_not_be_read_is_refused(tmp_path: Path) -> None:
    own = json.dumps({"name": "usage", "expectations": []})
    names = ("expectations/usage.JSON", "expectations/sub/usage.json", "external/cloud.TOML")
    write_project(tmp_path, files={**dict.fromkeys(names, own), "expectations/README.md": "ours"})

    with pytest.raises(InputError) as refused:
        load_project(tmp_path)

    assert sorted(problem.partition(":")[0] for problem in refused.value.details) == [
        "expectations/sub/usage.json",
        "expectations/usage.JSON",
        "external/cloud.TOML",
    ]


def test_a_suite_of_a_project_cannot_replace_an_expectation_of_the_pipeline() -> None:
    assert suite_problems(expectation()) == [
        "expectations/usage.json: expectations[0] (sku_is_there): the pipeline has an expectation of this name; "
        "choose another one"
    ]


def test_a_suite_of_a_dataset_that_is_never_checked_is_refused() -> None:
    (problem,) = suite_problems(expectation(), name="estimates", dataset="estimates")

    assert "one dataset of invoices, line_items, raw_events, usage, usage_events" in problem


def test_a_broken_suite_stops_the_project_with_file_and_place(tmp_path: Path) -> None:
    own = json.dumps({"name": "usage", "expectations": [expectation(severity="info")]})
    write_project(tmp_path, files={"expectations/usage.json": own, "expectations/invoices.json": "{"})

    with pytest.raises(InputError) as refused:
        load_project(tmp_path)

    assert refused.value.code == "project.invalid"
    not_json, wrong_severity = refused.value.details
    assert not_json.startswith("expectations/invoices.json: found text that is not JSON: ")
    assert wrong_severity.startswith("expectations/usage.json: expectations[0].severity (sku_is_there): ")


def test_what_needs_history_is_skipped_in_words_and_the_rest_is_checked(tmp_path: Path) -> None:
    needs = rows_query("SELECT * FROM {batch}")
    needs["meta"]["needs"] = "history"
    path = write_suite(tmp_path, needs, expectation())
    with Warehouse(tmp_path / "scratch") as warehouse:
        warehouse.table_rows(USAGE.name, USAGE.columns, [tuple(usage(sku=None).values())])
        skipped, checked = run_suite(read_suite(path), "window=2026-01-15", warehouse.connection, "no history")
        with_history, _ = run_suite(read_suite(path), "window=2026-01-15", warehouse.connection, "")

    assert (skipped.is_checked, skipped.success, skipped.observed) == (False, True, "not checked: no history")
    assert (checked.is_checked, checked.success) == (True, False)
    assert (with_history.is_checked, with_history.success) == (True, False)
