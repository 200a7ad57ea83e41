-- account_history: one row per account and SKU: what it used in the windows that one is compared with.
--
-- Grain:   account_id, sku
-- Reads:   usage_history
-- Params:  $window_length  INTERVAL  length of the billing window
--
-- Only what is summed or counted adds up over windows; a level or a maximum is not looked at. A window
-- without usage of the SKU has no row, so window_count says in how many windows there was some.

SELECT
    account_id,
    sku,
    SUM(value_sum) AS quantity,
    CAST(SUM(event_count) AS BIGINT) AS event_count,
    COUNT(DISTINCT EPOCH_US(grain_start) // EPOCH_US(CAST($window_length AS INTERVAL))) AS window_count
FROM usage_history
WHERE aggregation IN ('sum', 'count')
GROUP BY account_id, sku
ORDER BY account_id, sku
