-- night_event_counts: one row: the bridge from the events of the night to the events of the window.
--
-- Grain:   the night
-- Reads:   ledger_objects, raw_events
-- Params:  $window_start        TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end          TIMESTAMPTZ  end of the billing window (exclusive)
--          $first_window_start  TIMESTAMPTZ  first instant that is ever billed (inclusive)
--          $future_tolerance    INTERVAL     how far event time may be ahead of receipt time (inclusive)
--
-- What a night receives is mostly of its own window, but late events are of earlier ones, and events of
-- this window come in other nights. Both are counted here, so that the nights tile all objects and the
-- windows tile all events. An event before the first window has no window, and the window of one from the
-- future may never run: both are counted apart, because nobody else would show them.

WITH

placed_events AS (
    SELECT
        ledger_objects.is_of_night,
        CASE
            WHEN raw_events.event_at >= $window_start AND raw_events.event_at < $window_end
                THEN 'this window'
            WHEN raw_events.event_at < $first_window_start THEN 'before the first window'
            WHEN raw_events.event_at > raw_events.received_at + $future_tolerance THEN 'in the future'
            ELSE 'another window'
        END AS place
    FROM raw_events
    INNER JOIN ledger_objects USING (object_id)
)

SELECT
    COUNT(*) FILTER (WHERE is_of_night) AS night_event_count,
    COUNT(*) FILTER (
        WHERE is_of_night AND place = 'before the first window'
    ) AS before_first_window_event_count,
    COUNT(*) FILTER (WHERE is_of_night AND place = 'in the future') AS future_event_count,
    COUNT(*) FILTER (WHERE is_of_night AND place = 'another window') AS other_window_event_count,
    COUNT(*) FILTER (WHERE NOT is_of_night AND place = 'this window') AS other_night_event_count
FROM placed_events
ORDER BY night_event_count
