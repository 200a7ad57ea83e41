-- account_amounts: one row per account and currency: what its line items of a billing period add up to.
--
-- Grain:   account_id, currency
-- Reads:   line_items
-- Params:  none
--
-- Rounded amounts are added, never rounded again: an invoice is the sum of its lines.

SELECT
    account_id,
    currency,
    COUNT(*) AS line_item_count,
    SUM(amount) AS amount
FROM line_items
GROUP BY account_id, currency
ORDER BY account_id, currency
