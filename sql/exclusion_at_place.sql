-- exclusion_at_place: one row per excluded event of a place: the line of an object that was read.
--
-- Grain:   object_id, line_number
-- Reads:   excluded_events
-- Params:  $object_id    VARCHAR  the object
--          $line_number  BIGINT   the line, 1 is the first physical one
--
-- An event of a window is excluded for one reason, or it is billed and has no row here.

SELECT
    object_id,
    line_number,
    reason,
    winner_object_id,
    winner_line_number
FROM excluded_events
WHERE
    object_id = $object_id
    AND line_number = $line_number
ORDER BY object_id, line_number
