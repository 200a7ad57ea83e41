-- night_accounts: one row per account and currency: what a night added to the drafts, and the one before.
--
-- Grain:   currency, account_id
-- Reads:   night_lines, earlier_night_lines
-- Params:  $rows_max  BIGINT  how many accounts of each currency
--
-- Amounts are those of usage lines, so that a fee of a period moves no account; fees and other terms are
-- apart. Those whose usage lines differ most come first, up or down; equal ones in order of account.

WITH

both_nights AS (
    SELECT
        account_id,
        currency,
        cause IN ('fees', 'terms') AS is_terms,
        amount,
        0 AS amount_before
    FROM night_lines
    UNION ALL
    SELECT
        account_id,
        currency,
        cause IN ('fees', 'terms') AS is_terms,
        0 AS amount,
        amount AS amount_before
    FROM earlier_night_lines
),

accounts AS (
    SELECT
        account_id,
        currency,
        SUM(CASE WHEN is_terms THEN 0 ELSE amount END) AS amount,
        SUM(CASE WHEN is_terms THEN 0 ELSE amount_before END) AS amount_before,
        SUM(CASE WHEN is_terms THEN amount ELSE 0 END) AS terms_amount,
        SUM(CASE WHEN is_terms THEN amount_before ELSE 0 END) AS terms_amount_before
    FROM both_nights
    GROUP BY account_id, currency
),

ranked_accounts AS (
    SELECT
        *,
        COUNT(*) OVER () AS moved_count,
        ROW_NUMBER() OVER (
            PARTITION BY currency
            ORDER BY
                ABS(amount - amount_before) DESC,
                ABS(terms_amount - terms_amount_before) DESC,
                account_id ASC
        ) AS place
    FROM accounts
    WHERE amount <> amount_before OR terms_amount <> terms_amount_before
)

SELECT
    account_id,
    currency,
    amount,
    amount_before,
    terms_amount,
    terms_amount_before,
    moved_count
FROM ranked_accounts
WHERE place <= $rows_max
ORDER BY currency, place
