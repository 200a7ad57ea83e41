-- object_line_counts: one row per ledger object: how many lines of it the lake holds.
--
-- Grain:   object_id
-- Reads:   ledger_objects, raw_events, quarantine
-- Params:  none
--
-- The ledger counted the lines while the object was read; these are counted in the files that were
-- written. Neither count is made from the other, so a row that was lost in between shows.

WITH

stored_events AS (
    SELECT
        object_id,
        COUNT(*) AS raw_event_count
    FROM raw_events
    GROUP BY object_id
),

stored_quarantine AS (
    SELECT
        object_id,
        COUNT(*) AS quarantine_count
    FROM quarantine
    GROUP BY object_id
)

SELECT
    ledger_objects.object_id,
    COALESCE(stored_events.raw_event_count, 0) AS raw_event_count,
    COALESCE(stored_quarantine.quarantine_count, 0) AS quarantine_count
FROM ledger_objects
LEFT JOIN stored_events USING (object_id)
LEFT JOIN stored_quarantine USING (object_id)
ORDER BY ledger_objects.object_id
