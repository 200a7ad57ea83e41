-- projected_amounts: one row per account: what the lines rated from projected usage add up to.
--
-- Grain:   account_id
-- Reads:   rated_lines
-- Params:  none
--
-- The lines of an account have one currency. They are never published, only their sum is.

SELECT
    CAST(account_id AS VARCHAR) AS account_id,
    SUM(amount) AS amount
FROM rated_lines
GROUP BY account_id
ORDER BY account_id
