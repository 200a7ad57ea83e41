"""The DAGs say when things run: their shape, their gates and their retries are facts that need no scheduler."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from pipeline.core.errors import (
    CheckFailed,
    InputError,
    NotReadyError,
    PricingError,
    PublicationError,
    ReconciliationError,
)
from pipeline.steps.schedule import window_of_run
from pipeline.steps.sign_off_question import OPTIONS

REPOSITORY = Path(__file__).parents[2]
DAG_FILES = sorted((REPOSITORY / "dags").glob("*.py"))
EXPECTED_TASKS = {
    "bill_window": {
        "wait_for_cutoff",
        "deduplicate",
        "aggregate",
        "rate",
        "check",
        "reconcile",
        "accept",
        "estimate",
        "settle",
        "report",
    },
    "close_period": {"period_to_close", "figures_to_approve", "ask_finance", "record_decision", "close"},
    "collect_usage": {"collect", "late_windows", "bill_late_windows"},
    "rerun_window": {"rerun"},
}
GATES = ("check", "reconcile")
LOGIC = (ast.If, ast.For, ast.While, ast.Try, ast.IfExp, ast.BinOp, ast.BoolOp, ast.Lambda)
STATEMENTS_MAX = 4  # without imports: open the project, name the window, call one step, return a receipt


@pytest.fixture(scope="module")
def dags() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILLING_PROJECT", str(REPOSITORY / "examples" / "llm_api"))
        bag = DagBag(dag_folder=str(REPOSITORY / "dags"), safe_mode=False)
        assert bag.import_errors == {}
        yield dict(bag.dags)


def ancestors(dag: Any, task_id: str) -> set[str]:
    found: set[str] = set()
    to_visit = [task_id]
    while to_visit:
        for upstream in dag.task_dict[to_visit.pop()].upstream_task_ids - found:
            found.add(upstream)
            to_visit.append(upstream)
    return found


def task_functions(file: Path) -> list[ast.FunctionDef]:
    """Return each function of a DAG file that is decorated as a task."""
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    return [function for function in functions if any("task" in ast.unparse(d) for d in function.decorator_list)]


def test_there_is_one_file_for_each_dag_and_each_dag_has_the_tasks_it_is_known_by(dags: dict[str, Any]) -> None:
    assert {file.stem for file in DAG_FILES} == set(EXPECTED_TASKS)
    assert {dag_id: set(dag.task_dict) for dag_id, dag in dags.items()} == EXPECTED_TASKS


@pytest.mark.parametrize("dag_id", EXPECTED_TASKS)
def test_a_dag_survives_serialization_as_the_scheduler_sees_it(dags: dict[str, Any], dag_id: str) -> None:
    restored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dags[dag_id]))

    assert set(restored.task_dict) == EXPECTED_TASKS[dag_id]


@pytest.mark.parametrize("dag_id", EXPECTED_TASKS)
def test_the_docstring_of_the_file_is_what_people_read_in_airflow(dags: dict[str, Any], dag_id: str) -> None:
    docstring = ast.get_docstring(ast.parse((REPOSITORY / "dags" / f"{dag_id}.py").read_text()))

    assert docstring
    assert dags[dag_id].doc_md.strip() == docstring.strip()


@pytest.mark.parametrize("gate", GATES)
def test_nothing_is_accepted_before_each_gate_has_passed(dags: dict[str, Any], gate: str) -> None:
    accept = dags["bill_window"].task_dict["accept"]

    assert gate in ancestors(dags["bill_window"], "accept")
    assert accept.trigger_rule == "all_success"
    assert all(dags["bill_window"].task_dict[g].trigger_rule == "all_success" for g in GATES)


def test_only_accept_makes_a_revision_visible_and_only_close_issues_invoices() -> None:
    callers: dict[str, list[str]] = {"accept": [], "close": [], "finalise_period": [], "decide_revision": []}
    for file in DAG_FILES:
        for function in task_functions(file):
            called = {n.func for n in ast.walk(function) if isinstance(n, ast.Call)}
            names = {c.id if isinstance(c, ast.Name) else getattr(c, "attr", "") for c in called}
            for name in names & set(callers):
                callers[name].append(f"{file.stem}.{function.name}")

    assert callers == {
        "accept": ["bill_window.accept"],
        "close": ["close_period.close"],
        "finalise_period": [],
        "decide_revision": [],
    }


def test_the_report_follows_the_verdict_and_does_not_decide_the_state_of_the_run(dags: dict[str, Any]) -> None:
    bill_window = dags["bill_window"]

    teardowns = {task_id for task_id, task in bill_window.task_dict.items() if task.is_teardown}
    leaves = {t for t, task in bill_window.task_dict.items() if not task.downstream_task_ids - teardowns} - teardowns
    assert teardowns == {"settle", "report"}
    assert leaves == {"estimate"}  # after accept, so a run whose revision was not accepted is failed
    assert {"accept", "settle"} <= ancestors(bill_window, "report")
    assert bill_window.task_dict["deduplicate"].is_setup


def test_only_the_step_that_opens_a_revision_hears_that_an_incomplete_window_is_accepted() -> None:
    passed_on = {
        function.name: ast.unparse(function)
        for function in task_functions(REPOSITORY / "dags" / "bill_window.py")
        if "accept_incomplete" in ast.unparse(function)
    }

    assert set(passed_on) == {"deduplicate"}
    assert "accept_incomplete=params['accept_incomplete']" in passed_on["deduplicate"]


def test_late_windows_are_looked_for_after_collecting(dags: dict[str, Any]) -> None:
    assert ancestors(dags["collect_usage"], "bill_late_windows") == {"collect", "late_windows"}


@pytest.mark.parametrize("dag_id", EXPECTED_TASKS)
def test_each_task_may_be_tried_again_and_one_run_works_at_a_time(dags: dict[str, Any], dag_id: str) -> None:
    assert dags[dag_id].max_active_runs == 1
    assert all(task.retries >= 1 for task in dags[dag_id].tasks)


@pytest.mark.parametrize("dag_id", EXPECTED_TASKS)
@pytest.mark.parametrize(
    ("error", "action"),
    [
        (NotReadyError("window.not_collected", "not yet"), RetryAction.RETRY),
        (NotReadyError("window.incomplete", "offset 5 of partition 3"), RetryAction.RETRY),
        (ConnectionResetError("the network"), RetryAction.RETRY),
        (TimeoutError("the network"), RetryAction.RETRY),
        (CheckFailed("check.failed", "a gate"), RetryAction.FAIL),
        (ReconciliationError("reconciliation.quantity_mismatch", "a gate"), RetryAction.FAIL),
        (PricingError("rate.no_price", "no price"), RetryAction.FAIL),
        (PublicationError("revision.other_inputs", "other inputs"), RetryAction.FAIL),
        (InputError("project.invalid", "a file"), RetryAction.FAIL),
        (ValueError("a defect"), RetryAction.FAIL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_only_what_may_succeed_later_is_tried_again(
    dags: dict[str, Any], dag_id: str, error: Exception, action: RetryAction
) -> None:
    decisions = [task.retry_policy.evaluate(error, 1, 3).action for task in dags[dag_id].tasks]

    assert decisions == [action] * len(EXPECTED_TASKS[dag_id])


def test_each_window_since_the_first_gets_one_run_also_after_an_outage(dags: dict[str, Any]) -> None:
    bill_window = dags["bill_window"]

    assert bill_window.catchup is True
    assert bill_window.start_date == datetime(2026, 1, 30, tzinfo=UTC)  # first_window of the project
    assert bill_window.timetable.delta == timedelta(days=1)  # its window length


def test_the_first_period_is_closed_by_a_run_of_the_month_after_it(dags: dict[str, Any]) -> None:
    close_period = dags["close_period"]

    assert close_period.catchup is True
    assert close_period.start_date == datetime(2026, 2, 1, tzinfo=UTC)


def test_a_period_closes_only_after_the_answer_or_where_nothing_is_asked(dags: dict[str, Any]) -> None:
    close_period = dags["close_period"]
    ask = close_period.task_dict["ask_finance"]

    assert ancestors(close_period, "close") == set(close_period.task_dict) - {"close"}
    assert close_period.task_dict["close"].trigger_rule == "none_failed"  # it does not run past a rejected answer
    assert close_period.task_dict["record_decision"].trigger_rule == "all_success"
    assert close_period.task_dict["period_to_close"].ignore_downstream_trigger_rules
    assert not close_period.task_dict["figures_to_approve"].ignore_downstream_trigger_rules
    assert list(ask.options) == list(OPTIONS)
    assert not ask.multiple


def test_a_rerun_is_started_by_hand_only_and_calls_nothing_that_publishes(dags: dict[str, Any]) -> None:
    (task,) = task_functions(REPOSITORY / "dags" / "rerun_window.py")
    called = {ast.unparse(node.func) for node in ast.walk(task) if isinstance(node, ast.Call)}

    assert dags["rerun_window"].timetable.can_be_scheduled is False
    assert called == {"rerun", "open_workspace", "settings.project_folder", "require_identical"}


def test_waiting_for_the_cutoff_holds_no_worker(dags: dict[str, Any]) -> None:
    assert dags["bill_window"].task_dict["wait_for_cutoff"].mode == "reschedule"


@pytest.mark.parametrize(
    ("dag_id", "param", "accepted", "refused"),
    [
        ("bill_window", "window", [None, "2026-01-15", "2026-01-15T06:00Z"], ["15.01.2026", "2026-01-15; drop", ""]),
        ("bill_window", "include_late", [True, False], ["yes", None]),
        ("bill_window", "accept_incomplete", [None, "ticket 4711"], ["", "  ", True]),
        ("close_period", "period", [None, "2026-01"], ["2026-13", "January", ""]),
        ("rerun_window", "window", ["2026-01-15", "2026-01-15T06:00Z"], [None, "15.01.2026", ""]),
        ("rerun_window", "revision", [None, 1, 12], [0, "1", 1.5]),
    ],
)
def test_a_param_is_refused_before_a_run_starts(
    dags: dict[str, Any], dag_id: str, param: str, accepted: list[Any], refused: list[Any]
) -> None:
    definition = dags[dag_id].params.get_param(param)

    for value in accepted:
        assert definition.resolve(value) == value
    for value in refused:
        with pytest.raises(ParamValidationError):
            definition.resolve(value)


def test_a_task_calls_steps_and_holds_no_logic() -> None:
    functions = [(file, function) for file in DAG_FILES for function in task_functions(file)]
    task_count = sum(map(len, EXPECTED_TASKS.values()))
    assert len(functions) == task_count - 2  # bill_late_windows and ask_finance are operators, not functions

    for file, function in functions:
        place = f"{file.name}: {function.name}"
        imports = [node for node in function.body if isinstance(node, ast.ImportFrom)]
        statements = [node for node in function.body if not isinstance(node, ast.ImportFrom)]
        assert len(statements) <= STATEMENTS_MAX, f"{place} has {len(statements)} statements, at most {STATEMENTS_MAX}"
        assert all(str(node.module).startswith(("pipeline.steps.", "pipeline.core.")) for node in imports), place
        logic = [node for statement in statements for node in ast.walk(statement) if isinstance(node, LOGIC)]
        assert not logic, f"{place}: {ast.unparse(logic[0])} belongs into a step"


def test_a_dag_file_imports_nothing_that_makes_parsing_slow() -> None:
    plugin = ("pipeline.airflow_plugin.retry", "pipeline.airflow_plugin.notify")
    allowed = ("airflow.", "pipeline.settings", *plugin, "pipeline.steps.schedule")
    standard = {"__future__", "datetime", "logging", "typing"}
    assert DAG_FILES

    for file in DAG_FILES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                name = f"{node.module}.{node.names[0].name}" if node.module == "pipeline" else str(node.module)
                assert name in standard or name.startswith(allowed), f"{file.name}: {name}"
            elif isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= standard, file.name


def test_a_broken_project_is_an_import_error_that_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "billing.toml").write_text('name = "x"\nschema_version = 1\n[window]\nfirst_window = "soon"\n')
    monkeypatch.setenv("BILLING_PROJECT", str(tmp_path))

    bag = DagBag(dag_folder=str(REPOSITORY / "dags"), safe_mode=False)

    errors = {Path(file).name: error for file, error in bag.import_errors.items()}
    assert set(errors) == {"bill_window.py", "close_period.py"}
    assert "first_window" in errors["bill_window.py"]


def test_a_backfill_of_airflow_makes_one_run_for_each_window_in_order(dags: dict[str, Any]) -> None:
    scheduled = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dags["bill_window"]))
    from_date, to_date = datetime(2026, 1, 30, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)

    infos = list(scheduled.iter_dagrun_infos_between(from_date, to_date))

    length = dags["bill_window"].timetable.delta
    windows = [window_of_run(None, info.data_interval.end, length).window_id for info in infos]
    assert scheduled.timetable.periodic  # what `airflow backfill` asks of a DAG
    assert windows == ["2026-01-30", "2026-01-31", "2026-02-01"]
