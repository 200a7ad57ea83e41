-- line_item_quantities: one row per SKU and unit: the usage of the billing period beside its line items.
--
-- Grain:   sku, unit
-- Reads:   period_usage, line_items, segment_days
-- Params:  none
--
-- Tiers split the usage of an account into several line items, so they are added up again first. Usage of
-- zero makes no line item and ties with none. A sum over accounts could hide usage billed to the wrong
-- one, so the accounts that tie by themselves are counted too. Of a period in several segments, what is not
-- additive was rated by its share of the days, half up at nine decimals; in a matrix once for each cell,
-- which may differ by half a billionth for each of its rows.

WITH

account_line_items AS (
    SELECT
        account_id,
        sku,
        unit,
        SUM(quantity) AS quantity
    FROM line_items
    WHERE quantity <> 0
    GROUP BY account_id, sku, unit
),

segment_usage AS (
    SELECT
        period_usage.account_id,
        period_usage.sku,
        period_usage.unit,
        COALESCE(segment_days.segment_count > 1, FALSE)
        AND period_usage.aggregation NOT IN ('sum', 'count', 'time_weighted_sum', 'sum_of_maxima')
            AS is_prorated,
        segment_days.active_days,
        CAST(segment_days.days AS HUGEINT) AS days,
        SUM(period_usage.quantity) AS quantity,
        COUNT(*) AS row_count
    FROM period_usage
    LEFT JOIN segment_days USING (account_id, segment)
    GROUP BY
        period_usage.account_id,
        period_usage.sku,
        period_usage.unit,
        period_usage.segment,
        period_usage.aggregation,
        segment_days.segment_count,
        segment_days.active_days,
        segment_days.days
),

shared_usage AS (
    SELECT
        *,
        CASE
            WHEN is_prorated
                THEN CAST(REPLACE(CAST(ABS(quantity) * active_days AS VARCHAR), '.', '') AS HUGEINT)
        END AS billionth_days
    FROM segment_usage
),

account_usage AS (
    SELECT
        account_id,
        sku,
        unit,
        SUM(
            CASE
                WHEN is_prorated
                    THEN SIGN(quantity) * 0.000000001 * (
                        billionth_days // days
                        + CAST(2 * (billionth_days % days) >= days AS HUGEINT)
                    )
                ELSE quantity
            END
        ) AS quantity,
        SUM(CASE WHEN is_prorated AND row_count > 1 THEN row_count ELSE 0 END) AS rounded_count
    FROM shared_usage
    GROUP BY account_id, sku, unit
),

compared_quantities AS (
    SELECT
        COALESCE(account_usage.sku, account_line_items.sku) AS sku,
        COALESCE(account_usage.unit, account_line_items.unit) AS unit,
        COALESCE(account_usage.quantity, 0) AS usage_quantity,
        COALESCE(account_line_items.quantity, 0) AS line_item_quantity,
        COALESCE(account_usage.rounded_count, 0) AS rounded_count
    FROM account_usage
    FULL JOIN account_line_items USING (account_id, sku, unit)
),

account_pairs AS (
    SELECT
        sku,
        unit,
        CASE
            WHEN
                rounded_count > 0
                AND ABS(usage_quantity - line_item_quantity) <= 0.000000001 * rounded_count
                THEN line_item_quantity
            ELSE usage_quantity
        END AS usage_quantity,
        line_item_quantity
    FROM compared_quantities
)

SELECT
    sku,
    unit,
    SUM(usage_quantity) AS usage_quantity,
    SUM(line_item_quantity) AS line_item_quantity,
    COUNT(*) AS pair_count,
    COUNT(*) FILTER (WHERE usage_quantity = line_item_quantity) AS tied_count
FROM account_pairs
GROUP BY sku, unit
ORDER BY sku, unit
