-- neighbours: one row per key of the window whose first copy is outside of it: that copy.
--
-- Grain:   source, id
-- Reads:   raw_events, look_back_events
-- Params:  $window_start      TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end        TIMESTAMPTZ  end of the billing window (exclusive)
--          $look_back_start   TIMESTAMPTZ  first instant in which a copy is looked for (inclusive)
--          $look_back_end     TIMESTAMPTZ  end of the time in which a copy is looked for (exclusive)
--          $future_tolerance  INTERVAL     how far event time may be ahead of receipt time (inclusive)
--
-- The same key with another event time may be in another window; the first copy stands there as well. What
-- stands after the window's own copy changes nothing, so it is not here. Keys are found by their hash,
-- from key columns alone, and then compared exactly: a collision of hashes never drops an event.

WITH

window_events AS NOT MATERIALIZED (
    SELECT
        source,
        id,
        key_hash,
        object_id,
        line_number,
        received_at,
        -- In whole numbers: adding to an instant goes through the calendar, which takes longer than the rest.
        EPOCH_US(event_at) - EPOCH_US(received_at)
        > EPOCH_US(CAST($future_tolerance AS INTERVAL)) AS is_in_the_future,
        TRUE AS is_in_window
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

outside_events AS NOT MATERIALIZED (
    SELECT
        source,
        id,
        key_hash,
        object_id,
        line_number,
        received_at,
        EPOCH_US(event_at) - EPOCH_US(received_at)
        > EPOCH_US(CAST($future_tolerance AS INTERVAL)) AS is_in_the_future,
        FALSE AS is_in_window
    FROM look_back_events
    WHERE
        event_at >= $look_back_start
        AND event_at < $look_back_end
        AND (event_at < $window_start OR event_at >= $window_end)
),

shared_hashes AS MATERIALIZED (
    SELECT DISTINCT outside_events.key_hash
    FROM outside_events
    SEMI JOIN window_events ON outside_events.key_hash = window_events.key_hash
),

candidate_copies AS (
    SELECT window_events.*
    FROM window_events
    SEMI JOIN shared_hashes USING (key_hash)
    UNION ALL
    SELECT outside_events.*
    FROM outside_events
    SEMI JOIN shared_hashes USING (key_hash)
),

first_copies AS (
    SELECT
        *,
        BOOL_OR(is_in_window) OVER (PARTITION BY source, id) AS is_key_of_window
    FROM candidate_copies
    QUALIFY
        1 = ROW_NUMBER() OVER (
            PARTITION BY source, id
            ORDER BY is_in_the_future, received_at, object_id, line_number
        )
)

SELECT
    source,
    id,
    object_id,
    line_number
FROM first_copies
WHERE
    is_key_of_window
    AND NOT is_in_window
ORDER BY source, id
