-- hybrid_events: one row per event that counts in a state between two revisions, with its account.
--
-- Grain:   object_id, line_number
-- Reads:   compared_events, event_quantities
-- Params:  $step      BIGINT   steps of the waterfall that are taken: events of up to this one came and went
--          $directory VARCHAR  whose account an event has: `from` or `to`
--
-- An event with a quantity that these meters cannot read is in no revision billed, so it is in no state
-- either: it comes in with the meter that mends it. One without an account by this directory has none: it is
-- no usage, but the level that it sets is what the next owner goes on with.

WITH

unreadable_events AS (
    SELECT DISTINCT
        object_id,
        line_number
    FROM event_quantities
    WHERE quantity IS NULL
),

owned_events AS (
    SELECT
        *,
        CASE WHEN $directory = 'to' THEN to_account_id ELSE from_account_id END AS account_id
    FROM compared_events
    WHERE CASE WHEN step <= $step THEN is_counted_to ELSE is_counted_from END
)

SELECT
    owned_events.source,
    owned_events.id,
    owned_events.key_hash,
    owned_events.account_id,
    owned_events.type,
    owned_events.subject,
    owned_events.event_at,
    owned_events.received_at,
    owned_events.quantity,
    owned_events.data,
    owned_events.object_id,
    owned_events.line_number
FROM owned_events
LEFT JOIN unreadable_events USING (object_id, line_number)
WHERE
    owned_events.account_id IS NULL
    OR unreadable_events.object_id IS NULL
ORDER BY owned_events.object_id, owned_events.line_number
