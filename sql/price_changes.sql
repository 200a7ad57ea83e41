-- price_changes: one row per period, account, plan, SKU and currency: what it costs, and under other prices.
--
-- Grain:   period_id, account_id, currency, plan, sku
-- Reads:   line_items, other_line_items
-- Params:  none
--
-- Both are rated from the same usage; what only one of the two has a price for counts as zero in the other.

SELECT
    period_id,
    account_id,
    currency,
    plan,
    sku,
    SUM(amount_now) AS amount_now,
    SUM(amount_then) AS amount_then,
    SUM(amount_then) - SUM(amount_now) AS amount_change
FROM (
    SELECT
        period_id,
        account_id,
        currency,
        plan,
        sku,
        amount AS amount_now,
        0 AS amount_then
    FROM line_items
    UNION ALL
    SELECT
        period_id,
        account_id,
        currency,
        plan,
        sku,
        0 AS amount_now,
        amount AS amount_then
    FROM other_line_items
) AS lines_of_both
GROUP BY period_id, account_id, currency, plan, sku
ORDER BY period_id, account_id, currency, plan, sku
