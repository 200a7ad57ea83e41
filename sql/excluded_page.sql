-- excluded_page: one row per excluded event of a reason, the first ones after a given place.
--
-- Grain:   object_id, line_number
-- Reads:   excluded_events
-- Params:  $reason        VARCHAR  the reason
--          $after_object  VARCHAR  object of the last event that was shown (exclusive)
--          $after_line    BIGINT   line of the last event that was shown (exclusive)
--          $row_count     BIGINT   how many events (inclusive)
--
-- The report counts the reasons and shows samples; who asks which events these are gets every one of them.

WITH

events_of_reason AS (
    SELECT
        *,
        COUNT(*) OVER () AS event_count_in_all
    FROM excluded_events
    WHERE reason = $reason
),

shown_events AS (
    SELECT *
    FROM events_of_reason
    WHERE (object_id, line_number) > ($after_object, $after_line)
    ORDER BY object_id, line_number
    LIMIT $row_count
)

SELECT
    object_id,
    line_number,
    source,
    id,
    type,
    subject,
    event_at,
    received_at,
    winner_object_id,
    winner_line_number,
    event_count_in_all
FROM shown_events
ORDER BY object_id, line_number
