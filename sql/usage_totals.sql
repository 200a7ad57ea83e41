-- usage_totals: one row per SKU and unit: the usage of all accounts and grains together.
--
-- Grain:   sku, unit
-- Reads:   usage
-- Params:  none
--
-- The quantity that was billed event by event and the quantity that was counted must be the same one.

SELECT
    sku,
    unit,
    SUM(quantity) AS quantity,
    CAST(SUM(event_count) AS BIGINT) AS event_count
FROM usage
GROUP BY sku, unit
ORDER BY sku, unit
