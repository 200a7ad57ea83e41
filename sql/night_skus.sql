-- night_skus: one row per period, SKU, currency and cause: what a night added to the drafts, and before.
--
-- Grain:   period_id, sku, currency, cause
-- Reads:   night_lines, earlier_night_lines
-- Params:  none
--
-- A SKU that only one of the nights has is zero in the other one.

WITH

both_nights AS (
    SELECT
        period_id,
        sku,
        currency,
        cause,
        unit,
        quantity,
        amount,
        0 AS quantity_before,
        0 AS amount_before
    FROM night_lines
    UNION ALL
    SELECT
        period_id,
        sku,
        currency,
        cause,
        unit,
        0 AS quantity,
        0 AS amount,
        quantity AS quantity_before,
        amount AS amount_before
    FROM earlier_night_lines
)

SELECT
    period_id,
    sku,
    currency,
    cause,
    COALESCE(MAX(unit), '') AS unit,
    SUM(quantity) AS quantity,
    SUM(quantity_before) AS quantity_before,
    SUM(amount) AS amount,
    SUM(amount_before) AS amount_before
FROM both_nights
GROUP BY period_id, sku, currency, cause
ORDER BY period_id, sku, currency, cause
