-- price_change_accounts: one row per account whose amount changes most, in each currency and direction.
--
-- Grain:   currency, direction, rank_number
-- Reads:   price_changes
-- Params:  $shown  BIGINT  how many accounts of each currency and direction
--
-- `more` are accounts that would pay more, the greatest increase first; `less` those that would pay less.

WITH

account_changes AS (
    SELECT
        currency,
        account_id,
        CASE WHEN SUM(amount_change) > 0 THEN 'more' ELSE 'less' END AS direction,
        SUM(amount_now) AS amount_now,
        SUM(amount_then) AS amount_then,
        SUM(amount_change) AS amount_change
    FROM price_changes
    GROUP BY currency, account_id
    HAVING SUM(amount_change) <> 0
)

SELECT
    currency,
    direction,
    ROW_NUMBER()
        OVER (PARTITION BY currency, direction ORDER BY ABS(amount_change) DESC, account_id)
        AS rank_number,
    account_id,
    amount_now,
    amount_then,
    amount_change
FROM account_changes
QUALIFY rank_number <= $shown
ORDER BY currency, direction, rank_number
