-- account_activity: one row per account that is new or silent in a window.
--
-- Grain:   account_id
-- Reads:   usage_now, usage_before
-- Params:  $before_start  TIMESTAMPTZ  first instant of the window before
--
-- New: used something in the window and nothing in the windows before it that are looked at. Silent: used
-- something in the window before and nothing in this one; its events are those of the window before.

WITH

accounts_now AS (
    SELECT
        account_id,
        SUM(event_count)::BIGINT AS event_count
    FROM usage_now
    GROUP BY account_id
),

accounts_before AS (
    SELECT
        account_id,
        SUM(event_count) FILTER (grain_start >= $before_start)::BIGINT AS event_count
    FROM usage_before
    GROUP BY account_id
)

SELECT
    COALESCE(accounts_now.account_id, accounts_before.account_id) AS account_id,
    CASE WHEN accounts_before.account_id IS NULL THEN 'new' ELSE 'silent' END AS state,
    COALESCE(accounts_now.event_count, accounts_before.event_count) AS event_count
FROM accounts_now
FULL JOIN accounts_before ON accounts_now.account_id = accounts_before.account_id
WHERE
    accounts_before.account_id IS NULL
    OR (accounts_now.account_id IS NULL AND accounts_before.event_count IS NOT NULL)
ORDER BY account_id
