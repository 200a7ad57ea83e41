-- estimate_errors: one row per currency: how many accounts were estimated close to what their lines came to.
--
-- Grain:   currency
-- Reads:   estimates, line_items
-- Params:  $within  BIGINT  how far from its lines an estimate may be (inclusive), in hundredths of a percent
--
-- An account without a forecast was not estimated, so it is not counted; one without lines came to nothing.

WITH

account_totals AS (
    SELECT
        account_id,
        currency,
        SUM(amount) AS amount
    FROM line_items
    GROUP BY account_id, currency
),

estimated_accounts AS (
    SELECT
        estimates.currency,
        ABS(estimates.forecast_amount - COALESCE(account_totals.amount, 0)) AS error_amount,
        ABS(COALESCE(account_totals.amount, 0)) AS final_amount
    FROM estimates
    LEFT JOIN account_totals
        ON
            estimates.account_id = account_totals.account_id
            AND estimates.currency = account_totals.currency
    WHERE estimates.forecast_amount IS NOT NULL
)

SELECT
    currency,
    COUNT(*) AS account_count,
    COUNT(*) FILTER (
        WHERE CAST(error_amount AS DECIMAL(30, 4)) * 10000
        <= CAST(final_amount AS DECIMAL(30, 4)) * CAST($within AS BIGINT)
    ) AS close_count,
    SUM(error_amount) AS error_amount,
    SUM(final_amount) AS final_amount
FROM estimated_accounts
GROUP BY currency
ORDER BY currency
