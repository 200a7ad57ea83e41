-- fallback_counts: one row per source and account: how many billed events nobody owned, and who is billed.
--
-- Grain:   source, account_id
-- Reads:   usage_events
-- Params:  none
--
-- A fallback account keeps usage from being lost; whoever looks after it needs to know that it grows.

SELECT
    source,
    account_id,
    COUNT(*) AS event_count
FROM usage_events
WHERE has_fallback_account
GROUP BY source, account_id
ORDER BY source, account_id
