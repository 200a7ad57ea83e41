-- excluded_quantities: one row per source, SKU, unit and reason: the quantity the reason kept off the bill.
--
-- Grain:   contract, sku, unit, reason
-- Reads:   event_quantities, excluded_events, ledger_objects
-- Params:  none
--
-- An exclusion takes the whole event, so it takes quantity from every SKU that the event feeds. An event
-- that no meter counts, or whose value cannot be read, takes none.

SELECT
    COALESCE(ledger_objects.contract, '') AS contract,
    event_quantities.sku,
    event_quantities.unit,
    excluded_events.reason,
    COALESCE(SUM(event_quantities.quantity), 0) AS quantity
FROM event_quantities
INNER JOIN excluded_events USING (object_id, line_number)
LEFT JOIN ledger_objects ON event_quantities.object_id = ledger_objects.object_id
GROUP BY
    COALESCE(ledger_objects.contract, ''),
    event_quantities.sku,
    event_quantities.unit,
    excluded_events.reason
ORDER BY contract, event_quantities.sku, event_quantities.unit, excluded_events.reason
