-- kind_amounts: one row per SKU, unit, currency and kind of line: what the line items of a period add up to.
--
-- Grain:   sku, unit, currency, kind
-- Reads:   line_items
-- Params:  none
--
-- Exact amounts, rounded ones and residuals are added up apart from each other, so that the report's road
-- from prices to line items is evidence.

SELECT
    sku,
    unit,
    currency,
    kind,
    COUNT(*) AS line_item_count,
    SUM(quantity) AS quantity,
    SUM(amount_exact) AS amount_exact,
    SUM(amount) AS amount,
    SUM(residual) AS residual
FROM line_items
GROUP BY sku, unit, currency, kind
ORDER BY sku, unit, currency, kind
