-- event_at_place: one row per raw event of a place: the line of an object that was read.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events
-- Params:  $object_id    VARCHAR  the object
--          $line_number  BIGINT   the line, 1 is the first physical one
--
-- A place has one event, or none if the line is in quarantine or blank.

SELECT
    object_id,
    line_number,
    source,
    id,
    type,
    subject,
    event_at,
    received_at,
    quantity,
    data
FROM raw_events
WHERE
    object_id = $object_id
    AND line_number = $line_number
ORDER BY object_id, line_number
