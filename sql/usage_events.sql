-- usage_events: one row per billable event of the billing window, with the account that owned it.
--
-- Grain:   source, id
-- Reads:   raw_events, excluded_events, account_references
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Every raw event of the window is either here or in excluded_events, never in both. A subject may
-- change hands, so the account is the one that owned it when it was used.

WITH

billable_events AS (
    SELECT
        source,
        id,
        type,
        subject,
        event_at,
        received_at,
        quantity,
        data,
        object_id,
        line_number
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
        AND NOT EXISTS (
            SELECT 1
            FROM excluded_events
            WHERE
                excluded_events.object_id = raw_events.object_id
                AND excluded_events.line_number = raw_events.line_number
        )
)

SELECT
    billable_events.source,
    billable_events.id,
    account_references.account_id,
    billable_events.type,
    billable_events.event_at,
    billable_events.received_at,
    billable_events.quantity,
    billable_events.data,
    billable_events.object_id,
    billable_events.line_number
FROM billable_events
LEFT JOIN account_references
    ON
        billable_events.subject = account_references.reference
        AND billable_events.event_at >= account_references.valid_from
        AND billable_events.event_at < account_references.valid_to
ORDER BY billable_events.source, billable_events.id
