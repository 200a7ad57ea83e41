"""Which withdrawals act on which events, by the rules of docs/windows.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.withdrawal import (
    WITHDRAWAL_FAULT_SENTENCES,
    NamedEvent,
    SettledWithdrawals,
    Withdrawal,
    WithdrawalFault,
    settled_withdrawals,
    standing_withdrawals,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
MICROSECOND = timedelta(microseconds=1)
TOLERANCE = timedelta(minutes=5)


def withdrawal(name: str, target: str, received_at: datetime = START, **changed: Any) -> Withdrawal:
    """Return a replacement in an object of its own, unless `replaces` says that it is a void."""
    fields = {
        "object_id": f"o/{name}@1",
        "line_number": 1,
        "source": "s",
        "id": name,
        "event_at": received_at,
        "received_at": received_at,
        "target_source": "s",
        "target_id": target,
        "replaces": True,
        "event_type": "corrected",
        **changed,
    }
    return Withdrawal(**fields)


def named(name: str, received_at: datetime = START) -> NamedEvent:
    return NamedEvent(f"o/{name}@1", 1, "s", name, received_at, received_at)


def settled(*received: Withdrawal, look_back: timedelta = WEEK) -> SettledWithdrawals:
    return settled_withdrawals(standing_withdrawals(received, TOLERANCE), look_back)


def faults_of(found: SettledWithdrawals) -> dict[str, str]:
    return {key[1]: fault.value for key, fault in found.faults.items()}


def winners_of(found: SettledWithdrawals) -> dict[str, str]:
    return {key[1]: winner.id for key, winner in found.winners.items()}


@pytest.mark.parametrize(("distance", "acts"), [(WEEK - MICROSECOND, True), (WEEK, False)])
def test_a_withdrawal_acts_on_what_is_received_before_the_end_of_the_look_back_after_it(
    distance: timedelta, acts: bool
) -> None:
    found = settled(withdrawal("v", "a", replaces=False))

    by = found.of_event(named("a", START + distance))

    assert (by is not None) is acts


@pytest.mark.parametrize(("distance", "acts"), [(timedelta(0), True), (MICROSECOND, False)])
def test_without_a_look_back_a_withdrawal_acts_on_what_was_received_up_to_its_own_receipt(
    distance: timedelta, acts: bool
) -> None:
    found = settled(withdrawal("v", "a", replaces=False), look_back=timedelta(0))

    by = found.of_event(named("a", START + distance))

    assert (by is not None) is acts


def test_a_key_that_is_used_again_is_taken_back_by_the_next_withdrawal_alone() -> None:
    found = settled(withdrawal("v1", "a", replaces=False), withdrawal("v2", "a", START + 30 * DAY, replaces=False))

    by = [found.of_event(named("a", START + days * DAY)) for days in (0, 6, 7, 36, 37)]

    assert [one and one.id for one in by] == ["v1", "v1", "v2", "v2", None]


@pytest.mark.parametrize(("distance", "stands"), [(WEEK - MICROSECOND, False), (WEEK, True)])
def test_a_second_replacement_of_a_key_comes_too_late_within_the_look_back(distance: timedelta, stands: bool) -> None:
    found = settled(withdrawal("r1", "a"), withdrawal("r2", "a", START + distance))

    assert winners_of(found) == ({} if stands else {"r2": "r1"})
    assert faults_of(found) == ({} if stands else {"r2": "replaced_already"})


def test_what_replaces_a_replacement_that_came_too_late_comes_too_late_as_well() -> None:
    chain = [
        withdrawal("r1", "a"),
        withdrawal("r2", "a", START + DAY),
        withdrawal("r3", "r2", START + 2 * DAY),
        withdrawal("r4", "r3", START + 3 * DAY),
    ]

    assert winners_of(settled(*chain)) == {"r2": "r1", "r3": "r1", "r4": "r1"}


def test_a_replacement_of_the_one_that_stands_is_billed() -> None:
    found = settled(withdrawal("r1", "a"), withdrawal("r2", "a", START + DAY), withdrawal("r3", "r1", START + 2 * DAY))

    assert winners_of(found) == {"r2": "r1"}
    assert found.of_event(named("r1")) == withdrawal("r3", "r1", START + 2 * DAY)


@pytest.mark.parametrize("order", [("v", "r"), ("r", "v")])
def test_a_void_and_a_replacement_of_one_key_do_not_compete(order: tuple[str, str]) -> None:
    received_at = {name: START + number * DAY for number, name in enumerate(order)}
    found = settled(withdrawal("r", "a", received_at["r"]), withdrawal("v", "a", received_at["v"], replaces=False))

    assert (winners_of(found), faults_of(found)) == ({}, {})
    by = found.of_event(named("a"))
    assert by is not None
    assert by.id == order[0]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_last_received_of_a_ring_has_no_effect(size: int) -> None:
    ring = [withdrawal(f"r{n}", f"r{(n + 1) % size}", START + n * timedelta(hours=1)) for n in range(size)]
    tail = withdrawal("tail", "r0", START + DAY)

    found = settled(*Random(size).sample([*ring, tail], size + 1))

    assert faults_of(found)[f"r{size - 1}"] == "names_a_cycle"
    assert "names_a_cycle" not in [fault for name, fault in faults_of(found).items() if name != f"r{size - 1}"]
    assert found.of_event(named("r0")) == tail


def test_a_key_that_is_used_again_after_the_look_back_closes_no_ring() -> None:
    found = settled(withdrawal("r1", "r2"), withdrawal("r2", "r1", START + WEEK))

    assert faults_of(found) == {}
    assert found.of_event(named("r2", START + WEEK)) is None
    assert found.of_event(named("r1")) is not None


def test_a_copy_that_was_ahead_of_its_receipt_gives_way_to_one_that_was_not() -> None:
    early = withdrawal("v", "a", object_id="o/early@1", event_at=START + TOLERANCE + MICROSECOND)
    in_time = withdrawal("v", "b", START + DAY, object_id="o/in_time@1")
    at_the_tolerance = withdrawal("v", "c", START + 2 * DAY, event_at=START + 2 * DAY + TOLERANCE)

    assert standing_withdrawals([early, at_the_tolerance], TOLERANCE) == [at_the_tolerance]
    assert standing_withdrawals([at_the_tolerance, early, in_time], TOLERANCE) == [in_time]


def test_every_fault_has_a_sentence() -> None:
    assert set(WITHDRAWAL_FAULT_SENTENCES) == set(WithdrawalFault)


# ---- the same rules, one replacement at a time ----

NAMES = ("a", "b", "c", "d", "e")
DRAWN = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from((*NAMES, "x")), st.integers(0, 20), st.booleans()),
    unique_by=lambda one: one[0],
)


def winner_by_definition(
    one: Withdrawal, replacements: Mapping[str, Withdrawal], look_back: timedelta
) -> Withdrawal | None:
    """Return what stands in the place of a replacement, found by asking for each again what its definition says."""
    of_target = sorted(
        (other for other in replacements.values() if other.target == one.target),
        key=lambda other: (other.received_at, other.object_id),
    )
    leader = of_target[0]
    for other in of_target:
        leader = other if other.received_at >= leader.received_at + look_back else leader
        if other == one:
            break
    if leader != one:
        return winner_by_definition(leader, replacements, look_back) or leader
    replaced = replacements.get(one.target[1])
    if replaced is None or replaced.received_at >= one.received_at + look_back:
        return None
    return winner_by_definition(replaced, replacements, look_back)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(drawn=DRAWN, seed=st.integers(0, 99))
def test_at_most_one_replacement_of_an_event_is_billed_and_no_ring_takes_all_back(
    drawn: Sequence[tuple[str, str, int, bool]], seed: int
) -> None:
    received = [
        withdrawal(name, target, START + days * DAY, replaces=is_replacement)
        for name, target, days, is_replacement in drawn
    ]

    found = settled(*received)
    shuffled = settled(*Random(seed).sample(received, len(received)))

    assert found == shuffled
    left = {
        one.id: one
        for one in received
        if one.replaces and found.faults.get(one.key) in (None, WithdrawalFault.REPLACED_ALREADY)
    }
    expected = {name: winner_by_definition(one, left, WEEK) for name, one in left.items()}
    assert winners_of(found) == {name: winner.id for name, winner in expected.items() if winner is not None}
    for start in left:
        walked = [start]
        while (following := left[walked[-1]].target[1]) in left and left[walked[-1]].acts_on(
            left[following].received_at, WEEK
        ):
            assert following not in walked, f"a ring is left: {walked}"
            walked.append(following)
