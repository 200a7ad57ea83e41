-- changed_events: one row per event that only one of two revisions of a window bills to a changed account.
--
-- Grain:   account_id, object_id, line_number
-- Reads:   from_usage_events, to_usage_events, changed_accounts
-- Params:  none
--
-- An event that moves from one account to another is a row of both: taken from the one, added to the other.

WITH

from_events AS (
    SELECT
        from_usage_events.account_id,
        from_usage_events.object_id,
        from_usage_events.line_number,
        from_usage_events.source,
        from_usage_events.id,
        from_usage_events.event_at
    FROM from_usage_events
    SEMI JOIN changed_accounts USING (account_id)
),

to_events AS (
    SELECT
        to_usage_events.account_id,
        to_usage_events.object_id,
        to_usage_events.line_number,
        to_usage_events.source,
        to_usage_events.id,
        to_usage_events.event_at
    FROM to_usage_events
    SEMI JOIN changed_accounts USING (account_id)
)

SELECT
    account_id,
    object_id,
    line_number,
    source,
    id,
    event_at,
    'added' AS what
FROM to_events
ANTI JOIN from_events USING (account_id, object_id, line_number)
UNION ALL
SELECT
    account_id,
    object_id,
    line_number,
    source,
    id,
    event_at,
    'taken' AS what
FROM from_events
ANTI JOIN to_events USING (account_id, object_id, line_number)
ORDER BY account_id, object_id, line_number
