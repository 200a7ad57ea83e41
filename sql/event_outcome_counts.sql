-- event_outcome_counts: one row per source: its raw events of the window, and what became of them.
--
-- Grain:   contract
-- Reads:   raw_events, usage_events, excluded_events, ledger_objects
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Sums that tie could still hide one event lost and another taken twice. So each raw event is looked up
-- by its place in the files, and counted as accounted for when it is billed, or excluded once. What is of
-- an object that the ledger does not have is of the source '': no row may vanish from the sums.

WITH

excluded_places AS (
    SELECT
        object_id,
        line_number,
        COUNT(*) AS row_count
    FROM excluded_events
    GROUP BY object_id, line_number
),

object_counts AS (
    SELECT
        raw_events.object_id,
        COUNT(*) AS window_event_count,
        0 AS usage_event_count,
        0 AS excluded_event_count,
        COUNT(*) FILTER (
            WHERE excluded_places.row_count IS NULL OR excluded_places.row_count = 1
        ) AS accounted_once_count
    FROM raw_events
    LEFT JOIN excluded_places USING (object_id, line_number)
    WHERE
        raw_events.event_at >= $window_start
        AND raw_events.event_at < $window_end
    GROUP BY raw_events.object_id
    UNION ALL
    SELECT
        object_id,
        0 AS window_event_count,
        COUNT(*) AS usage_event_count,
        0 AS excluded_event_count,
        0 AS accounted_once_count
    FROM usage_events
    GROUP BY object_id
    UNION ALL
    SELECT
        object_id,
        0 AS window_event_count,
        0 AS usage_event_count,
        SUM(row_count) AS excluded_event_count,
        0 AS accounted_once_count
    FROM excluded_places
    GROUP BY object_id
)

SELECT
    COALESCE(ledger_objects.contract, '') AS contract,
    CAST(SUM(object_counts.window_event_count) AS BIGINT) AS window_event_count,
    CAST(SUM(object_counts.usage_event_count) AS BIGINT) AS usage_event_count,
    CAST(SUM(object_counts.excluded_event_count) AS BIGINT) AS excluded_event_count,
    CAST(SUM(object_counts.accounted_once_count) AS BIGINT) AS accounted_once_count
FROM object_counts
LEFT JOIN ledger_objects USING (object_id)
GROUP BY COALESCE(ledger_objects.contract, '')
ORDER BY contract
