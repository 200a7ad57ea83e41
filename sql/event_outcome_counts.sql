-- event_outcome_counts: one row: how many raw events the window has, and what became of them.
--
-- Grain:   the window
-- Reads:   raw_events, usage_events, excluded_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Sums that tie could still hide one event lost and another taken twice. So each raw event is looked up
-- by its place in the files, and counted as accounted for when it has one outcome: not none, not two.

WITH

window_events AS (
    SELECT
        object_id,
        line_number
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

outcomes AS (
    SELECT
        object_id,
        line_number
    FROM usage_events
    UNION ALL
    SELECT
        object_id,
        line_number
    FROM excluded_events
),

places_with_one_outcome AS (
    SELECT
        object_id,
        line_number
    FROM outcomes
    GROUP BY object_id, line_number
    HAVING COUNT(*) = 1
)

SELECT
    (SELECT COUNT(*) FROM window_events) AS window_event_count,
    (SELECT COUNT(*) FROM usage_events) AS usage_event_count,
    (
        SELECT COUNT(*)
        FROM window_events
        INNER JOIN places_with_one_outcome USING (object_id, line_number)
    ) AS accounted_once_count
ORDER BY window_event_count
