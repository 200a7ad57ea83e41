-- night_skus: one row per SKU, currency and cause: what a night added to the drafts, and the night before it.
--
-- Grain:   sku, currency, cause
-- Reads:   night_lines, earlier_night_lines
-- Params:  none
--
-- A SKU that only one of the nights has is zero in the other one.

WITH

both_nights AS (
    SELECT
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
    sku,
    currency,
    cause,
    COALESCE(MAX(unit), '') AS unit,
    SUM(quantity) AS quantity,
    SUM(quantity_before) AS quantity_before,
    SUM(amount) AS amount,
    SUM(amount_before) AS amount_before
FROM both_nights
GROUP BY sku, currency, cause
ORDER BY sku, currency, cause
