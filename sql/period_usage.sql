-- period_usage: one row per account, SKU, aggregation and unit: what the account used in its billing period.
--
-- Grain:   account_id, sku, aggregation, unit
-- Reads:   usage, usage_values, earlier_usage, billed_meters, account_periods
-- Params:  none
--
-- A billing period is a calendar month in the account's own time zone, so every account has its own
-- bounds. They fall on grains, so a row of usage belongs to one period as a whole. Each series (account, SKU,
-- dimensions) is aggregated over the period, then the quantity of the account is the sum of its series. It is
-- converted to the billed unit here, once, by an integer, and rounded once, half up at nine decimals; an
-- average is a quotient of its own, so it is rounded per series. Usage of an account that has no period,
-- because it left the directory since, is kept for rating to refuse: it is never dropped.

WITH

period_grains AS (
    SELECT usage.*
    FROM usage
    LEFT JOIN account_periods ON usage.account_id = account_periods.account_id
    WHERE
        account_periods.account_id IS NULL
        OR (
            usage.grain_start >= account_periods.period_start
            AND usage.grain_start < account_periods.period_end
        )
),

account_sums AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        '' AS rounded_series,
        SUM(value_sum) AS numerator,
        1 AS denominator
    FROM period_grains
    WHERE aggregation IN ('sum', 'count')
    GROUP BY account_id, sku, aggregation, unit
),

series_quantities AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        CASE WHEN aggregation = 'average' THEN dimensions ELSE '' END AS rounded_series,
        CASE aggregation
            WHEN 'max' THEN MAX(quantity)
            WHEN 'min' THEN MIN(quantity)
            WHEN 'latest' THEN ARG_MAX(latest_value, grain_start)
            ELSE SUM(value_sum)
        END AS numerator,
        CASE WHEN aggregation = 'average' THEN SUM(event_count) ELSE 1 END AS denominator
    FROM period_grains
    WHERE aggregation IN ('max', 'min', 'latest', 'average')
    GROUP BY account_id, sku, aggregation, unit, dimensions
),

-- Buckets count from the epoch; of one that the period's bound cuts, only the grains of the period count.
bucket_maxima AS (
    SELECT
        period_grains.account_id,
        period_grains.sku,
        period_grains.aggregation,
        period_grains.unit,
        MAX(period_grains.quantity) AS numerator
    FROM period_grains
    INNER JOIN billed_meters USING (sku, aggregation, unit)
    WHERE period_grains.aggregation = 'sum_of_maxima'
    GROUP BY
        period_grains.account_id,
        period_grains.sku,
        period_grains.aggregation,
        period_grains.unit,
        period_grains.dimensions,
        EPOCH_US(period_grains.grain_start) // (1000000 * billed_meters.bucket_seconds)
),

series_values AS (
    SELECT
        period_grains.account_id,
        period_grains.sku,
        period_grains.aggregation,
        period_grains.unit,
        period_grains.dimensions,
        usage_values.value_text,
        SUM(usage_values.event_count) AS event_count
    FROM period_grains
    INNER JOIN usage_values USING (account_id, sku, dimensions, grain_start)
    WHERE period_grains.aggregation IN ('unique_count', 'percentile')
    GROUP BY
        period_grains.account_id,
        period_grains.sku,
        period_grains.aggregation,
        period_grains.unit,
        period_grains.dimensions,
        usage_values.value_text
),

unique_counts AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        COUNT(*) AS numerator
    FROM series_values
    WHERE aggregation = 'unique_count'
    GROUP BY account_id, sku, aggregation, unit
),

sample_values AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        dimensions,
        CAST(value_text AS DECIMAL(38, 9)) AS sample_value,
        event_count
    FROM series_values
    WHERE aggregation = 'percentile'
),

ranked_samples AS (
    SELECT
        *,
        SUM(event_count) OVER (
            PARTITION BY account_id, sku, aggregation, unit, dimensions
            ORDER BY sample_value DESC
        ) AS count_down_to_sample,
        SUM(event_count) OVER (PARTITION BY account_id, sku, aggregation, unit, dimensions) AS sample_count
    FROM sample_values
),

-- Of n samples floor(n x (100 - percentile) %) are dropped from the top; the highest one left is billed.
percentiles AS (
    SELECT
        ranked_samples.account_id,
        ranked_samples.sku,
        ranked_samples.aggregation,
        ranked_samples.unit,
        MAX(ranked_samples.sample_value) AS numerator
    FROM ranked_samples
    INNER JOIN billed_meters USING (sku, aggregation, unit)
    WHERE
        ranked_samples.count_down_to_sample
        > (CAST(ranked_samples.sample_count AS HUGEINT) * (100 - billed_meters.percentile)) // 100
    GROUP BY
        ranked_samples.account_id,
        ranked_samples.sku,
        ranked_samples.aggregation,
        ranked_samples.unit,
        ranked_samples.dimensions
),

-- A level holds until the next event of its series, so the newest row before the period starts it; a SKU
-- that is no time-weighted sum any more has no level.
level_rows AS (
    SELECT usage.*
    FROM usage
    WHERE usage.aggregation = 'time_weighted_sum'
    UNION ALL
    SELECT earlier_usage.*
    FROM earlier_usage
    SEMI JOIN billed_meters
        ON
            earlier_usage.sku = billed_meters.sku
            AND earlier_usage.aggregation = billed_meters.aggregation
            AND earlier_usage.unit = billed_meters.unit
    WHERE earlier_usage.aggregation = 'time_weighted_sum'
),

level_spans AS (
    SELECT
        level_rows.account_id,
        level_rows.sku,
        level_rows.aggregation,
        level_rows.unit,
        level_rows.latest_value,
        level_rows.grain_start >= account_periods.period_start AS is_in_period,
        CASE
            WHEN level_rows.grain_start >= account_periods.period_start THEN level_rows.level_microseconds
            ELSE 0
        END AS level_microseconds,
        GREATEST(EPOCH_US(level_rows.latest_event_at), EPOCH_US(account_periods.period_start)) AS span_start,
        LEAST(
            EPOCH_US(
                LEAD(level_rows.first_event_at) OVER (
                    PARTITION BY level_rows.account_id, level_rows.sku, level_rows.unit, level_rows.dimensions
                    ORDER BY level_rows.grain_start
                )
            ),
            EPOCH_US(account_periods.levels_until)
        ) AS span_end
    FROM level_rows
    INNER JOIN account_periods ON level_rows.account_id = account_periods.account_id
    WHERE level_rows.grain_start < account_periods.period_end
),

time_weighted_sums AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        SUM(level_microseconds + latest_value * GREATEST(span_end - span_start, 0)) AS numerator
    FROM level_spans
    GROUP BY account_id, sku, aggregation, unit
    HAVING BOOL_OR(is_in_period) OR numerator <> 0
),

departed_levels AS (
    SELECT DISTINCT
        period_grains.account_id,
        period_grains.sku,
        period_grains.aggregation,
        period_grains.unit,
        0 AS numerator
    FROM period_grains
    ANTI JOIN account_periods ON period_grains.account_id = account_periods.account_id
    WHERE period_grains.aggregation = 'time_weighted_sum'
),

summed_series AS (
    SELECT *
    FROM bucket_maxima
    UNION ALL
    SELECT *
    FROM unique_counts
    UNION ALL
    SELECT *
    FROM percentiles
    UNION ALL
    SELECT *
    FROM time_weighted_sums
    UNION ALL
    SELECT *
    FROM departed_levels
),

account_parts AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        rounded_series,
        numerator,
        denominator
    FROM account_sums
    UNION ALL
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        rounded_series,
        numerator,
        denominator
    FROM series_quantities
    UNION ALL
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        '' AS rounded_series,
        numerator,
        1 AS denominator
    FROM summed_series
),

-- Sums in whole billionths, and the integer that each is divided by.
billed_fractions AS (
    SELECT
        account_parts.account_id,
        account_parts.sku,
        account_parts.aggregation,
        billed_meters.billed_unit AS unit,
        CAST(SIGN(SUM(account_parts.numerator)) AS HUGEINT) AS fraction_sign,
        CAST(REPLACE(CAST(ABS(SUM(account_parts.numerator)) AS VARCHAR), '.', '') AS HUGEINT) AS billionths,
        CASE
            WHEN billed_meters.divisor IS NULL
                THEN ERROR('no meter bills the usage of SKU ' || account_parts.sku)
            ELSE CAST(account_parts.denominator AS HUGEINT) * CAST(billed_meters.divisor AS HUGEINT)
        END AS divisor
    FROM account_parts
    LEFT JOIN billed_meters USING (sku, aggregation, unit)
    GROUP BY
        account_parts.account_id,
        account_parts.sku,
        account_parts.aggregation,
        account_parts.rounded_series,
        account_parts.denominator,
        billed_meters.billed_unit,
        billed_meters.divisor
)

SELECT
    account_id,
    sku,
    aggregation,
    unit,
    SUM(
        fraction_sign
        * (billionths // divisor + CAST(2 * (billionths % divisor) >= divisor AS HUGEINT))
        * 0.000000001
    ) AS quantity
FROM billed_fractions
GROUP BY account_id, sku, aggregation, unit
ORDER BY account_id, sku, aggregation, unit
