-- exclusion_counts: one row per reason: how many raw events of the window it kept off the bill.
--
-- Grain:   reason
-- Reads:   excluded_events
-- Params:  none
--
-- A late event is carried to the next revision, so a count of `late` says that one is due.

SELECT
    reason,
    COUNT(*) AS event_count
FROM excluded_events
GROUP BY reason
ORDER BY reason
