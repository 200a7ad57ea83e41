-- usage_totals: one row per SKU and unit: the usage of all accounts and grains together.
--
-- Grain:   sku, unit
-- Reads:   usage
-- Params:  none
--
-- What the billed events add up to, one by one, and what was counted must be the same. The values are added,
-- not the quantities: maxima do not add up, the values they were taken from do.

SELECT
    sku,
    unit,
    SUM(value_sum) AS quantity,
    CAST(SUM(event_count) AS BIGINT) AS event_count
FROM usage
GROUP BY sku, unit
ORDER BY sku, unit
