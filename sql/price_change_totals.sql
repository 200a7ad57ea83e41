-- price_change_totals: one row per currency, and in it per plan and per SKU: what other prices change.
--
-- Grain:   currency, total_of, grouped_by
-- Reads:   price_changes
-- Params:  none
--
-- Each of `all`, `plan` and `sku` adds up to the same: they are the same rows, grouped otherwise. An account
-- is changed where it pays another amount for the whole group; it may gain on one SKU and lose on another.

WITH

account_changes AS (
    SELECT
        currency,
        CASE
            WHEN GROUPING(plan) = 0 THEN 'plan'
            WHEN GROUPING(sku) = 0 THEN 'sku'
            ELSE 'all'
        END AS total_of,
        COALESCE(plan, sku) AS grouped_by,
        account_id,
        SUM(amount_now) AS amount_now,
        SUM(amount_then) AS amount_then,
        SUM(amount_change) AS amount_change
    FROM price_changes
    GROUP BY GROUPING SETS ((currency, account_id), (currency, account_id, plan), (currency, account_id, sku))
)

SELECT
    currency,
    total_of,
    grouped_by,
    COUNT(*) AS account_count,
    COUNT(*) FILTER (WHERE amount_change <> 0) AS changed_account_count,
    SUM(amount_now) AS amount_now,
    SUM(amount_then) AS amount_then,
    SUM(amount_change) AS amount_change
FROM account_changes
GROUP BY currency, total_of, grouped_by
ORDER BY currency, total_of, grouped_by
