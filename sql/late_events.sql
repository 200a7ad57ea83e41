-- late_events: one row per raw event of the window that its revision leaves out as late.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events, excluded_events
-- Params:  none
--
-- An event is late before anything else is asked about it. These are judged once more as if they had been
-- on time, so that nobody waits for what the next revision excludes for another reason.

SELECT
    raw_events.object_id,
    raw_events.line_number,
    raw_events.source,
    raw_events.id,
    raw_events.type,
    raw_events.subject,
    raw_events.event_at,
    raw_events.received_at,
    raw_events.quantity,
    raw_events.data,
    raw_events.key_hash,
    raw_events.payload_hash
FROM raw_events
INNER JOIN excluded_events USING (object_id, line_number)
WHERE excluded_events.reason = 'late'
ORDER BY raw_events.object_id, raw_events.line_number
