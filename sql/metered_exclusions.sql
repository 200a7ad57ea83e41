-- metered_exclusions: one row per excluded event that no level goes on from.
--
-- Grain:   object_id, line_number
-- Reads:   found_exclusions
-- Params:  none
--
-- An event that nobody owns is billed to nobody, but the level that it sets is what the next owner goes on
-- with. So where levels are measured, events are metered without the other excluded ones only.

SELECT
    object_id,
    line_number
FROM found_exclusions
WHERE reason <> 'orphaned_account'
ORDER BY object_id, line_number
