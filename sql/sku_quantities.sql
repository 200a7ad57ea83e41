-- sku_quantities: one row per source, SKU and unit: what events that a meter counts add up to.
--
-- Grain:   contract, sku, unit
-- Reads:   event_quantities, ledger_objects
-- Params:  none
--
-- Run on the raw events of the window this is what was received; run on the billed events it is what is
-- billed. An event whose value cannot be read adds no quantity, and is counted as such.

SELECT
    COALESCE(ledger_objects.contract, '') AS contract,
    event_quantities.sku,
    event_quantities.unit,
    COALESCE(SUM(event_quantities.quantity), 0) AS quantity,
    COUNT(*) AS event_count,
    COUNT(*) FILTER (WHERE event_quantities.quantity IS NULL) AS unreadable_count
FROM event_quantities
LEFT JOIN ledger_objects USING (object_id)
GROUP BY COALESCE(ledger_objects.contract, ''), event_quantities.sku, event_quantities.unit
ORDER BY contract, event_quantities.sku, event_quantities.unit
