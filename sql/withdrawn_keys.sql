-- withdrawn_keys: one row per key that a withdrawal names and a raw event of the time span has.
--
-- Grain:   source, id
-- Reads:   raw_events, named_keys
-- Params:  $window_start  TIMESTAMPTZ  first instant of the time span (inclusive)
--          $window_end    TIMESTAMPTZ  end of the time span (exclusive)
--
-- Withdrawals are few and may come at any distance of time, so all of them are held against the events.

SELECT DISTINCT
    raw_events.source,
    raw_events.id
FROM raw_events
INNER JOIN named_keys USING (source, id)
WHERE
    raw_events.event_at >= $window_start
    AND raw_events.event_at < $window_end
ORDER BY raw_events.source, raw_events.id
