-- period_usage: one row per account, SKU and unit: what the account used in its billing period.
--
-- Grain:   account_id, sku, unit
-- Reads:   usage, account_periods
-- Params:  none
--
-- A billing period is a calendar month in the account's own time zone, so every account has its own
-- bounds. They fall on grains, so a row of usage belongs to one period as a whole. Rating starts from
-- these sums: rounding each grain, or each event, would make another bill. Usage of an account that has
-- no period, because it left the directory since, is kept for rating to refuse: it is never dropped.

SELECT
    usage.account_id,
    usage.sku,
    usage.unit,
    SUM(usage.quantity) AS quantity
FROM usage
LEFT JOIN account_periods ON usage.account_id = account_periods.account_id
WHERE
    account_periods.account_id IS NULL
    OR (
        usage.grain_start >= account_periods.period_start
        AND usage.grain_start < account_periods.period_end
    )
GROUP BY usage.account_id, usage.sku, usage.unit
ORDER BY usage.account_id, usage.sku, usage.unit
