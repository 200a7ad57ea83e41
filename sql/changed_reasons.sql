-- changed_reasons: one row per reason why two revisions of a window do not count the same events alike.
--
-- Grain:   reason
-- Reads:   compared_outcomes
-- Params:  none
--
-- A reason for which neither revision counts an event changes no quantity.

SELECT DISTINCT reason
FROM compared_outcomes
WHERE
    is_counted_from <> is_counted_to
    OR reason = 'orphaned_account'
ORDER BY reason
