-- window_events: one row per raw event of the window, whatever becomes of it.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- What meters read before anything is excluded. It has the columns of usage_events, so that the same meters
-- read either; who owns an event is not asked here, so the account is null.

SELECT
    source,
    id,
    key_hash,
    CAST(NULL AS VARCHAR) AS account_id,
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
ORDER BY object_id, line_number
