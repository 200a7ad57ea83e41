-- named_events: one row per raw event whose key a withdrawal names.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events, named_keys
-- Params:  none
--
-- Withdrawals are few and may come at any distance of time, so all of them are held against the events. When
-- an event was received says whether a withdrawal still acts on it; that is decided elsewhere.

SELECT
    raw_events.object_id,
    raw_events.line_number,
    raw_events.source,
    raw_events.id,
    raw_events.event_at,
    raw_events.received_at
FROM raw_events
INNER JOIN named_keys USING (source, id)
ORDER BY raw_events.object_id, raw_events.line_number
