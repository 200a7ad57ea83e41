-- billed_quantities: one row per SKU and unit: what the billed events add up to.
--
-- Grain:   sku, unit
-- Reads:   usage_events, event_quantities
-- Params:  none
--
-- Counted from the events that are billed, not from what was left over: what was received has to be this
-- and what was excluded, to the last digit.

SELECT
    event_quantities.sku,
    event_quantities.unit,
    COALESCE(SUM(event_quantities.quantity), 0) AS quantity,
    COUNT(*) AS event_count
FROM usage_events
INNER JOIN event_quantities USING (object_id, line_number)
GROUP BY event_quantities.sku, event_quantities.unit
ORDER BY event_quantities.sku, event_quantities.unit
