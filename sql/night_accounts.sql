-- night_accounts: one row per account and currency: what a night added to the drafts, and the one before.
--
-- Grain:   currency, account_id
-- Reads:   night_lines, earlier_night_lines
-- Params:  $rows_max  BIGINT  how many accounts of each currency
--
-- Those whose nights differ most come first, up or down; equal ones in order of account.

WITH

both_nights AS (
    SELECT
        account_id,
        currency,
        amount,
        0 AS amount_before
    FROM night_lines
    UNION ALL
    SELECT
        account_id,
        currency,
        0 AS amount,
        amount AS amount_before
    FROM earlier_night_lines
),

accounts AS (
    SELECT
        account_id,
        currency,
        SUM(amount) AS amount,
        SUM(amount_before) AS amount_before,
        SUM(amount) - SUM(amount_before) AS amount_change
    FROM both_nights
    GROUP BY account_id, currency
    HAVING SUM(amount) <> SUM(amount_before)
),

ranked_accounts AS (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY currency
            ORDER BY ABS(amount_change) DESC, account_id ASC
        ) AS place
    FROM accounts
)

SELECT
    account_id,
    currency,
    amount,
    amount_before
FROM ranked_accounts
WHERE place <= $rows_max
ORDER BY currency, place
