-- price_change_totals: one row per currency, and in it per plan and per SKU: what other prices change.
--
-- Grain:   currency, total_of, grouped_by
-- Reads:   price_changes
-- Params:  none
--
-- Each of `all`, `plan` and `sku` adds up to the same: they are the same rows, grouped otherwise.

SELECT
    currency,
    CASE
        WHEN GROUPING(plan) = 0 THEN 'plan'
        WHEN GROUPING(sku) = 0 THEN 'sku'
        ELSE 'all'
    END AS total_of,
    COALESCE(plan, sku) AS grouped_by,
    COUNT(DISTINCT account_id) AS account_count,
    COUNT(DISTINCT account_id) FILTER (WHERE amount_change <> 0) AS changed_account_count,
    SUM(amount_now) AS amount_now,
    SUM(amount_then) AS amount_then,
    SUM(amount_change) AS amount_change
FROM price_changes
GROUP BY GROUPING SETS ((currency), (currency, plan), (currency, sku))
ORDER BY currency, total_of, grouped_by
