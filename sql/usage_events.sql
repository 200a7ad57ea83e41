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

SELECT
    raw_events.source,
    raw_events.id,
    raw_events.key_hash,
    COALESCE(
        account_references.account_id,
        account_fallbacks.account_id,
        (
            SELECT any_source.account_id
            FROM account_fallbacks AS any_source
            WHERE any_source.source IS NULL
        )
    ) AS account_id,
    raw_events.type,
    raw_events.subject,
    raw_events.event_at,
    raw_events.received_at,
    raw_events.quantity,
    raw_events.data,
    raw_events.object_id,
    raw_events.line_number,
    account_references.account_id IS NULL AS has_fallback_account
FROM raw_events
ANTI JOIN excluded_events
    ON
        raw_events.object_id = excluded_events.object_id
        AND raw_events.line_number = excluded_events.line_number
LEFT JOIN account_fallbacks ON raw_events.source = account_fallbacks.source
LEFT JOIN account_references
    ON
        raw_events.subject = account_references.reference
        AND raw_events.event_at >= account_references.valid_from
        AND raw_events.event_at < account_references.valid_to
WHERE
    raw_events.event_at >= $window_start
    AND raw_events.event_at < $window_end
ORDER BY raw_events.source, raw_events.id
