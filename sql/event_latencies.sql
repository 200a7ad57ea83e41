-- event_latencies: one row: how long the events of the billing window took from their use to their receipt.
--
-- Grain:   event_count
-- Reads:   raw_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--          $threshold     INTERVAL     received up to so long after its use, an event is in time (inclusive)
--
-- Copies and late events count as well: how soon usage is known is about receipt, not about billing. The
-- 95th percentile is one of the latencies, never a mean of two. What is received before its use has none.

WITH

latencies AS (
    SELECT GREATEST(EPOCH_US(received_at) - EPOCH_US(event_at), 0) AS microseconds
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
)

SELECT
    COUNT(*) AS event_count,
    COUNT(*) FILTER (WHERE microseconds <= EPOCH_US(CAST($threshold AS INTERVAL))) AS in_time_count,
    QUANTILE_DISC(microseconds, 0.95) AS p95_microseconds
FROM latencies
ORDER BY event_count
