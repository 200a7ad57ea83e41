-- night_lines: one row per account, period, SKU, currency and cause: what a draft has more than another.
--
-- Grain:   account_id, period_id, sku, currency, cause
-- Reads:   lines_now, lines_before, recounted_usage
-- Params:  none
--
-- Each line differs for one cause, the first that is true of it, so that the causes add up to the change
-- to the cent: a line that a period has whatever is used (fees), another line that is no price of usage
-- (terms), another price (price), usage of other windows that is counted otherwise than before
-- (other_windows), else the usage of the window itself (usage).

WITH

signed_lines AS (
    SELECT
        account_id,
        period_id,
        sku,
        currency,
        line_item_id,
        kind,
        unit,
        unit_price,
        per_units,
        quantity,
        amount
    FROM lines_now
    UNION ALL
    SELECT
        account_id,
        period_id,
        sku,
        currency,
        line_item_id,
        kind,
        unit,
        unit_price,
        per_units,
        -quantity AS quantity,
        -amount AS amount
    FROM lines_before
),

changed_lines AS (
    SELECT
        account_id,
        period_id,
        sku,
        currency,
        kind,
        COUNT(DISTINCT unit_price) > 1 OR COUNT(DISTINCT per_units) > 1 AS has_other_price,
        CASE WHEN kind IN ('usage', 'included') THEN MAX(unit) END AS unit,
        SUM(quantity) AS quantity,
        SUM(amount) AS amount
    FROM signed_lines
    GROUP BY account_id, period_id, sku, currency, line_item_id, kind
    HAVING SUM(quantity) <> 0 OR SUM(amount) <> 0
),

caused_lines AS (
    SELECT
        changed_lines.*,
        CASE
            WHEN kind IN ('flat_fee', 'minimum', 'commitment') THEN 'fees'
            WHEN kind NOT IN ('usage', 'included') THEN 'terms'
            WHEN has_other_price THEN 'price'
            WHEN recounted_usage.account_id IS NOT NULL THEN 'other_windows'
            ELSE 'usage'
        END AS cause
    FROM changed_lines
    LEFT JOIN recounted_usage USING (account_id, sku)
)

SELECT
    account_id,
    period_id,
    sku,
    currency,
    cause,
    MAX(unit) AS unit,
    SUM(quantity) AS quantity,
    SUM(amount) AS amount
FROM caused_lines
GROUP BY account_id, period_id, sku, currency, cause
ORDER BY account_id, period_id, sku, currency, cause
