-- unbilled_replacements: one row per replacement that takes an event back and is not billed itself, and why.
--
-- Grain:   object_id, line_number
-- Reads:   excluded_events, effective_replacements
-- Params:  none
--
-- What a customer took back is not billed, whatever is wrong with what was to take its place; so somebody has
-- to be told. One that was taken back itself is as the producer wants it, and not told.

SELECT
    excluded_events.object_id,
    excluded_events.line_number,
    excluded_events.reason
FROM excluded_events
INNER JOIN effective_replacements USING (object_id, line_number)
WHERE excluded_events.reason <> 'voided'
ORDER BY excluded_events.object_id, excluded_events.line_number
