-- sku_quantities: one row per SKU and unit: what all events that a meter counts add up to.
--
-- Grain:   sku, unit
-- Reads:   event_quantities
-- Params:  none
--
-- Run on the raw events of the window this is what was received; run on the billed events it is what is
-- billed. An event whose value cannot be read adds no quantity, and is counted as such.

SELECT
    sku,
    unit,
    COALESCE(SUM(quantity), 0) AS quantity,
    COUNT(*) AS event_count,
    COUNT(*) FILTER (WHERE quantity IS NULL) AS unreadable_count
FROM event_quantities
GROUP BY sku, unit
ORDER BY sku, unit
