-- window_objects: one row per object that holds a raw event of the window.
--
-- Grain:   object_id
-- Reads:   raw_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Event time decides the window, so an object of any night may hold events of it.

SELECT DISTINCT object_id
FROM raw_events
WHERE
    event_at >= $window_start
    AND event_at < $window_end
ORDER BY object_id
