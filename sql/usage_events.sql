-- usage_events: one row per billable event of the billing window, with the account that owned it.
--
-- Grain:   source, id
-- Reads:   raw_events, excluded_events, account_references, account_fallbacks
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Every raw event of the window is either here or in excluded_events, never in both; so these rows are
-- never stored, they are the raw events without the excluded ones. A subject may change hands, so the
-- account is the one that owned it when it was used. Where nobody did, the project may name an account
-- to bill, of the event's source or of any.

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
    ANTI JOIN excluded_events USING (object_id, line_number)
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

fallbacks_of_any_source AS (
    SELECT account_id
    FROM account_fallbacks
    WHERE source IS NULL
)

SELECT
    billable_events.source,
    billable_events.id,
    COALESCE(
        account_references.account_id,
        account_fallbacks.account_id,
        (SELECT fallbacks_of_any_source.account_id FROM fallbacks_of_any_source)
    ) AS account_id,
    billable_events.type,
    billable_events.subject,
    billable_events.event_at,
    billable_events.received_at,
    billable_events.quantity,
    billable_events.data,
    billable_events.object_id,
    billable_events.line_number,
    account_references.account_id IS NULL AS has_fallback_account
FROM billable_events
LEFT JOIN account_fallbacks ON billable_events.source = account_fallbacks.source
LEFT JOIN account_references
    ON
        billable_events.subject = account_references.reference
        AND billable_events.event_at >= account_references.valid_from
        AND billable_events.event_at < account_references.valid_to
ORDER BY billable_events.source, billable_events.id
