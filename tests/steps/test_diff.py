"""Why a quantity changed between two revisions: each cause by itself, several at once, and any mixture."""

from __future__ import annotations

import random
import shutil
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.dataset import USAGE
from pipeline.core.errors import InputError, NotReadyError, PublicationError
from pipeline.steps import diff as diff_module
from pipeline.steps.aggregate import aggregate
from pipeline.steps.deduplicate import deduplicate
from pipeline.steps.diff import WindowDiff, diff
from pipeline.steps.workspace import Workspace, open_workspace
from tests.fixtures_project import ACCOUNTS, CONTRACT, METERS, write_project
from tests.steps.raw_events import CUTOFF_AT, WINDOW, commit_raw_events, instant, numbered, published_rows, raw_event

NOW = instant("2026-01-16T08:00:00Z")
LATER = NOW + timedelta(hours=1)
OTHER_OWNER = ACCOUNTS.replace(";customer-2b", "").replace("customer-1\n", "customer-1;customer-2b\n")


def compute(workspace: Workspace, include_late: bool = False, at: Any = NOW) -> int:
    """Compute the window, as far as usage, and return the number of its revision."""
    revision = deduplicate(workspace, WINDOW, at, include_late=include_late)
    aggregate(workspace, WINDOW.window_id, revision.revision, at)
    return revision.revision


def changed(workspace: Workspace, **files: str) -> Workspace:
    names = {"meters": "meters.toml", "accounts": "accounts.csv", "billing": "billing.toml"}
    for name, content in files.items():
        (workspace.project.folder / names[name]).write_text(content, encoding="utf-8")
    return open_workspace(workspace.project.folder)


def tokens(quantity: int | str) -> str:
    return f'{{"input_tokens":"{quantity}"}}'


def parts_of(result: WindowDiff, sku: str = "tokens-input") -> dict[str, dict[str, int]]:
    """Return the parts of each account's change; each adds up to the change."""
    for change in result.changes:
        assert sum(change.parts.values()) == change.change == change.quantity_to - change.quantity_from
    return {
        change.account_id: {cause: int(part) for cause, part in change.parts.items()}
        for change in result.changes
        if change.sku == sku
    }


def test_events_that_were_late_and_events_that_came_after_are_late_events(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(data=tokens(30), received_at=CUTOFF_AT)]))
    compute(workspace)
    commit_raw_events(workspace, [raw_event(object_id="b@1", id="new", data=tokens(5), received_at=NOW)], LATER)
    compute(workspace)

    result = diff(workspace, WINDOW.window_id, 1, 2)

    assert parts_of(result) == {"acct-1": {"late_events": 35}}
    assert parts_of(result, "requests") == {"acct-1": {"late_events": 2}}
    assert result.causes == ("late_events",)
    (change,) = [one for one in result.changes if one.sku == "tokens-input"]
    assert (change.quantity_from, change.quantity_to, change.unit) == (1000, 1035, "tokens")


def test_a_conflict_that_an_earlier_copy_wins_is_a_change_by_duplicates_and_not_by_late_events(
    workspace: Workspace,
) -> None:
    commit_raw_events(workspace, [raw_event(data=tokens(1000))])
    compute(workspace)
    earlier = instant("2026-01-15T12:01:00Z")
    commit_raw_events(workspace, [raw_event(object_id="b@1", data=tokens(40), received_at=earlier)], LATER)
    compute(workspace)

    assert parts_of(diff(workspace, WINDOW.window_id, 1, 2)) == {"acct-1": {"duplicates": -960}}


def test_an_exact_copy_that_came_later_changes_nothing(workspace: Workspace) -> None:
    commit_raw_events(workspace, [raw_event()])
    compute(workspace)
    commit_raw_events(workspace, [raw_event(object_id="b@1", received_at=NOW)], LATER)
    compute(workspace)

    result = diff(workspace, WINDOW.window_id, 1, 2)

    assert (result.causes, result.changes) == ((), ())


def test_a_subject_that_gets_another_owner_moves_from_one_account_to_the_other(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(subject="nobody", data=tokens(7))]))
    compute(workspace)
    moved = ACCOUNTS.replace(",customer-1\n", ",customer-9;nobody\n").replace("customer-2;", "customer-1;customer-2;")
    compute(changed(workspace, accounts=moved))

    result = diff(workspace, WINDOW.window_id, 1, 2)

    assert parts_of(result) == {"acct-1": {"account_mapping": -993}, "acct-2": {"account_mapping": 1000}}


def test_a_meter_that_counts_something_else_is_a_meter_change_also_in_another_unit(workspace: Workspace) -> None:
    events = [raw_event(data='{"input_tokens":"1000","cached":"100"}'), raw_event(type="other", data='{"cached":"9"}')]
    commit_raw_events(workspace, numbered(events))
    compute(workspace)
    meters = METERS.replace("data.input_tokens", "data.cached").replace('unit = "requests"', 'unit = "request"')
    compute(changed(workspace, meters=meters))

    result = diff(workspace, WINDOW.window_id, 1, 2)

    assert parts_of(result) == {"acct-1": {"meter_change": -900}}
    assert [(one.unit, one.change) for one in result.changes if one.sku == "requests"] == [
        ("request", 1),
        ("requests", -1),
    ]


def test_usage_that_is_billed_in_another_unit_is_a_meter_change_although_its_rows_are_the_same(
    workspace: Workspace,
) -> None:
    commit_raw_events(workspace, numbered([raw_event(data=tokens(3000))]))
    compute(workspace)
    kilo = 'unit = "tokens"\nbilling_unit = { name = "kilotokens", size = 1000 }'
    compute(changed(workspace, meters=METERS.replace('unit = "tokens"', kilo)))

    result = diff(workspace, WINDOW.window_id, 1, 2)

    assert result.causes == ("meter_change",)
    assert [(one.unit, one.change) for one in result.changes] == [("kilotokens", 3), ("tokens", -3000)]


def test_other_texts_in_the_same_events_change_a_unique_count_over_its_grains(workspace: Workspace) -> None:
    people = METERS.replace('aggregation = "count"', 'aggregation = "unique_count"\nvalue = "data.user"')
    hours = ("10", "11")
    commit_raw_events(
        workspace,
        numbered(
            [
                raw_event(
                    event_at=instant(f"2026-01-15T{hour}:00:00Z"),
                    data=f'{{"input_tokens":"1","session":"{hour}","user":"ana"}}',
                )
                for hour in hours
            ]
        ),
    )
    compute(changed(workspace, meters=people))
    compute(changed(workspace, meters=people.replace("data.user", "data.session")))

    result = diff(workspace, WINDOW.window_id, 1, 2)

    assert parts_of(result, "requests") == {"acct-1": {"meter_change": 1}}


def test_an_event_that_is_voided_and_one_that_is_replaced_are_voids(tmp_path: Path) -> None:
    contract = CONTRACT.replace('["request.completed"]', '["request.completed", "voided", "corrected"]')
    rules = '\n[[withdrawals]]\nevent_type = "voided"\n\n[[withdrawals]]\nevent_type = "corrected"\nreplaces = true\n'
    corrected = METERS.replace("tokens-input", "corrections").replace('"request.completed"', '"corrected"', 1)
    files = {"sources/usage.toml": contract + rules, "meters.toml": METERS + corrected.partition("\n\n")[0]}
    workspace = open_workspace(write_project(tmp_path / "project", None, files))
    events = [raw_event(), raw_event(data=tokens(30)), raw_event(data=tokens(7))]
    commit_raw_events(workspace, numbered(events))
    compute(workspace)
    void = raw_event(object_id="b@1", id="v", type="voided", data='{"id":"req-2"}', received_at=NOW)
    correction = raw_event(
        object_id="c@1", id="c", type="corrected", data='{"id":"req-3","input_tokens":"9"}', received_at=NOW
    )
    commit_raw_events(workspace, [void, correction], LATER)
    compute(workspace)

    result = diff(workspace, WINDOW.window_id, 1, 2)

    assert parts_of(result) == {"acct-1": {"voids": -37}}
    assert parts_of(result, "corrections") == {"acct-1": {"voids": 9}}
    assert result.causes == ("voids",)


def test_a_fallback_account_is_account_mapping(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(subject="nobody", data=tokens(7))]))
    compute(workspace)
    text = (workspace.project.folder / "billing.toml").read_text()
    compute(changed(workspace, billing=f'{text}\n[accounts]\nfallback = "acct-2"\n'))

    assert parts_of(diff(workspace, WINDOW.window_id, 1, 2)) == {"acct-2": {"account_mapping": 7}}


def test_a_reason_without_a_cause_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    early = instant("2026-01-15T11:00:00Z")
    commit_raw_events(workspace, numbered([raw_event(), raw_event(data=tokens(30), received_at=early)]))
    compute(workspace)
    text = (workspace.project.folder / "billing.toml").read_text()
    compute(changed(workspace, billing=text.replace('grain = "1h"', 'grain = "30m"\nfuture_tolerance = "2h"')))

    assert parts_of(diff(workspace, WINDOW.window_id, 1, 2)) == {"acct-1": {"other:in_the_future": 30}}


def test_sql_that_counts_otherwise_is_a_change_of_settings(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_raw_events(workspace, [raw_event()])
    compute(workspace)
    _with_sql(workspace, monkeypatch, "usage", "SUM(quantity) AS value_sum", "3 * SUM(quantity) AS value_sum")
    compute(workspace)

    assert parts_of(diff(workspace, WINDOW.window_id, 1, 2)) == {"acct-1": {"other:settings": 2000}}


def test_several_causes_at_once_each_have_their_part(workspace: Workspace) -> None:
    commit_raw_events(
        workspace,
        numbered(
            [
                raw_event(data='{"input_tokens":"1000","cached":"1"}'),
                raw_event(data='{"input_tokens":"200","cached":"2"}', received_at=CUTOFF_AT),
                raw_event(id="twice", data='{"input_tokens":"50","cached":"3"}'),
                raw_event(subject="customer-2b", data='{"input_tokens":"8","cached":"4"}'),
                raw_event(subject="customer-3", data='{"input_tokens":"5","cached":"5"}', id="same"),
            ]
        ),
    )
    compute(workspace)
    earlier = instant("2026-01-15T12:01:00Z")
    copy = raw_event(object_id="b@1", id="twice", data='{"input_tokens":"40","cached":"6"}', received_at=earlier)
    commit_raw_events(workspace, [copy], LATER)
    accounts = ACCOUNTS.replace(",customer-1\n", ",customer-1;customer-2b\n").replace(
        "customer-2;customer-2b", "customer-2"
    )
    compute(changed(workspace, accounts=accounts, meters=METERS.replace("data.input_tokens", "data.cached")))

    parts = parts_of(diff(workspace, WINDOW.window_id, 1, 2))

    assert parts == {
        "acct-1": {
            "late_events": 200,
            "duplicates": -10,
            "account_mapping": 8,
            "meter_change": (1 + 2 + 6 + 4) - (1000 + 200 + 40 + 8),
        },
        "acct-2": {"account_mapping": -8},
    }


def test_parts_of_a_maximum_add_up_although_maxima_do_not(workspace: Workspace) -> None:
    peak = METERS.replace('aggregation = "sum"', 'aggregation = "max"')
    peaks = changed(workspace, meters=peak)
    events = [raw_event(data=tokens(50)), raw_event(data=tokens(80)), raw_event(data=tokens(70), received_at=CUTOFF_AT)]
    commit_raw_events(peaks, numbered(events))
    compute(peaks)
    # A late event of 70 changes no maximum of 80; one of 95 does, and then 95 goes to another account.
    late = raw_event(object_id="b@1", id="late", subject="customer-2b", data=tokens(95), received_at=NOW)
    commit_raw_events(peaks, [late, raw_event(object_id="b@1", line_number=2, id="l", data=tokens(85))], LATER)
    compute(changed(peaks, accounts=OTHER_OWNER))

    parts = parts_of(diff(peaks, WINDOW.window_id, 1, 2))

    # Account 2, to which the late event would have gone, has the same usage in both revisions: nothing to explain.
    assert parts == {"acct-1": {"late_events": 5, "account_mapping": 10}}


def test_a_diff_backwards_has_the_same_causes_with_the_other_sign(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(data=tokens(30), received_at=CUTOFF_AT)]))
    compute(workspace)
    new = [
        raw_event(object_id="b@1", id="new", data=tokens(5), received_at=NOW),
        raw_event(object_id="b@1", line_number=2, id="nobody", subject="nobody", data=tokens(7)),
        raw_event(object_id="b@1", line_number=3, data=tokens(400), received_at=instant("2026-01-15T12:01:00Z")),
    ]
    commit_raw_events(workspace, [*new, raw_event(object_id="b@1", line_number=4, id="req-2", data=tokens(9))], LATER)
    compute(changed(workspace, accounts=ACCOUNTS.replace(",customer-1\n", ",customer-1;nobody\n")))
    forwards = diff(workspace, WINDOW.window_id, 1, 2)

    backwards = diff(workspace, WINDOW.window_id, 2, 1)

    assert "late_events" in forwards.causes
    assert backwards.causes == forwards.causes
    assert [(one.account_id, one.sku, one.quantity_from, one.quantity_to, one.change) for one in backwards.changes] == [
        (one.account_id, one.sku, one.quantity_to, one.quantity_from, -one.change) for one in forwards.changes
    ]
    turned = {account: {cause: -part for cause, part in parts.items()} for account, parts in parts_of(forwards).items()}
    assert turned
    assert parts_of(backwards) == turned


def test_revisions_that_cannot_be_compared_are_refused(workspace: Workspace) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(data=tokens(30), received_at=CUTOFF_AT)]))
    compute(workspace)

    with pytest.raises(PublicationError) as unknown:
        diff(workspace, WINDOW.window_id, 1, 2)
    deduplicate(workspace, WINDOW, NOW, include_late=True)
    with pytest.raises(NotReadyError) as not_computed:
        diff(workspace, WINDOW.window_id, 1, 2)
    with pytest.raises(InputError) as same:
        diff(workspace, WINDOW.window_id, 1, 1)

    assert unknown.value.code == "revision.unknown"
    assert not_computed.value.code == "diff.not_computed"
    assert same.value.code == "diff.same_revision"


def test_a_revision_whose_usage_is_not_what_its_events_make_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_raw_events(workspace, numbered([raw_event(), raw_event(data=tokens(30), received_at=CUTOFF_AT)]))
    compute(workspace)
    compute(workspace, include_late=True)
    # The states between are computed wrongly: a cause is never applied.
    monkeypatch.setattr(diff_module, "cause_of", lambda reason: "late_events")
    monkeypatch.setattr(diff_module, "causes_in_order", lambda reasons: ["late_events", "other:settings"])
    wrong = diff_module._write_events

    def one_step_too_late(*arguments: Any) -> Path:
        *others, steps, folder = arguments
        return wrong(*others, dict.fromkeys(steps, 9), folder)

    monkeypatch.setattr(diff_module, "_write_events", one_step_too_late)

    with pytest.raises(PublicationError) as refused:
        diff(workspace, WINDOW.window_id, 1, 2)

    assert refused.value.code == "diff.not_the_revision"
    assert "acct-1" in str(refused.value)


def _with_sql(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, query: str, old: str, new: str) -> None:
    """Replace an SQL file from now on, as a release that was installed in between would."""
    from pipeline.adapters import warehouse

    folder = Path(shutil.copytree(warehouse._sql_folder(), workspace.project.folder / "sql"))
    text = (folder / f"{query}.sql").read_text()
    assert old in text
    (folder / f"{query}.sql").write_text(text.replace(old, new))
    monkeypatch.setattr(warehouse, "_sql_folder", lambda: folder)


# ---- any mixture of causes adds up ----

EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from("abcdef"),
            "subject": st.sampled_from(["customer-1", "customer-2", "customer-2b", "nobody"]),
            "hour": st.integers(0, 23),
            "received_hour": st.integers(0, 32),
            "input_tokens": st.sampled_from(["1", "2.5", "30", "-4", "many"]),
            "is_new": st.booleans(),
        }
    ),
    min_size=1,
    max_size=10,
)
DIRECTORIES = st.sampled_from(
    [
        ACCOUNTS,
        ACCOUNTS.replace(",customer-1\n", ",customer-1;nobody\n"),
        OTHER_OWNER,
    ]
)
METER_FILES = st.sampled_from(
    [METERS, METERS.replace("data.input_tokens", "data.cached"), METERS.replace('unit = "requests"', 'unit = "calls"')]
)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawn=EVENTS, accounts=DIRECTORIES, meters=METER_FILES, seed=st.integers(0, 10_000))
def test_whatever_changed_the_parts_add_up_to_what_was_published(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[dict[str, Any]],
    accounts: str,
    meters: str,
    seed: int,
) -> None:
    workspace = open_workspace(write_project(tmp_path_factory.mktemp("mixture") / "project"))
    events = [
        raw_event(
            object_id=f"{'new' if event['is_new'] else 'old'}-{number % 2}@1",
            line_number=number,
            id=event["id"],
            subject=event["subject"],
            event_at=WINDOW.start + timedelta(hours=event["hour"]),
            received_at=WINDOW.start + timedelta(hours=event["received_hour"]),
            data=f'{{"cached":"{number}","input_tokens":"{event["input_tokens"]}"}}',
        )
        for number, event in enumerate(drawn, start=1)
    ]
    random.Random(seed).shuffle(events)
    commit_raw_events(workspace, [event for event in events if event["object_id"].startswith("old")])
    compute(workspace)
    commit_raw_events(workspace, [event for event in events if event["object_id"].startswith("new")], LATER)
    if compute(changed(workspace, accounts=accounts, meters=meters), include_late=True) == 1:
        return

    result = diff(workspace, WINDOW.window_id, 1, 2)

    totals: list[dict[tuple[str, str, str], Decimal]] = [{}, {}]
    for revision, total in enumerate(totals, start=1):
        for row in published_rows(workspace, USAGE, revision):
            key = (row["account_id"], row["sku"], row["unit"])
            total[key] = total.get(key, Decimal(0)) + row["quantity"]
    explained = {(one.account_id, one.sku, one.unit): sum(one.parts.values()) for one in result.changes}
    for key in {*totals[0], *totals[1], *explained}:
        assert explained.get(key, 0) == totals[1].get(key, Decimal(0)) - totals[0].get(key, Decimal(0))


def test_a_late_level_changes_the_account_that_the_resource_moved_to(workspace: Workspace) -> None:
    noon = "2026-01-15T12:00:00Z"
    first, second = (line for line in ACCOUNTS.splitlines(keepends=True) if line.startswith(("acct-1", "acct-2")))
    moved = first.replace(",,customer-1", f",{noon},customer-1") + second.replace(
        "2026-01-01T00:00:00Z,,", f"{noon},,", 1
    )
    moved = moved.replace("customer-2;", "customer-1;customer-2;")
    per_second = METERS.replace('aggregation = "sum"', 'aggregation = "time_weighted_sum"\nper = "hour"')
    project = changed(workspace, meters=per_second, accounts=ACCOUNTS.splitlines(keepends=True)[0] + moved)
    level = raw_event(event_at=instant("2026-01-15T10:00:00Z"), received_at=instant("2026-01-15T10:00:00Z"))
    commit_raw_events(project, numbered([level | {"id": "a", "data": tokens(1)}]))
    compute(project)
    later = level | {"id": "b", "event_at": instant("2026-01-15T11:00:00Z"), "data": tokens(3), "object_id": "b@1"}
    commit_raw_events(project, [later | {"received_at": NOW}], LATER)
    compute(project, include_late=True, at=LATER)

    result = diff(project, WINDOW.window_id, 1, 2)

    assert parts_of(result) == {"acct-1": {"late_events": 2}, "acct-2": {"late_events": 2 * 12}}
