-- event_outcome_counts: one row: how many raw events the window has, and what became of them.
--
-- Grain:   the window
-- Reads:   raw_events, usage_events, excluded_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Sums that tie could still hide one event lost and another taken twice. So each raw event is looked up
-- by its place in the files, and counted as accounted for when it is billed, or excluded once.

WITH

excluded_places AS (
    SELECT
        object_id,
        line_number,
        COUNT(*) AS row_count
    FROM excluded_events
    GROUP BY object_id, line_number
),

window_events AS (
    SELECT excluded_places.row_count
    FROM raw_events
    LEFT JOIN excluded_places USING (object_id, line_number)
    WHERE
        raw_events.event_at >= $window_start
        AND raw_events.event_at < $window_end
)

SELECT
    (SELECT COUNT(*) FROM window_events) AS window_event_count,
    (SELECT COUNT(*) FROM usage_events) AS usage_event_count,
    (
        SELECT COUNT(*)
        FROM window_events
        WHERE row_count IS NULL OR row_count = 1
    ) AS accounted_once_count
ORDER BY window_event_count
