-- compared_outcomes: one row per raw event that two revisions of a window do not both count alike, and why.
--
-- Grain:   object_id, line_number
-- Reads:   from_excluded_events, to_excluded_events, added_events, gone_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- Counted is what is billed, and what would be if anybody owned it: such an event adds to no account until
-- its subject has an owner, so it is there in each state, and one that has no owner in both revisions is left
-- out here. The reason is that of the revision that does not count the event. An event that takes the place
-- of another one (the copy that stands, the event that replaces) is there for the reason why the other one is
-- not, so that both belong to one cause. Added and gone events are those of raw event files of one revision
-- only.

WITH

from_outcomes AS (
    SELECT
        object_id,
        line_number,
        reason
    FROM from_excluded_events
    UNION ALL
    SELECT
        object_id,
        line_number,
        'not_collected' AS reason
    FROM added_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

to_outcomes AS (
    SELECT
        object_id,
        line_number,
        reason,
        winner_object_id,
        winner_line_number
    FROM to_excluded_events
    UNION ALL
    SELECT
        object_id,
        line_number,
        'gone' AS reason,
        NULL AS winner_object_id,
        NULL AS winner_line_number
    FROM gone_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

paired_outcomes AS (
    SELECT
        COALESCE(from_outcomes.object_id, to_outcomes.object_id) AS object_id,
        COALESCE(from_outcomes.line_number, to_outcomes.line_number) AS line_number,
        NULLIF(from_outcomes.reason, 'orphaned_account') AS from_reason,
        NULLIF(to_outcomes.reason, 'orphaned_account') AS to_reason,
        to_outcomes.winner_object_id,
        to_outcomes.winner_line_number
    FROM from_outcomes
    FULL OUTER JOIN to_outcomes
        ON
            from_outcomes.object_id = to_outcomes.object_id
            AND from_outcomes.line_number = to_outcomes.line_number
    WHERE
        from_outcomes.reason IS DISTINCT FROM 'orphaned_account'
        OR to_outcomes.reason IS DISTINCT FROM 'orphaned_account'
),

taken_places AS (
    SELECT
        winner_object_id AS object_id,
        winner_line_number AS line_number,
        MIN(to_reason) AS reason
    FROM paired_outcomes
    WHERE from_reason IS NULL AND winner_object_id IS NOT NULL
    GROUP BY winner_object_id, winner_line_number
)

SELECT
    paired_outcomes.object_id,
    paired_outcomes.line_number,
    paired_outcomes.from_reason IS NULL AS is_counted_from,
    paired_outcomes.to_reason IS NULL AS is_counted_to,
    COALESCE(
        paired_outcomes.to_reason, taken_places.reason, paired_outcomes.from_reason, 'orphaned_account'
    ) AS reason
FROM paired_outcomes
LEFT JOIN taken_places USING (object_id, line_number)
ORDER BY paired_outcomes.object_id, paired_outcomes.line_number
