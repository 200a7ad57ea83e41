"""Who takes part in a canary."""

from __future__ import annotations

from decimal import Decimal

from pipeline.core.canary import takes_part

SAMPLE = ["acct-28", "acct-111", "acct-205"]


def test_one_percent_of_many_accounts_take_part_and_always_the_same() -> None:
    accounts = [f"acct-{number}" for number in range(100_000)]

    sample = [account_id for account_id in accounts if takes_part(account_id, Decimal(1))]

    assert 900 < len(sample) < 1100
    assert sample == [account_id for account_id in accounts if takes_part(account_id, Decimal(1))]
    assert set(sample) < {account_id for account_id in accounts if takes_part(account_id, Decimal(2))}
    # The sample is a promise to whoever watches it: other accounts with the next release would look like a change.
    assert sample[:3] == SAMPLE
