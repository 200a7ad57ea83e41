"""What SQL is given of the pinned project files."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.core.account import VALID_FOR_EVER
from pipeline.steps.inputs import account_references

HEADER = "account_id,name,currency,time_zone,plan,valid_from,valid_to,external_references"


def test_each_subject_of_an_account_has_a_row_with_its_validity() -> None:
    rows = [
        "acct-1,One,EUR,UTC,standard,2026-01-01T00:00:00+01:00,2026-01-15T10:30:00Z,vm-1; vm-2",
        "acct-2,Two,EUR,UTC,standard,2026-01-15T10:30:00Z,,vm-1",
    ]

    found = account_references("\n".join([HEADER, *rows, ""]).encode())

    start, moved_at = datetime(2025, 12, 31, 23, tzinfo=UTC), datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
    assert found == [
        ("vm-1", "acct-1", start, moved_at),
        ("vm-2", "acct-1", start, moved_at),
        ("vm-1", "acct-2", moved_at, VALID_FOR_EVER),
    ]
