-- line_item_amounts: one row per currency: what the line items of a billing period add up to.
--
-- Grain:   currency
-- Reads:   line_items
-- Params:  none
--
-- The exact amounts, the rounded ones and the residuals are added up apart from each other, so that the
-- equation between them is evidence.

SELECT
    currency,
    COUNT(*) AS line_item_count,
    COUNT(DISTINCT account_id) AS account_count,
    SUM(amount_exact) AS amount_exact,
    SUM(amount) AS amount,
    SUM(residual) AS residual
FROM line_items
GROUP BY currency
ORDER BY currency
