-- night_event_counts: one row: the bridge from the events of the night to the events of the window.
--
-- Grain:   the night
-- Reads:   ledger_objects, raw_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- What a night receives is mostly of its own window, but late events are of earlier ones, and events of
-- this window come in other nights. Both are counted here, so that the nights tile all objects and the
-- windows tile all events.

WITH

placed_events AS (
    SELECT
        ledger_objects.is_of_night,
        raw_events.event_at >= $window_start AND raw_events.event_at < $window_end AS is_of_window
    FROM raw_events
    INNER JOIN ledger_objects USING (object_id)
)

SELECT
    COUNT(*) FILTER (WHERE is_of_night) AS night_event_count,
    COUNT(*) FILTER (WHERE is_of_night AND NOT is_of_window) AS other_window_event_count,
    COUNT(*) FILTER (WHERE NOT is_of_night AND is_of_window) AS other_night_event_count
FROM placed_events
ORDER BY night_event_count
