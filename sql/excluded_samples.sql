-- excluded_samples: one row per excluded event, the first few of each reason.
--
-- Grain:   object_id, line_number
-- Reads:   excluded_events
-- Params:  $sample_rows  BIGINT  how many events of each reason (inclusive)
--
-- A reader judges a reason from a few events, not from all of them. Which ones is decided by their place
-- in the files, so a report made again shows the same.

SELECT
    object_id,
    line_number,
    source,
    id,
    type,
    subject,
    event_at,
    received_at,
    reason,
    winner_object_id,
    winner_line_number
FROM excluded_events
QUALIFY
    $sample_rows >= ROW_NUMBER() OVER (
        PARTITION BY reason
        ORDER BY object_id, line_number
    )
ORDER BY object_id, line_number
