"""The control plane on a real SQLite database: what commits together, who wins a race, what can be proved later."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from pipeline.adapters import control_plane as control_plane_module
from pipeline.adapters import control_plane_tables
from pipeline.adapters.control_plane import ControlPlane
from pipeline.core.access import Roles
from pipeline.core.approval import Decision
from pipeline.core.breaks import BreakClass, Difference
from pipeline.core.completeness import (
    CollectedObject,
    Evidence,
    EvidenceKind,
    PendingObject,
    SourceException,
    UnclaimedKey,
    UnclaimedObject,
)
from pipeline.core.credit import CreditKind, EntryKind
from pipeline.core.errors import AccessError, InputError, NotReadyError, PublicationError
from pipeline.core.invoice import Bundle, DocumentKind, DocumentState, IssuedDocument, PreparedDocument
from pipeline.core.manifest import DataFile, Manifest, sha256_hex
from pipeline.core.price_book_version import PriceBookVersion
from pipeline.core.revision import Collection, LedgerObject, RevisionState, WindowRevision
from tests.core.test_credit import prepared

T = TypeVar("T")

AT = datetime(2026, 1, 16, 7, 0, tzinfo=UTC)
ONE_MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[str]:
    yield f"sqlite:///{tmp_path / 'control_plane.db'}"


@pytest.fixture
def control_plane(database_url: str) -> ControlPlane:
    opened = ControlPlane(database_url)
    opened.migrate()
    return opened


def ledger_object(name: str, **changed: Any) -> LedgerObject:
    original = LedgerObject(
        object_id=f"{name}@1",
        key=name,
        version="1",
        byte_count=100,
        sha256=sha256_hex(name.encode()),
        contract="usage",
        received_at=datetime(2026, 1, 15, 12, tzinfo=UTC),
        line_count=3,
        raw_event_count=2,
        quarantine_count=1,
    )
    return replace(original, **changed)


def collection(*objects: LedgerObject, listed_at: datetime = AT) -> Collection:
    return Collection(listed_at, objects)


def manifest(dataset: str = "usage", scope: str = "window=2026-01-15", **changed: Any) -> Manifest:
    original = Manifest(dataset, scope, revision=1, files=(), row_count=7, content_hash="content-1", pins={})
    return replace(original, **changed)


def manifests_of(found: Collection, event_date: str = "2026-01-15") -> list[Manifest]:
    scope = f"collection={'+'.join(ledger_object.object_id for ledger_object in found.objects)}"
    rows = sum(ledger_object.raw_event_count for ledger_object in found.objects)
    quarantined = sum(ledger_object.quarantine_count for ledger_object in found.objects)
    file = DataFile(f"data/raw_events/{sha256_hex(scope.encode())}.parquet", sha256_hex(b""), rows, 10, event_date)
    return [
        manifest("raw_events", scope, files=(file,), row_count=rows),
        manifest("quarantine", scope, row_count=quarantined),
    ]


def revision(number: int = 1, window_id: str = "2026-01-15", **changed: Any) -> WindowRevision:
    start = datetime.fromisoformat(f"{window_id}T00:00:00Z")
    end = start + timedelta(days=1)
    original = WindowRevision(
        window_id, number, start, end, end + timedelta(hours=6), "inputs-1", {"meters": "abc"}, "first computation"
    )
    return replace(original, **changed)


def draft(account_id: str, total: str = "10.00", **changes: Any) -> PreparedDocument:
    return prepared(account_id, total, **changes)


def store(contents: Sequence[bytes]) -> list[Bundle]:
    sha256 = sha256_hex(b"".join(contents))
    return [Bundle(sha256, number, len(content)) for number, content in enumerate(contents)]


def race(calls: list[Callable[[], T]]) -> list[T | Exception]:
    """Start all calls at the same moment, each in a thread of its own, and return what each returned or raised."""
    start = Barrier(len(calls))

    def at_the_same_moment(call: Callable[[], T]) -> T | Exception:
        start.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(at_the_same_moment, calls))


# ---- collections ----


def test_a_committed_collection_is_in_the_ledger_and_its_manifests_are_published(control_plane: ControlPlane) -> None:
    found = collection(ledger_object("b"), ledger_object("a"))
    raw_events, quarantine = manifests_of(found)

    control_plane.commit_collection(found, [raw_events, quarantine], AT)

    assert control_plane.ledger() == [ledger_object("a"), ledger_object("b")]
    assert control_plane.ledger(["b@1", "unknown"]) == [ledger_object("b")]
    assert control_plane.object_ids() == {"a@1", "b@1"}
    assert control_plane.watermark_at() == AT
    published = control_plane.publication("raw_events", raw_events.scope)
    assert published is not None
    assert published.manifest_hash == raw_events.manifest_hash
    assert control_plane.raw_event_manifests([date(2026, 1, 15)]) == [raw_events.manifest_hash]
    assert control_plane.raw_event_manifests([date(2026, 1, 14)]) == []
    assert control_plane.collections_of(["a@1"]) == {
        "raw_events": [raw_events.manifest_hash],
        "quarantine": [quarantine.manifest_hash],
    }


def test_a_collection_without_objects_moves_the_watermark(control_plane: ControlPlane) -> None:
    assert control_plane.watermark_at() is None
    control_plane.commit_collection(collection(listed_at=AT), [], AT)
    control_plane.commit_collection(collection(listed_at=AT + ONE_MICROSECOND), [], AT)

    assert control_plane.watermark_at() == AT + ONE_MICROSECOND


def test_an_older_listing_that_commits_later_does_not_move_the_watermark_back(control_plane: ControlPlane) -> None:
    control_plane.commit_collection(collection(listed_at=AT), [], AT)
    control_plane.commit_collection(collection(listed_at=AT - timedelta(hours=1)), [], AT)

    assert control_plane.watermark_at() == AT


def test_committing_the_same_collection_again_changes_nothing(control_plane: ControlPlane) -> None:
    found = collection(ledger_object("a"))
    control_plane.commit_collection(found, manifests_of(found), AT)
    before = control_plane.audit_log()

    control_plane.commit_collection(found, manifests_of(found), AT + timedelta(hours=1))

    assert control_plane.audit_log() == before


def test_an_object_that_another_collection_took_is_refused_and_nothing_of_the_second_stays(
    control_plane: ControlPlane,
) -> None:
    first, second = collection(ledger_object("a")), collection(ledger_object("a"), ledger_object("b"))
    control_plane.commit_collection(first, manifests_of(first), AT)

    with pytest.raises(PublicationError, match=r"collect\.objects_already_collected.*1 of these 2"):
        control_plane.commit_collection(second, manifests_of(second), AT)

    assert control_plane.object_ids() == {"a@1"}
    assert control_plane.publication("raw_events", manifests_of(second)[0].scope) is None


def test_a_collection_that_fails_half_way_leaves_nothing(control_plane: ControlPlane) -> None:
    found = collection(ledger_object("a"))
    raw_events, quarantine = manifests_of(found)
    control_plane.publish(replace(quarantine, content_hash="other"), AT)
    before = control_plane.audit_log()

    with pytest.raises(PublicationError, match=r"publish\.revision_exists"):
        control_plane.commit_collection(found, [raw_events, quarantine], AT)

    assert control_plane.object_ids() == set()
    assert control_plane.watermark_at() is None
    assert control_plane.raw_event_manifests([date(2026, 1, 15)]) == []
    assert control_plane.audit_log() == before


@pytest.mark.parametrize("change", [{"line_count": 4}, {"line_count": 4, "raw_event_count": 3}])
def test_a_collection_whose_counts_do_not_tie_is_refused(control_plane: ControlPlane, change: dict[str, int]) -> None:
    manifests = manifests_of(collection(ledger_object("a")))

    with pytest.raises(PublicationError, match=r"collect\.counts_do_not_tie"):
        control_plane.commit_collection(collection(ledger_object("a", **change)), manifests, AT)

    assert control_plane.object_ids() == set()


def test_objects_received_takes_its_start_and_leaves_its_end_out(control_plane: ControlPlane) -> None:
    start, end = datetime(2026, 1, 15, 6, tzinfo=UTC), datetime(2026, 1, 16, 6, tzinfo=UTC)
    found = collection(
        ledger_object("before", received_at=start - ONE_MICROSECOND),
        ledger_object("first", received_at=start),
        ledger_object("last", received_at=end - ONE_MICROSECOND),
        ledger_object("after", received_at=end),
    )
    control_plane.commit_collection(found, manifests_of(found), AT)

    assert [ledger.key for ledger in control_plane.objects_received(start, end)] == ["first", "last"]
    assert [ledger.key for ledger in control_plane.objects_received(None, end)] == ["before", "first", "last"]


def test_more_objects_than_one_statement_can_name_are_collected(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane_module, "IDS_PER_STATEMENT", 2)
    found = collection(*(ledger_object(f"object-{number}") for number in range(5)))

    control_plane.commit_collection(found, manifests_of(found), AT)

    assert control_plane.ledger(control_plane.object_ids()) == list(found.objects)
    assert len(control_plane.collections_of(control_plane.object_ids())["raw_events"]) == 1


def test_instants_of_any_zone_come_back_in_utc(control_plane: ControlPlane) -> None:
    tokyo = timezone(timedelta(hours=9))
    found = collection(ledger_object("a", received_at=datetime(2026, 1, 15, 21, tzinfo=tokyo)))

    control_plane.commit_collection(found, manifests_of(found), AT)

    received_at = control_plane.ledger()[0].received_at
    assert received_at.isoformat() == "2026-01-15T12:00:00+00:00"


def test_a_naive_instant_is_refused(control_plane: ControlPlane) -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        control_plane.commit_collection(collection(listed_at=datetime(2026, 1, 16)), [], AT)  # noqa: DTZ001


# ---- publications ----


def test_publishing_the_same_manifest_again_changes_nothing(control_plane: ControlPlane) -> None:
    first = control_plane.publish(manifest(), AT)
    before = control_plane.audit_log()

    assert control_plane.publish(manifest(), AT + timedelta(hours=1)) == first
    assert control_plane.audit_log() == before


@pytest.mark.parametrize("change", [{"content_hash": "content-2"}, {"pins": {"meters": "other"}}])
def test_a_published_revision_is_never_replaced(control_plane: ControlPlane, change: dict[str, Any]) -> None:
    control_plane.publish(manifest(), AT)

    with pytest.raises(PublicationError, match=r"publish\.revision_exists") as refused:
        control_plane.publish(manifest(**change), AT)

    assert manifest().manifest_hash in str(refused.value)
    published = control_plane.publication("usage", "window=2026-01-15", 1)
    assert published is not None
    assert published.manifest_hash == manifest().manifest_hash


def test_the_newest_publication_is_returned_unless_a_revision_is_named(control_plane: ControlPlane) -> None:
    first = control_plane.publish(manifest(revision=1), AT)
    second = control_plane.publish(manifest(revision=2), AT)

    assert control_plane.publication("usage", "window=2026-01-15") == second
    assert control_plane.publication("usage", "window=2026-01-15", 1) == first
    assert control_plane.publication("usage", "window=2026-01-16") is None


# ---- window revisions ----


def test_a_revision_comes_back_as_it_was_opened(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT)

    assert control_plane.latest_revision("2026-01-15") == revision()
    assert control_plane.accepted_revision("2026-01-15") is None
    assert control_plane.latest_revision("2026-01-16") is None


def test_opening_a_revision_with_the_same_inputs_returns_the_one_that_stands(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT)
    control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")

    again = control_plane.open_revision(revision(reason="said otherwise"), AT)

    assert again == revision(state=RevisionState.ACCEPTED)


def test_opening_a_revision_with_other_inputs_is_refused(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT)

    with pytest.raises(PublicationError, match=r"revision\.other_inputs"):
        control_plane.open_revision(revision(inputs_hash="inputs-2"), AT)


def test_revisions_of_a_window_have_no_gap(control_plane: ControlPlane) -> None:
    with pytest.raises(PublicationError, match=r"revision\.gap.*the next revision is 1"):
        control_plane.open_revision(revision(2), AT)


def test_the_newest_accepted_revision_stands_while_a_newer_one_is_a_candidate_or_rejected(
    control_plane: ControlPlane,
) -> None:
    for number in (1, 2, 3):
        control_plane.open_revision(revision(number), AT)
    control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")
    control_plane.decide_revision("2026-01-15", 2, RevisionState.REJECTED, AT, "a check failed")

    accepted = control_plane.accepted_revision("2026-01-15")
    latest = control_plane.latest_revision("2026-01-15")

    assert (accepted and accepted.revision, latest and latest.revision) == (1, 3)


def test_deciding_the_same_again_changes_nothing(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT)
    control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")
    before = control_plane.audit_log()

    control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")

    assert control_plane.audit_log() == before


def test_a_rejected_revision_can_be_accepted_when_its_gates_pass_later(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT)
    control_plane.decide_revision("2026-01-15", 1, RevisionState.REJECTED, AT, "no price for tokens")

    control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")

    assert control_plane.accepted_revision("2026-01-15") == revision(state=RevisionState.ACCEPTED)


def test_an_accepted_revision_is_never_rejected(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT)
    control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")

    with pytest.raises(PublicationError, match=r"revision\.already_accepted"):
        control_plane.decide_revision("2026-01-15", 1, RevisionState.REJECTED, AT, "too late")


def test_a_revision_that_was_never_opened_cannot_be_decided(control_plane: ControlPlane) -> None:
    with pytest.raises(PublicationError, match=r"revision\.unknown"):
        control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")


def test_windows_that_only_touch_the_span_are_not_in_it(control_plane: ControlPlane) -> None:
    for window_id in ("2026-01-16", "2026-01-14", "2026-01-15"):
        control_plane.open_revision(revision(window_id=window_id), AT)

    found = control_plane.window_revisions(datetime(2026, 1, 15, tzinfo=UTC), datetime(2026, 1, 16, tzinfo=UTC))

    assert [each.window_id for each in found] == ["2026-01-15"]
    assert [each.window_id for each in control_plane.window_revisions()] == ["2026-01-14", "2026-01-15", "2026-01-16"]


# ---- periods and invoices ----


def test_invoices_are_numbered_in_account_order_without_a_gap_across_periods(control_plane: ControlPlane) -> None:
    january = control_plane.finalise_period("2026-01", "LLM", [draft("a"), draft("b")], store, AT)
    february = control_plane.finalise_period("2026-02", "LLM", [draft("a")], store, AT)
    other_series = control_plane.finalise_period("2026-03", "EU", [draft("a")], store, AT)

    assert [(i.number, i.account_id) for i in january] == [("LLM-000001", "a"), ("LLM-000002", "b")]
    assert [i.number for i in february + other_series] == ["LLM-000003", "EU-000001"]
    assert control_plane.documents() == other_series + january + february
    assert control_plane.final_periods() == {"2026-01", "2026-02", "2026-03"}


def test_an_invoice_total_comes_back_with_the_digits_it_was_issued_with(control_plane: ControlPlane) -> None:
    totals = ["10.00", "0.1", "123456789012345678901234.5678"]
    drafts = [draft(f"acct-{index}", total) for index, total in enumerate(totals)]

    control_plane.finalise_period("2026-01", "LLM", drafts, store, AT)

    assert [str(invoice.total) for invoice in control_plane.documents("2026-01")] == totals


def test_a_total_that_is_a_float_is_refused(control_plane: ControlPlane) -> None:
    inexact = replace(draft("a"), total=10.1)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="float"):
        control_plane.finalise_period("2026-01", "LLM", [inexact], store, AT)

    assert control_plane.period_state("2026-01") == "open"


def test_a_final_period_returns_its_invoices_and_writes_no_document(control_plane: ControlPlane) -> None:
    issued = control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)

    def refuse(contents: Sequence[bytes]) -> list[Bundle]:
        raise AssertionError(f"{len(contents)} documents were stored")

    assert control_plane.finalise_period("2026-01", "LLM", [draft("a"), draft("b")], refuse, AT) == issued


def test_a_document_that_cannot_be_written_leaves_no_gap_in_the_numbers(control_plane: ControlPlane) -> None:
    drafts = [draft(account_id) for account_id in "abcd"]

    def fail(contents: Sequence[bytes]) -> list[Bundle]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        control_plane.finalise_period("2026-01", "LLM", drafts, fail, AT)

    assert control_plane.documents() == []
    assert control_plane.period_state("2026-01") == "open"
    assert control_plane.audit_log() == []
    issued = control_plane.finalise_period("2026-02", "LLM", drafts, store, AT)
    assert [invoice.number for invoice in issued] == [f"LLM-00000{number}" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("accounts", ["aa", "ba"])
def test_invoices_come_one_of_each_account_in_order(control_plane: ControlPlane, accounts: str) -> None:
    with pytest.raises(ValueError, match="documents come in order of account"):
        control_plane.finalise_period("2026-01", "LLM", [draft(account) for account in accounts], store, AT)

    assert control_plane.period_state("2026-01") == "open"


def test_a_window_that_overlaps_another_one_is_refused_and_its_neighbour_is_not(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT)
    day = revision().window_start
    half_day = {"window_start": day, "window_end": day + timedelta(hours=12)}

    with pytest.raises(PublicationError) as refused:
        control_plane.open_revision(replace(revision(), window_id="2026-01-15T00:00Z", **half_day), AT)

    assert refused.value.code == "revision.overlapping_window"
    assert control_plane.open_revision(revision(window_id="2026-01-16"), AT).revision == 1


def test_a_period_is_not_made_final_with_a_revision_that_was_overtaken(control_plane: ControlPlane) -> None:
    for number in (1, 2):
        control_plane.open_revision(revision(number), AT)
        control_plane.decide_revision("2026-01-15", number, RevisionState.ACCEPTED, AT, "passed")

    with pytest.raises(PublicationError) as refused:
        control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT, {"2026-01-15": 1})
    assert refused.value.code == "close.revision_overtaken"
    assert control_plane.documents() == []

    issued = control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT, {"2026-01-15": 2})
    assert [invoice.number for invoice in issued] == ["LLM-000001"]


def test_a_period_without_an_invoice_becomes_final_and_uses_no_number(control_plane: ControlPlane) -> None:
    assert control_plane.finalise_period("2026-01", "LLM", [], store, AT) == []
    assert control_plane.period_state("2026-01") == "final"
    assert control_plane.finalise_period("2026-02", "LLM", [draft("a")], store, AT)[0].number == "LLM-000001"


# ---- documents ----


def test_a_draft_of_a_final_period_cannot_be_published_and_the_one_it_was_closed_with_can(
    control_plane: ControlPlane,
) -> None:
    lines = manifest("line_items", "period=2026-01")
    control_plane.publish(lines, AT)
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)

    with pytest.raises(PublicationError, match=r"rate\.period_is_final"):
        control_plane.publish(replace(lines, revision=2, content_hash="content-2"), AT)
    assert control_plane.publish(lines, AT).revision == 1
    assert control_plane.publish(replace(lines, scope="period=2026-02"), AT).scope == "period=2026-02"


def test_of_a_final_period_only_those_get_an_invoice_that_were_released_or_whose_own_was_voided(
    control_plane: ControlPlane,
) -> None:
    control_plane.hold_account("2026-01", "b", "raters disagree", AT, "rate")
    control_plane.hold_account("2026-01", "e", "disputed", AT, "ana")
    drafts = [draft(account_id) for account_id in "abce"]
    first = control_plane.finalise_period("2026-01", "LLM", drafts, store, AT)
    control_plane.release_account("2026-01", "b", "they agree", AT, "ana")
    control_plane.void_document("LLM-000002", "wrong address", AT, "ana")
    assert control_plane.accounts_to_invoice("2026-01") == {"b", "c"}

    again = [draft(account_id, "11.00") for account_id in "abcde"]
    second = control_plane.finalise_period("2026-01", "LLM", again, store, AT)

    assert [(one.number, one.account_id, one.state, f"{one.total}") for one in second] == [
        ("LLM-000001", "a", DocumentState.FINAL, "10.00"),
        ("LLM-000002", "c", DocumentState.VOID, "10.00"),
        ("LLM-000003", "b", DocumentState.FINAL, "11.00"),
        ("LLM-000004", "c", DocumentState.FINAL, "11.00"),
    ]
    assert second[0] == first[0]
    assert control_plane.accounts_to_invoice("2026-01") == set()


def test_a_void_document_keeps_its_number_and_says_who_and_why(control_plane: ControlPlane) -> None:
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)

    voided = control_plane.void_document("LLM-000001", "wrong address", AT, "ana")

    assert control_plane.document("LLM-000001") == voided
    assert (voided.state, voided.void_reason, voided.voided_by) == (DocumentState.VOID, "wrong address", "ana")
    with pytest.raises(InputError, match=r"void since .* wrong address"):
        control_plane.void_document("LLM-000001", "again", AT, "ana")
    with pytest.raises(InputError, match=r"document\.unknown"):
        control_plane.void_document("LLM-000002", "never issued", AT, "ana")


def credit_note(account_id: str, corrects: str, total: str = "-4.00") -> PreparedDocument:
    return draft(account_id, total, kind=DocumentKind.CREDIT_NOTE, corrects=corrects)


def test_credit_notes_have_a_series_of_their_own_if_one_is_named(control_plane: ControlPlane) -> None:
    control_plane.finalise_period("2026-01", "LLM", [draft("a"), draft("b")], store, AT)

    control_plane.issue_documents("2026-01", "LLM", [credit_note("a", "LLM-000001")], store, AT, "CN", {})
    control_plane.issue_documents("2026-01", "LLM", [credit_note("b", "LLM-000002")], store, AT, None, {})

    assert [(one.number, one.corrects) for one in control_plane.documents()] == [
        ("CN-000001", "LLM-000001"),
        ("LLM-000001", None),
        ("LLM-000002", None),
        ("LLM-000003", "LLM-000002"),
    ]
    assert control_plane.last_numbers() == {"CN": 1, "LLM": 3}


def test_what_is_corrected_cannot_be_void_before_what_corrects_it(control_plane: ControlPlane) -> None:
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)
    control_plane.issue_documents("2026-01", "LLM", [credit_note("a", "LLM-000001")], store, AT, None, {})

    with pytest.raises(PublicationError, match="is corrected by LLM-000002"):
        control_plane.void_document("LLM-000001", "wrong address", AT, "ana")
    control_plane.void_document("LLM-000002", "wrong address", AT, "ana")
    control_plane.void_document("LLM-000001", "wrong address", AT, "ana")


def test_an_open_period_has_no_document_beside_its_invoices(control_plane: ControlPlane) -> None:
    with pytest.raises(PublicationError, match=r"document\.period_is_open"):
        control_plane.issue_documents("2026-01", "LLM", [draft("a", kind=DocumentKind.ADJUSTMENT)], store, AT, None, {})

    assert control_plane.last_numbers() == {}


# ---- credits ----


def grant(control_plane: ControlPlane, amount: str, account_id: str = "a", **changes: Any) -> str:
    granted = control_plane.grant_credit(
        account_id, "USD", CreditKind.PREPAID, Decimal(amount), "paid", AT, "ana", **changes
    )
    return granted.grant_id


def left(control_plane: ControlPlane) -> dict[str, str]:
    return {one.grant.grant_id: f"{one.balance:f}" for one in control_plane.credit_balances()}


def test_invoices_draw_credits_across_periods_until_nothing_is_left(control_plane: ControlPlane) -> None:
    later, sooner = grant(control_plane, "12", priority=2), grant(control_plane, "5", priority=1)
    grant(control_plane, "100", "b")

    for period_id in ("2026-01", "2026-02"):
        control_plane.finalise_period(period_id, "LLM", [draft("a")], store, AT)

    assert [f"{document.amount_due:f}" for document in control_plane.documents()] == ["0.00", "3.00"]
    assert left(control_plane) == {later: "0.00", sooner: "0", "credit-000003": "100"}
    assert [(entry.document, entry.grant_id, f"{entry.amount:f}") for entry in control_plane.credit_entries()] == [
        ("LLM-000001", sooner, "5"),
        ("LLM-000001", later, "5.00"),
        ("LLM-000002", later, "7.00"),
    ]


def test_a_void_gives_back_what_was_drawn_by_entries_and_the_next_invoice_draws_it_again(
    control_plane: ControlPlane,
) -> None:
    granted = grant(control_plane, "4.00")
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)

    control_plane.void_document("LLM-000001", "wrong address", AT, "ana")
    assert left(control_plane) == {granted: "4.00"}
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)

    assert left(control_plane) == {granted: "0.00"}
    assert [(entry.kind.value, f"{entry.amount:f}") for entry in control_plane.credit_entries()] == [
        ("drawn", "4.00"),
        ("returned", "-4.00"),
        ("drawn", "4.00"),
    ]


def test_a_revoked_credit_is_not_drawn_also_when_a_void_gives_back_to_it(control_plane: ControlPlane) -> None:
    granted = grant(control_plane, "15.00")
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)

    assert control_plane.revoke_credit(granted, "granted twice", AT, "ana") == Decimal("5.00")
    control_plane.void_document("LLM-000001", "wrong address", AT, "ana")
    [issued] = control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)[1:]

    assert issued.amount_due == Decimal("10.00")
    with pytest.raises(InputError, match=r"credit\.already_revoked"):
        control_plane.revoke_credit(granted, "again", AT, "ana")
    with pytest.raises(InputError, match=r"credit\.unknown"):
        control_plane.revoke_credit("credit-000009", "never granted", AT, "ana")


def test_a_close_that_fails_draws_no_credit(control_plane: ControlPlane) -> None:
    granted = grant(control_plane, "15.00")

    def fail(contents: Sequence[bytes]) -> list[Bundle]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        control_plane.finalise_period("2026-01", "LLM", [draft("a")], fail, AT)

    assert left(control_plane) == {granted: "15.00"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credit_entries SET amount = '0'",
        "DELETE FROM credit_entries",
        "UPDATE credit_grants SET amount = '1000000'",
        "DELETE FROM voids",
    ],
)
def test_credits_and_voids_cannot_be_changed_by_any_client(
    tmp_path: Path, control_plane: ControlPlane, statement: str
) -> None:
    grant(control_plane, "4.00")
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)
    control_plane.void_document("LLM-000001", "wrong address", AT, "ana")

    with (
        sqlite3.connect(tmp_path / "control_plane.db") as database,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        database.execute(statement)


steps_of_credits = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 2000)),
        st.tuples(st.just("close"), st.integers(-500, 3000)),
        st.tuples(st.just("void"), st.integers(0, 5)),
        st.tuples(st.just("revoke"), st.integers(0, 5)),
    ),
    min_size=4,
    max_size=10,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps_of_credits)
def test_no_balance_falls_below_zero_and_the_ledger_ties_to_the_documents_whatever_happens(
    tmp_path: Path, control_plane: ControlPlane, steps: list[tuple[str, int]]
) -> None:
    fresh = shutil.copyfile(tmp_path / "control_plane.db", tmp_path / f"{uuid4().hex}.db")  # migrating takes longer
    control_plane = ControlPlane(f"sqlite:///{fresh}")
    drawn: dict[str, Decimal] = {}

    def keep(contents: Sequence[bytes]) -> list[Bundle]:
        for document in map(json.loads, contents):
            drawn[document["number"]] = sum((Decimal(c["amount"]) for c in document["credits"]), Decimal(0))
        return store(contents)

    for month, (step, number) in enumerate(steps):
        if step == "grant":
            grant(control_plane, f"{number / 100:.2f}")
        elif step == "close":
            document = draft("a", f"{number / 100:.2f}")
            control_plane.finalise_period(f"2026-{month:02d}", "LLM", [document], keep, AT)
        elif step == "void" and number < len(control_plane.documents()):
            with suppress(InputError):
                control_plane.void_document(control_plane.documents()[number].number, "why", AT, "ana")
        elif number < len(control_plane.credit_balances()):
            with suppress(InputError):
                control_plane.revoke_credit(f"credit-{number + 1:06d}", "why", AT, "ana")

        assert all(one.balance >= 0 for one in control_plane.credit_balances())
        final = [one for one in control_plane.documents() if one.voided_at is None]
        entered = sum((e.amount for e in control_plane.credit_entries() if e.kind is not EntryKind.REVOKED), Decimal(0))
        assert entered == sum((drawn[one.number] for one in final), Decimal(0))
        assert all(one.amount_due == one.total - drawn[one.number] for one in final)


# ---- holds ----


def test_an_account_is_held_in_one_period_until_it_is_released(control_plane: ControlPlane) -> None:
    control_plane.hold_account("2026-01", "b", "raters disagree", AT, "rate")
    control_plane.hold_account("2026-01", "a", "disputed", AT, "ana")
    control_plane.hold_account("2026-01", "a", "no address", AT, "ana")
    assert list(control_plane.held_accounts("2026-01").items()) == [
        ("a", "disputed; no address"),
        ("b", "raters disagree"),
    ]
    assert control_plane.held_accounts("2026-02") == {}

    assert control_plane.release_account("2026-01", "a", "settled", AT, "ben") == 2

    assert control_plane.held_accounts("2026-01") == {"b": "raters disagree"}
    assert [(hold.released_by, hold.release_reason) for hold in control_plane.holds("2026-01")] == [
        (None, None),
        ("ben", "settled"),
        ("ben", "settled"),
    ]
    assert control_plane.release_account("2026-01", "a", "settled", AT, "ben") == 0


def test_the_same_hold_again_adds_nothing_and_a_released_one_can_be_set_again(control_plane: ControlPlane) -> None:
    for _ in range(2):
        control_plane.hold_account("2026-01", "a", "disputed", AT, "ana")
    assert len(control_plane.audit_log()) == 1
    control_plane.release_account("2026-01", "a", "settled", AT, "ana")

    control_plane.hold_account("2026-01", "a", "disputed", AT, "ana")

    assert control_plane.held_accounts("2026-01") == {"a": "disputed"}
    assert [entry.action for entry in control_plane.audit_log()] == ["account_held", "account_released", "account_held"]


def test_an_account_that_is_held_gets_no_number_and_the_others_do(control_plane: ControlPlane) -> None:
    control_plane.hold_account("2026-01", "b", "raters disagree", AT, "rate")
    drafts = [draft(account_id) for account_id in "abc"]

    issued = control_plane.finalise_period("2026-01", "LLM", drafts, store, AT)

    assert [(invoice.number, invoice.account_id) for invoice in issued] == [("LLM-000001", "a"), ("LLM-000002", "c")]


def test_an_account_that_is_held_after_its_invoice_gets_no_adjustment(control_plane: ControlPlane) -> None:
    control_plane.finalise_period("2026-01", "LLM", [draft("a"), draft("b")], store, AT)
    control_plane.hold_account("2026-01", "a", "disputed", AT, "ana")

    later = [draft(account_id, kind=DocumentKind.ADJUSTMENT) for account_id in "ab"]
    issued = control_plane.issue_documents("2026-01", "LLM", later, store, AT, None, {"a": 1, "b": 1})

    assert issued == 1
    assert [one.account_id for one in control_plane.documents("2026-01")] == ["a", "b", "b"]


def test_documents_that_were_overtaken_by_others_are_not_issued(control_plane: ControlPlane) -> None:
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)
    adjustment = [draft("a", kind=DocumentKind.ADJUSTMENT)]
    control_plane.issue_documents("2026-01", "LLM", adjustment, store, AT, None, {"a": 1})

    with pytest.raises(PublicationError, match=r"account a has 2 by now"):
        control_plane.issue_documents("2026-01", "LLM", adjustment, store, AT, None, {"a": 1})

    assert control_plane.last_numbers() == {"LLM": 2}


@pytest.mark.parametrize("words", [("", "why", "who"), ("a", " ", "who"), ("a", "why", "")])
def test_a_hold_has_an_account_a_reason_and_somebody_behind_it(
    control_plane: ControlPlane, words: tuple[str, str, str]
) -> None:
    account_id, reason, by = words

    with pytest.raises(InputError, match=r"control_plane\.no_reason"):
        control_plane.hold_account("2026-01", account_id, reason, AT, by)


def test_a_reason_that_nobody_can_read_is_refused_and_nothing_is_changed(control_plane: ControlPlane) -> None:
    with pytest.raises(InputError, match=r"control_plane\.hidden_characters: reason .* U\+001B, U\+202E"):
        control_plane.hold_account("2026-01", "acct-1", "fine \x1b[32m\u202e", AT, "ana")

    assert control_plane.holds() == []


# ---- two tasks at the same time ----


def test_of_two_runs_that_open_one_revision_with_other_inputs_exactly_one_wins(
    database_url: str, control_plane: ControlPlane
) -> None:
    for number in range(1, 11):
        candidates = [revision(number, inputs_hash=f"inputs-{runner}") for runner in (1, 2)]
        outcomes = race([lambda c=c: ControlPlane(database_url).open_revision(c, AT) for c in candidates])

        refused = [outcome for outcome in outcomes if isinstance(outcome, PublicationError)]
        assert len(refused) == 1
        assert control_plane.latest_revision("2026-01-15") in outcomes


def test_of_two_runs_that_open_one_revision_with_the_same_inputs_both_get_it(
    database_url: str, control_plane: ControlPlane
) -> None:
    outcomes = race([lambda: ControlPlane(database_url).open_revision(revision(), AT)] * 2)

    assert outcomes == [revision(), revision()]
    assert len(control_plane.audit_log()) == 1


def test_of_two_collections_that_take_the_same_object_exactly_one_is_committed(
    database_url: str, control_plane: ControlPlane
) -> None:
    for number in range(10):
        shared = ledger_object(f"shared-{number}")
        runs = [collection(shared, ledger_object(f"only-{runner}-{number}")) for runner in (1, 2)]
        outcomes = race(
            [lambda c=c: ControlPlane(database_url).commit_collection(c, manifests_of(c), AT) for c in runs]
        )

        winner = outcomes.index(None)
        assert isinstance(outcomes[1 - winner], PublicationError)
        ids = {each.object_id for each in runs[winner].objects}
        assert {i for i in control_plane.object_ids() if i.endswith(f"-{number}@1")} == ids


def test_of_two_publications_of_one_revision_with_other_content_exactly_one_wins(
    database_url: str, control_plane: ControlPlane
) -> None:
    manifests = [manifest(content_hash=f"content-{runner}") for runner in range(8)]

    outcomes = race([lambda m=m: ControlPlane(database_url).publish(m, AT) for m in manifests])

    refused = [outcome for outcome in outcomes if isinstance(outcome, PublicationError)]
    assert len(refused) == 7
    assert control_plane.publication("usage", "window=2026-01-15") in outcomes


def _finalise(database_url: str, start: Any, outcomes: Any) -> None:
    runner = ControlPlane(database_url)
    drafts = [draft(f"acct-{index:02d}") for index in range(20)]
    start.wait(60)
    outcomes.put(runner.finalise_period("2026-01", "LLM", drafts, store, AT))


def test_two_processes_that_finalise_one_period_get_the_same_invoices(
    database_url: str, control_plane: ControlPlane
) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, outcomes = spawn.Barrier(2), spawn.Queue()
    runners = [spawn.Process(target=_finalise, args=(database_url, start, outcomes)) for _ in range(2)]
    for runner in runners:
        runner.start()
    first, second = outcomes.get(timeout=120), outcomes.get(timeout=120)
    for runner in runners:
        runner.join(60)

    assert first == second == control_plane.documents("2026-01")
    assert [invoice.number for invoice in first] == [f"LLM-{number:06d}" for number in range(1, 21)]
    control_plane.verify_audit_log()


def test_processes_that_finalise_other_periods_of_a_series_share_no_number(
    database_url: str, control_plane: ControlPlane
) -> None:
    def finalise(month: int) -> list[IssuedDocument]:
        drafts = [draft(account_id) for account_id in "abc"]
        return ControlPlane(database_url).finalise_period(f"2026-{month:02d}", "LLM", drafts, store, AT)

    race([lambda m=m: finalise(m) for m in range(1, 9)])

    assert [invoice.number for invoice in control_plane.documents()] == [f"LLM-{n:06d}" for n in range(1, 25)]
    control_plane.verify_audit_log()


def test_control_planes_that_migrate_at_the_same_time_take_turns(database_url: str) -> None:
    assert race([lambda: ControlPlane(database_url).migrate()] * 4) == [None] * 4
    assert ControlPlane(database_url).audit_log() == []


def test_a_project_can_be_opened_and_read_while_another_process_writes(
    database_url: str, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane_module, "BUSY_TIMEOUT_SECONDS", 0)
    seen: list[set[str]] = []

    def read_while_writing(contents: Sequence[bytes]) -> list[Bundle]:
        reader = ControlPlane(database_url)
        reader.migrate()
        seen.append(reader.final_periods())
        return store(contents)

    control_plane.finalise_period("2026-01", "LLM", [draft("a")], read_while_writing, AT)

    assert seen == [set()]


def test_a_database_that_stays_locked_is_not_ready(
    tmp_path: Path, database_url: str, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane_module, "BUSY_TIMEOUT_SECONDS", 0)
    holder = sqlite3.connect(tmp_path / "control_plane.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    with pytest.raises(NotReadyError, match=r"control_plane\.unavailable.*locked"):
        control_plane.publish(manifest(), AT)

    holder.close()


# ---- the audit log ----


@pytest.fixture
def audited(control_plane: ControlPlane) -> ControlPlane:
    """A control plane in which every kind of change of state happened once."""
    found = collection(ledger_object("a"))
    control_plane.commit_collection(found, manifests_of(found), AT)
    control_plane.open_revision(revision(), AT)
    control_plane.publish(manifest(), AT)
    control_plane.decide_revision("2026-01-15", 1, RevisionState.REJECTED, AT, "a check failed")
    control_plane.decide_revision("2026-01-15", 1, RevisionState.ACCEPTED, AT, "gates passed")
    control_plane.finalise_period("2026-01", "LLM", [draft("a")], store, AT)
    return control_plane


def test_every_change_of_state_is_in_the_audit_log(audited: ControlPlane) -> None:
    assert [entry.action for entry in audited.audit_log()] == [
        "collection_committed",
        "published",
        "published",
        "revision_opened",
        "published",
        "revision_rejected",
        "revision_accepted",
        "document_issued",
        "period_finalised",
    ]
    audited.verify_audit_log()


def tamper(tmp_path: Path, *statements: str) -> None:
    with sqlite3.connect(tmp_path / "control_plane.db") as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize("column", ["at", "action", "subject", "details", "previous_hash", "entry_hash"])
def test_a_changed_audit_entry_is_named(tmp_path: Path, audited: ControlPlane, column: str) -> None:
    tamper(tmp_path, f"UPDATE audit_log SET {column} = {column} || ' ' WHERE entry_number = 5")

    with pytest.raises(PublicationError, match=r"audit\.chain_broken.*entry 5 is the first"):
        audited.verify_audit_log()


def test_a_changed_audit_entry_with_a_recomputed_hash_breaks_the_next_entry(
    tmp_path: Path, audited: ControlPlane
) -> None:
    forged = replace(audited.audit_log()[4], subject="something else")
    tamper(
        tmp_path,
        f"UPDATE audit_log SET subject = '{forged.subject}', entry_hash = '{forged.expected_hash()}' "
        "WHERE entry_number = 5",
    )

    with pytest.raises(PublicationError, match="entry 6 is the first"):
        audited.verify_audit_log()


@pytest.mark.parametrize(
    ("removed", "why"),
    [(1, "it is missing"), (5, "it is missing"), (9, "the head of the log names entry 9, the newest is 8")],
)
def test_a_removed_audit_entry_is_named_also_the_newest(
    tmp_path: Path, audited: ControlPlane, removed: int, why: str
) -> None:
    tamper(tmp_path, f"DELETE FROM audit_log WHERE entry_number = {removed}")

    with pytest.raises(PublicationError, match=f"entry {removed} is the first") as broken:
        audited.verify_audit_log()

    assert why in str(broken.value)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET action = 'x'",
        "DELETE FROM audit_log",
        "UPDATE documents SET total = '0.00'",
        "DELETE FROM documents",
        "UPDATE publications SET manifest_hash = 'x'",
        "DELETE FROM object_ledger",
        "DELETE FROM final_periods",
        "UPDATE collections SET listed_at = '2027-01-01'",
    ],
)
def test_what_was_committed_cannot_be_changed_by_any_client(
    tmp_path: Path, audited: ControlPlane, statement: str
) -> None:
    with (
        sqlite3.connect(tmp_path / "control_plane.db") as database,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        database.execute(statement)


# ---- evidence, exceptions, and what was not taken ----


def evidence_of(known: LedgerObject, content: str = "[]", **changed: Any) -> Evidence:
    return replace(Evidence(known.contract, EvidenceKind.CONTROL_FILE, known.key, content), **changed)


def without_lines(name: str, **changed: Any) -> LedgerObject:
    return ledger_object(name, line_count=0, raw_event_count=0, quarantine_count=0, **changed)


def commit(control_plane: ControlPlane, *objects: LedgerObject, at: datetime = AT, **not_taken: Any) -> None:
    """Commit objects, those without lines as evidence."""
    found = collection(*objects, listed_at=at)
    evidence = {known.object_id: evidence_of(known) for known in objects if not known.line_count}
    manifests = manifests_of(found) if any(known.line_count for known in objects) else []
    control_plane.commit_collection(found, manifests, at, evidence, **not_taken)


def exception(**changed: Any) -> SourceException:
    original = SourceException("2026-01-15", 1, "usage", ("offset 2–9 of partition 3",), "known loss", AT)
    return replace(original, **changed)


def test_evidence_comes_back_as_it_was_committed_in_order_of_receipt(control_plane: ControlPlane) -> None:
    first, second = without_lines("b"), without_lines("a", received_at=AT)
    other = without_lines("c", contract="jobs")

    commit(control_plane, second, first, other)

    found = control_plane.evidence("usage")
    assert [(one.object_id, one.received_at, one.evidence) for one in found] == [
        ("b@1", first.received_at, evidence_of(first)),
        ("a@1", AT, evidence_of(second)),
    ]
    assert [one.object_id for one in control_plane.evidence()] == ["b@1", "c@1", "a@1"]


@pytest.mark.parametrize(
    "known",
    [ledger_object("a"), without_lines("other"), without_lines("a", key="b"), without_lines("a", contract="jobs")],
)
def test_evidence_is_of_an_object_of_the_collection_without_lines(
    control_plane: ControlPlane, known: LedgerObject
) -> None:
    found = collection(known)
    evidence = {"a@1": evidence_of(without_lines("a"))}

    with pytest.raises(ValueError, match="evidence is of an object of the collection that has no lines"):
        control_plane.commit_collection(found, manifests_of(found) if known.line_count else [], AT, evidence)
    assert control_plane.object_ids() == set()


def test_a_collection_that_is_refused_leaves_no_evidence(control_plane: ControlPlane) -> None:
    commit(control_plane, ledger_object("a"))

    with pytest.raises(PublicationError):
        commit(control_plane, ledger_object("a"), without_lines("b"))

    assert control_plane.evidence() == []


def test_the_objects_of_usage_data_are_the_newest_version_of_each_key(control_plane: ControlPlane) -> None:
    newer = ledger_object("a", object_id="a@0", version="0", received_at=AT, line_count=5, raw_event_count=4)
    commit(
        control_plane,
        ledger_object("a"),
        newer,
        ledger_object("b"),
        without_lines("c"),
        ledger_object("d", contract="jobs"),
    )

    rewritten = ledger_object("e", object_id="e@2", version="2", received_at=AT)
    commit(control_plane, ledger_object("e"), rewritten)

    found = control_plane.collected_objects("usage")

    assert found == [
        CollectedObject("a", AT, 100, 5, 4),
        CollectedObject("b", ledger_object("b").received_at, 100, 3, 2),
        CollectedObject("e", AT, 100, 3, 2),
    ]


def test_what_the_newest_listing_did_not_take_replaces_what_the_one_before_did_not(control_plane: ControlPlane) -> None:
    later = AT + timedelta(hours=1)
    unclaimed = [UnclaimedKey("z", 1), UnclaimedKey("y", 2, "usage")]
    commit(control_plane, pending={"b": "timed out", "a": "denied"}, unclaimed=unclaimed)
    assert [one.key for one in control_plane.pending_objects()] == ["a", "b"]

    commit(control_plane, at=later, pending={"b": "denied", "c": "denied"}, unclaimed=[UnclaimedKey("y", 3, "usage")])

    assert control_plane.pending_objects() == [PendingObject("b", "denied", AT), PendingObject("c", "denied", later)]
    assert control_plane.unclaimed_objects() == [UnclaimedObject("y", 3, "usage", AT)]


def test_an_older_listing_that_commits_later_does_not_say_what_waits_now(control_plane: ControlPlane) -> None:
    commit(control_plane, at=AT)

    commit(control_plane, at=AT - ONE_MICROSECOND, pending={"a": "denied"})

    assert control_plane.pending_objects() == []


def test_a_listing_that_finds_nothing_new_says_what_waits_all_the_same(control_plane: ControlPlane) -> None:
    """The watermark stops before a pending object, so two listings in a row can be the same collection."""
    found = collection(listed_at=AT - timedelta(hours=1))
    control_plane.commit_collection(found, [], AT, pending={"a": "denied"})

    control_plane.commit_collection(
        found, [], AT + ONE_MICROSECOND, pending={"a": "denied"}, unclaimed=[UnclaimedKey("z", 1)]
    )

    assert [one.key for one in control_plane.unclaimed_objects()] == ["z"]


def test_an_exception_is_recorded_with_its_revision_and_in_the_audit_log(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT, [exception(), exception(contract="jobs")])

    assert control_plane.exceptions("2026-01-15", 1) == [exception(contract="jobs"), exception()]
    assert control_plane.exceptions("2026-01-15", 2) == control_plane.exceptions("2026-01-16") == []
    assert [entry.action for entry in control_plane.audit_log()] == [
        "revision_opened",
        "completeness_exception_recorded",
        "completeness_exception_recorded",
    ]
    assert '"reason":"known loss"' in control_plane.audit_log()[1].details
    control_plane.verify_audit_log()


def test_an_exception_for_the_same_gap_is_recorded_once_and_another_one_beside_it(control_plane: ControlPlane) -> None:
    control_plane.open_revision(revision(), AT, [exception()])
    later = AT + timedelta(hours=1)
    second = exception(missing=("offset 20 of partition 3",), at=later)

    control_plane.open_revision(revision(), later, [exception(reason="other", at=later), second])

    assert control_plane.exceptions() == [exception(), second]


def test_a_revision_that_is_refused_leaves_no_exception(control_plane: ControlPlane) -> None:
    with pytest.raises(PublicationError, match=r"revision\.gap"):
        control_plane.open_revision(revision(2), AT, [exception(revision=2)])

    assert control_plane.exceptions() == []


@pytest.mark.parametrize("statement", ["UPDATE evidence SET content = '[]'", "DELETE FROM completeness_exceptions"])
def test_evidence_and_exceptions_cannot_be_changed_by_any_client(
    tmp_path: Path, control_plane: ControlPlane, statement: str
) -> None:
    commit(control_plane, without_lines("a"))
    control_plane.open_revision(revision(), AT, [exception()])

    with (
        sqlite3.connect(tmp_path / "control_plane.db") as database,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        database.execute(statement)


# ---- the schema ----


@pytest.mark.parametrize(
    ("statement", "is_refused"),
    [
        ("UPDATE price_book_versions SET sha256 = 'x'", True),
        ("UPDATE price_book_versions SET effective_from = '2020-01-01'", True),
        ("UPDATE price_book_versions SET approved_by = 'me', approved_at = 'x', approval_number = 1", False),
        ("DELETE FROM price_book_versions", True),
        ("UPDATE canaries SET version = 'x'", True),
        ("DELETE FROM canaries", True),
    ],
)
def test_a_published_price_book_is_approved_once_and_else_never_changed(
    tmp_path: Path, control_plane: ControlPlane, statement: str, is_refused: bool
) -> None:
    book = PriceBookVersion("b@0", "0" * 64, "b", date(2026, 1, 1), "ana", AT, "ana", "first")
    control_plane.publish_price_book(book, AT, lambda _: None)
    control_plane.set_canary("b@0", "0" * 64, "ana", AT)
    with sqlite3.connect(tmp_path / "control_plane.db") as database:
        if is_refused:
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)
            return
        database.execute(statement)
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute("UPDATE price_book_versions SET approved_by = 'somebody else'")


def test_another_book_of_the_same_version_is_refused(control_plane: ControlPlane) -> None:
    book = PriceBookVersion("b@0", "0" * 64, "b", date(2026, 1, 1), "ana", AT, "ana", "first")
    control_plane.publish_price_book(book, AT, lambda _: None)

    with pytest.raises(PublicationError, match=r"price\.version_exists"):
        control_plane.publish_price_book(replace(book, sha256="1" * 64), AT, lambda _: None)


def test_the_canary_is_the_one_that_was_set_last_until_it_is_taken_off(control_plane: ControlPlane) -> None:
    assert control_plane.canary() is None
    for version, sha256 in (("a@0", "a" * 64), ("b@0", "b" * 64), ("b@0", "b" * 64)):
        control_plane.set_canary(version, sha256, "ana", AT)
    canary = control_plane.canary()
    assert canary is not None
    assert (canary.canary_number, canary.version) == (2, "b@0")

    control_plane.set_canary(None, None, "ana", AT)

    assert control_plane.canary() is None
    assert [entry.action for entry in control_plane.audit_log()] == ["canary_set"] * 3


def test_a_database_of_the_first_release_is_migrated_with_its_rows(
    database_url: str, tmp_path: Path, control_plane: ControlPlane
) -> None:
    """What came after it is taken away again, which leaves a database as the first release wrote it."""
    found = collection(ledger_object("a"))
    control_plane.commit_collection(found, manifests_of(found), AT)
    control_plane.open_revision(revision(), AT)
    with sqlite3.connect(tmp_path / "control_plane.db") as database:
        later = ("derived_pins", "evidence", "completeness_exceptions", "pending_objects", "unclaimed_objects", "holds")
        of_documents = ("credit_entries", "voids", "documents", "credit_grants")
        for table in (*later, *of_documents, "price_book_versions", "canaries", "breaks", "overrides", "sign_offs"):
            database.execute(f"DROP TABLE {table}")
        database.execute("CREATE TABLE invoices (number TEXT)")
        database.execute("DROP INDEX ix_object_ledger_contract")
        database.execute("ALTER TABLE object_ledger DROP COLUMN fault")
        database.execute("UPDATE alembic_version SET version_num = '0001'")
    entries = control_plane.audit_log()

    migrated = ControlPlane(database_url)
    migrated.migrate()

    assert migrated.audit_log() == entries
    assert migrated.ledger() == [ledger_object("a")]
    assert migrated.latest_revision("2026-01-15") == revision()
    assert migrated.evidence() == migrated.pending_objects() == migrated.unclaimed_objects() == []
    migrated.open_revision(revision(), AT, [exception()])
    assert migrated.exceptions() == [exception()]
    with create_engine(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, control_plane_tables.metadata) == []


def test_the_migrations_make_the_tables_that_the_code_uses(database_url: str, control_plane: ControlPlane) -> None:
    with create_engine(database_url).connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), control_plane_tables.metadata
        )

    assert differences == []


def test_the_schema_that_the_code_asks_for_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(control_plane_module.MIGRATIONS))

    assert ScriptDirectory.from_config(config).get_current_head() == control_plane_tables.SCHEMA_REVISION


def test_the_migrations_are_valid_for_postgresql_too(capsys: pytest.CaptureFixture[str]) -> None:
    printed = io.StringIO()
    config = Config(output_buffer=printed)
    config.set_main_option("script_location", str(control_plane_module.MIGRATIONS))

    command.upgrade(config, "head", sql=True)

    for table in control_plane_tables.metadata.sorted_tables:
        assert f"CREATE TABLE {table.name} (" in printed.getvalue()
        assert str(CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "TIMESTAMP WITH TIME ZONE" in printed.getvalue()
    assert "RAISE(ABORT" not in printed.getvalue()


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path, control_plane: ControlPlane) -> None:
    with sqlite3.connect(tmp_path / "control_plane.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(InputError, match=r"control_plane\.newer_schema.*migration 9999"):
        control_plane.migrate()


def test_a_database_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match=r"control_plane\.no_driver.*pg8000"):
        ControlPlane("postgresql+pg8000://user:secret@host/billing")


def test_a_database_is_in_wal_mode_so_that_reports_read_while_a_run_writes(
    tmp_path: Path, control_plane: ControlPlane
) -> None:
    with sqlite3.connect(tmp_path / "control_plane.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# ---- roles, breaks, overrides and sign-offs ----


def test_every_change_that_a_person_asks_for_is_refused_without_a_role_and_changes_nothing(
    control_plane: ControlPlane,
) -> None:
    control_plane.migrate()
    control_plane.carry_breaks("period=2026-01", ["rated_twice"], [difference()], "window 2026-01-15 revision 1", AT)
    control_plane.roles = Roles(auditor=("ida",))
    entries = control_plane.audit_log()
    book = PriceBookVersion("b@1", "1" * 64, "b", date(2026, 1, 1), "ida", AT, "ida", "why")
    attempts: list[Callable[[], object]] = [
        lambda: control_plane.hold_account("2026-01", "a", "disputed", AT, "ida"),
        lambda: control_plane.release_account("2026-01", "a", "settled", AT, "ida"),
        lambda: control_plane.void_document("LLM-000001", "why", AT, "ida"),
        lambda: control_plane.grant_credit("a", "USD", CreditKind.PREPAID, Decimal(1), "why", AT, "ida"),
        lambda: control_plane.revoke_credit("credit-000001", "why", AT, "ida"),
        lambda: control_plane.publish_price_book(book, AT, lambda _: None),
        lambda: control_plane.approve_price_book("b@1", "ida", AT, lambda _: None),
        lambda: control_plane.set_canary(None, None, "ida", AT),
        lambda: control_plane.assign_break(1, "eve", AT, "ida"),
        lambda: control_plane.note_break(1, "noted", AT, "ida"),
        lambda: control_plane.resolve_break(1, "why", AT, "ida"),
        lambda: control_plane.request_override("2026-01-15", 1, ["failed"], "why", AT, "ida"),
        lambda: control_plane.approve_override("2026-01-15", 1, "0" * 64, AT, "ida"),
        lambda: control_plane.sign_off("2026-01", Decision.APPROVE, "0" * 64, {}, "why", AT, "ida"),
    ]

    for attempt in attempts:
        with pytest.raises(AccessError, match=r"access\.denied: ida may not"):
            attempt()

    assert control_plane.audit_log() == entries


def test_a_control_holds_accounts_whatever_the_roles_are(control_plane: ControlPlane) -> None:
    control_plane.roles = Roles(auditor=("ida",))

    control_plane.hold_for_control("2026-01", "a", "rated_twice", "raters disagree", AT)

    assert control_plane.holds("2026-01")[0].held_by == "control rated_twice"


def difference(**changed: Any) -> Difference:
    values: dict[str, Any] = {
        "control": "rated_twice",
        "scope": "2026-01/a",
        "unit": "USD",
        "break_class": BreakClass.PRICE,
        "expected": Decimal("1.10"),
        "actual": Decimal("1.1"),
        "period_id": "2026-01",
        "account_id": "a",
    }
    return Difference(**{**values, **changed})


def test_a_break_keeps_its_digits_and_is_worked_by_people(control_plane: ControlPlane) -> None:
    [opened] = control_plane.carry_breaks("period=2026-01", ["rated_twice"], [difference()], "night 1", AT)

    control_plane.assign_break(opened.break_id, "eve", AT, "ben")
    control_plane.note_break(opened.break_id, "asked pricing", AT, "eve")
    settled = control_plane.resolve_break(opened.break_id, "book mended", AT, "eve")

    assert (str(opened.expected), str(opened.actual)) == ("1.10", "1.1")
    assert (settled.owner, settled.note, settled.resolved_by, settled.resolution) == (
        *("eve", "asked pricing", "eve", "book mended"),
    )
    assert control_plane.breaks() == []
    assert [entry.action for entry in control_plane.audit_log()] == [
        *("break_opened", "break_assigned", "break_noted", "break_resolved"),
    ]
    assert json.loads(control_plane.audit_log()[1].details) == {"by": "ben", "owner": "eve"}
    control_plane.verify_audit_log()


def test_a_break_that_is_resolved_or_unknown_cannot_be_worked(control_plane: ControlPlane) -> None:
    [opened] = control_plane.carry_breaks("period=2026-01", ["rated_twice"], [difference()], "night 1", AT)
    control_plane.resolve_break(opened.break_id, "book mended", AT, "eve")

    with pytest.raises(InputError, match=r"break\.resolved"):
        control_plane.note_break(opened.break_id, "too late", AT, "eve")
    with pytest.raises(InputError, match=r"break\.unknown"):
        control_plane.assign_break(99, "eve", AT, "ben")
    with pytest.raises(InputError, match=r"control_plane\.no_reason"):
        control_plane.resolve_break(opened.break_id, " ", AT, "eve")


def test_only_what_was_reconciled_resolves_a_break(control_plane: ControlPlane) -> None:
    control_plane.carry_breaks("period=2026-01", ["rated_twice"], [difference()], "night 1", AT)

    control_plane.carry_breaks("period=2026-02", ["rated_twice"], [], "night 2", AT)
    control_plane.carry_breaks("period=2026-01", ["account_invoice"], [], "night 2", AT)
    assert len(control_plane.breaks()) == 1

    control_plane.carry_breaks("period=2026-01", ["rated_twice"], [], "night 2", AT)
    assert control_plane.breaks() == []


def test_a_sign_off_is_never_changed(control_plane: ControlPlane, tmp_path: Path) -> None:
    made = control_plane.sign_off("2026-01", Decision.REJECT, "0" * 64, {"net": {"USD": "1.10"}}, "why", AT, "ben")

    assert control_plane.sign_offs("2026-01") == [made]
    with (
        sqlite3.connect(tmp_path / "control_plane.db") as database,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        database.execute("UPDATE sign_offs SET decision = 'approve'")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE overrides SET approved_by = 'mallory'",
        "UPDATE sign_offs SET decision = 'approve'",
        "UPDATE sign_offs SET content_hash = 'f'",
        "DELETE FROM sign_offs",
        "UPDATE holds SET account_id = 'b'",
        "DELETE FROM holds",
    ],
)
def test_a_decision_that_is_not_what_the_audit_log_says_is_found(
    audited: ControlPlane, tmp_path: Path, statement: str
) -> None:
    audited.hold_account("2026-01", "a", "disputed", AT, "ana")
    audited.sign_off("2026-01", Decision.REJECT, "0" * 64, {"net": {"USD": "1.10"}}, "why", AT, "ben")
    [opened] = audited.window_revisions()
    name = opened.window_id, opened.revision
    asked = audited.request_override(*name, ["usage is lost"], "outage", AT, "ana")
    audited.approve_override(*name, asked.failures_hash, AT, "ben")
    audited.verify_audit_log()
    tamper(tmp_path, statement)

    with pytest.raises(PublicationError, match=r"audit\.record_changed"):
        audited.verify_audit_log()
