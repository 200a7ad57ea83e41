-- line_item_quantities: one row per SKU and unit: the usage of the billing period beside its line items.
--
-- Grain:   sku, unit
-- Reads:   period_usage, line_items
-- Params:  none
--
-- Tiers split the usage of an account into several line items, so they are added up again first. Usage of
-- zero makes no line item and ties with none. A sum over accounts could hide usage billed to the wrong
-- one, so the accounts that tie by themselves are counted too.

WITH

account_line_items AS (
    SELECT
        account_id,
        sku,
        unit,
        SUM(quantity) AS quantity
    FROM line_items
    GROUP BY account_id, sku, unit
),

account_pairs AS (
    SELECT
        sku,
        unit,
        COALESCE(period_usage.quantity, 0) AS usage_quantity,
        COALESCE(account_line_items.quantity, 0) AS line_item_quantity
    FROM period_usage
    FULL JOIN account_line_items USING (account_id, sku, unit)
)

SELECT
    sku,
    unit,
    SUM(usage_quantity) AS usage_quantity,
    SUM(line_item_quantity) AS line_item_quantity,
    COUNT(*) AS pair_count,
    COUNT(*) FILTER (WHERE usage_quantity = line_item_quantity) AS tied_count
FROM account_pairs
GROUP BY sku, unit
ORDER BY sku, unit
