-- excluded_quantities: one row per SKU, unit and reason: how much quantity the reason kept off the bill.
--
-- Grain:   sku, unit, reason
-- Reads:   event_quantities, excluded_events
-- Params:  none
--
-- An exclusion takes the whole event, so it takes quantity from every SKU that the event feeds. An event
-- that no meter counts, or whose value cannot be read, takes none.

SELECT
    event_quantities.sku,
    event_quantities.unit,
    excluded_events.reason,
    COALESCE(SUM(event_quantities.quantity), 0) AS quantity
FROM event_quantities
INNER JOIN excluded_events USING (object_id, line_number)
GROUP BY event_quantities.sku, event_quantities.unit, excluded_events.reason
ORDER BY event_quantities.sku, event_quantities.unit, excluded_events.reason
