-- billed_quantities: one row per source, SKU and unit: what the billed events add up to.
--
-- Grain:   contract, sku, unit
-- Reads:   usage_events, event_quantities, ledger_objects
-- Params:  none
--
-- Counted from the events that are billed, not from what was left over: what was received has to be this
-- and what was excluded, to the last digit.

SELECT
    COALESCE(ledger_objects.contract, '') AS contract,
    event_quantities.sku,
    event_quantities.unit,
    COALESCE(SUM(event_quantities.quantity), 0) AS quantity,
    COUNT(*) AS event_count
FROM usage_events
INNER JOIN event_quantities USING (object_id, line_number)
LEFT JOIN ledger_objects ON usage_events.object_id = ledger_objects.object_id
GROUP BY COALESCE(ledger_objects.contract, ''), event_quantities.sku, event_quantities.unit
ORDER BY contract, event_quantities.sku, event_quantities.unit
