-- external_matches: one row per account and SKU of an external report: its figures beside usage and lines.
--
-- Grain:   account_id, sku
-- Reads:   external_figures, external_days, usage, period_usage, billed_meters, line_items
-- Params:  $by_account  BOOLEAN  whether the report names accounts
--          $by_day      BOOLEAN  whether it is by day, or else about the whole period
--          $currency    VARCHAR  of its amounts
--
-- Of a report without accounts all accounts are added up, and their name is empty.
-- Quantities are in the unit that the meter counts in, so what is billed per million is multiplied again,
-- exactly. By day, only days that both sides have are compared; what is on the newest of them is shown
-- apart, because a report may not have that day in full. SKUs that the report never names are not its
-- subject. What one side does not have is null, never zero.

WITH

external_sums AS (
    SELECT
        external_figures.account_id,
        external_figures.sku,
        SUM(external_figures.quantity) AS quantity,
        SUM(external_figures.quantity) FILTER (WHERE NOT external_days.is_newest) AS earlier_quantity,
        SUM(external_figures.amount) AS amount
    FROM external_figures
    INNER JOIN external_days ON external_figures.used_on = external_days.used_on
    GROUP BY external_figures.account_id, external_figures.sku
),

reported_skus AS (
    SELECT DISTINCT sku
    FROM external_figures
),

used_quantities AS (
    SELECT
        usage.account_id,
        usage.sku,
        usage.value_sum AS quantity,
        external_days.is_newest
    FROM usage
    INNER JOIN external_days
        ON STRFTIME(usage.grain_start AT TIME ZONE 'UTC', '%Y-%m-%d') = external_days.used_on
    WHERE $by_day
    UNION ALL
    SELECT
        period_usage.account_id,
        period_usage.sku,
        CAST(period_usage.quantity AS DECIMAL(29, 9))
        * CAST(billed_meters.divisor AS DECIMAL(9, 0)) AS quantity,
        FALSE AS is_newest
    FROM period_usage
    INNER JOIN billed_meters ON period_usage.sku = billed_meters.sku
    WHERE NOT $by_day
),

usage_sums AS (
    SELECT
        CASE WHEN $by_account THEN account_id ELSE '' END AS account_id,
        sku,
        SUM(quantity) AS quantity,
        SUM(quantity) FILTER (WHERE NOT is_newest) AS earlier_quantity
    FROM used_quantities
    SEMI JOIN reported_skus USING (sku)
    GROUP BY CASE WHEN $by_account THEN account_id ELSE '' END, sku
),

line_sums AS (
    SELECT
        CASE WHEN $by_account THEN line_items.account_id ELSE '' END AS account_id,
        line_items.sku,
        SUM(
            CAST(line_items.quantity AS DECIMAL(29, 9))
            * CAST(COALESCE(billed_meters.divisor, 1) AS DECIMAL(9, 0))
        ) AS quantity,
        SUM(line_items.amount) FILTER (WHERE line_items.currency = $currency) AS amount
    FROM line_items
    LEFT JOIN billed_meters ON line_items.sku = billed_meters.sku
    SEMI JOIN reported_skus ON line_items.sku = reported_skus.sku
    GROUP BY CASE WHEN $by_account THEN line_items.account_id ELSE '' END, line_items.sku
),

all_keys AS (
    SELECT
        account_id,
        sku
    FROM external_sums
    UNION
    SELECT
        account_id,
        sku
    FROM usage_sums
    UNION
    SELECT
        account_id,
        sku
    FROM line_sums
)

SELECT
    all_keys.account_id,
    all_keys.sku,
    external_sums.quantity AS external_quantity,
    usage_sums.quantity AS usage_quantity,
    COALESCE(external_sums.earlier_quantity, 0) AS earlier_external_quantity,
    COALESCE(usage_sums.earlier_quantity, 0) AS earlier_usage_quantity,
    line_sums.quantity AS line_item_quantity,
    external_sums.amount AS external_amount,
    line_sums.amount AS line_item_amount
FROM all_keys
LEFT JOIN external_sums USING (account_id, sku)
LEFT JOIN usage_sums USING (account_id, sku)
LEFT JOIN line_sums USING (account_id, sku)
ORDER BY all_keys.account_id, all_keys.sku
