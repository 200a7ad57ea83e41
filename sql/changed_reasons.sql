-- changed_reasons: one row per reason why one of two revisions bills an event and the other does not.
--
-- Grain:   reason
-- Reads:   compared_outcomes
-- Params:  none
--
-- A reason for which neither revision bills an event changes no quantity.

SELECT DISTINCT reason
FROM compared_outcomes
WHERE is_billed_from <> is_billed_to
ORDER BY reason
