-- last_receipt: one row: how many raw events the window has, and when the last of them was received.
--
-- Grain:   the window
-- Reads:   raw_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- A later revision is cut off after the last receipt, so that it takes in every late event. A window
-- without events has none, and null is its answer.

SELECT
    COUNT(*) AS event_count,
    MAX(received_at) AS last_received_at
FROM raw_events
WHERE
    event_at >= $window_start
    AND event_at < $window_end
ORDER BY event_count
