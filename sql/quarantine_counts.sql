-- quarantine_counts: one row per reason: how many lines of the night were quarantined for it.
--
-- Grain:   reason
-- Reads:   ledger_objects, quarantine
-- Params:  none
--
-- A quarantined line may have no event time, so it has no window. It is counted by the night that
-- received its object.

SELECT
    quarantine.reason,
    COUNT(*) AS line_count
FROM quarantine
INNER JOIN ledger_objects USING (object_id)
WHERE ledger_objects.is_of_night
GROUP BY quarantine.reason
ORDER BY quarantine.reason
