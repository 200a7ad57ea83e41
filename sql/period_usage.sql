-- period_usage: one row per account, SKU, aggregation and unit: what the account used in its billing period.
--
-- Grain:   account_id, sku, aggregation, unit
-- Reads:   usage, usage_values, usage_levels, earlier_levels, billed_meters, account_periods,
--          account_references, meter_changes
-- Params:  none
--
-- A billing period is a calendar month in the account's own time zone, so every account has its own
-- bounds. They fall on grains, so a row of usage belongs to one period as a whole. Each series (account, SKU,
-- dimensions) is aggregated over the period, then the quantity of the account is the sum of its series. It is
-- converted to the billed unit here, once, by an integer, and rounded once, half up at nine decimals; an
-- average is a quotient of its own, so it is rounded per series. Usage of an account that has no period,
-- because it left the directory since, is kept for rating to refuse: it is never dropped.
-- A level belongs to its resource: it lasts until the next event of the resource or until its meter changes,
-- and of that time each account has what the directory says it owned. What nobody owned stays with the
-- account that was billed for the event if nobody owned the resource then either: a fallback account. A level
-- that was set while nobody owned the resource, nor was billed for it, has no account until somebody owns it.

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

period_levels AS (
    SELECT
        usage_levels.*,
        account_periods.account_id IS NULL AS is_departed
    FROM usage_levels
    LEFT JOIN account_periods ON usage_levels.account_id = account_periods.account_id
    WHERE
        usage_levels.account_id IS NOT NULL
        AND (
            account_periods.account_id IS NULL
            OR (
                usage_levels.grain_start >= account_periods.period_start
                AND usage_levels.grain_start < account_periods.period_end
            )
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
            ELSE SUM(value_sum)
        END AS numerator,
        CASE WHEN aggregation = 'average' THEN SUM(event_count) ELSE 1 END AS denominator
    FROM period_grains
    WHERE aggregation IN ('max', 'min', 'average')
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

-- What was reached before the period starts it; a SKU that is no time-weighted sum any more has no level.
level_rows AS (
    SELECT *
    FROM usage_levels
    UNION ALL
    SELECT earlier_levels.*
    FROM earlier_levels
    SEMI JOIN billed_meters
        ON
            earlier_levels.sku = billed_meters.sku
            AND earlier_levels.aggregation = billed_meters.aggregation
            AND earlier_levels.unit = billed_meters.unit
    WHERE earlier_levels.aggregation = 'time_weighted_sum'
),

-- Each level lasts up to the first event after the stretch that it was set in. Of several accounts
-- or nobody in one stretch the last event sets it. The end of time is the largest number of microseconds.
level_spans AS (
    SELECT
        level_rows.*,
        meter_changes.changed_at,
        EPOCH_US(level_rows.latest_event_at) AS span_start,
        COALESCE(
            LEAST(
                EPOCH_US(
                    MIN(level_rows.first_event_at) OVER (
                        PARTITION BY
                            level_rows.sku,
                            level_rows.aggregation,
                            level_rows.unit,
                            level_rows.dimensions,
                            level_rows.resource
                        ORDER BY level_rows.owned_from DESC
                        RANGE UNBOUNDED PRECEDING EXCLUDE GROUP
                    )
                ),
                EPOCH_US(meter_changes.changed_at)
            ),
            9223372036854775807
        ) AS span_end
    FROM level_rows
    ASOF LEFT JOIN meter_changes
        ON level_rows.sku = meter_changes.sku AND level_rows.latest_event_at < meter_changes.changed_at
),

level_resources AS (
    SELECT DISTINCT resource
    FROM level_spans
),

owned_times AS (
    SELECT
        account_references.reference AS resource,
        account_references.account_id,
        EPOCH_US(account_references.valid_from) AS owned_from,
        EPOCH_US(account_references.valid_to) AS owned_to
    FROM account_references
    SEMI JOIN level_resources ON account_references.reference = level_resources.resource
),

time_marks AS (
    SELECT
        resource,
        owned_from AS free_to,
        owned_to AS free_from
    FROM owned_times
    UNION ALL
    SELECT
        resource,
        NULL AS free_to,
        -9223372036854775807 AS free_from
    FROM level_resources
),

unowned_times AS (
    SELECT
        resource,
        CAST(NULL AS VARCHAR) AS account_id,
        free_from AS owned_from,
        COALESCE(
            LEAD(free_to) OVER (PARTITION BY resource ORDER BY free_from),
            9223372036854775807
        ) AS owned_to
    FROM time_marks
),

ownerships AS (
    SELECT *
    FROM owned_times
    UNION ALL
    SELECT *
    FROM unowned_times
    WHERE owned_from < owned_to
),

held_spans AS (
    SELECT
        level_spans.sku,
        level_spans.aggregation,
        level_spans.unit,
        level_spans.dimensions,
        level_spans.resource,
        level_spans.grain_start,
        level_spans.latest_value,
        level_spans.changed_at,
        COALESCE(
            ownerships.account_id,
            CASE WHEN unowned_events.resource IS NOT NULL THEN level_spans.account_id END
        ) AS account_id,
        GREATEST(level_spans.span_start, ownerships.owned_from) AS held_from,
        LEAST(level_spans.span_end, ownerships.owned_to) AS held_to
    FROM level_spans
    INNER JOIN ownerships
        ON
            level_spans.resource = ownerships.resource
            AND level_spans.span_start < ownerships.owned_to
            AND level_spans.span_end > ownerships.owned_from
    LEFT JOIN unowned_times AS unowned_events
        ON
            level_spans.resource = unowned_events.resource
            AND level_spans.span_start >= unowned_events.owned_from
            AND level_spans.span_start < unowned_events.owned_to
    WHERE level_spans.lasts AND level_spans.span_start < level_spans.span_end
),

level_holdings AS (
    SELECT
        held_spans.*,
        account_periods.period_start,
        account_periods.period_end,
        EPOCH_US(account_periods.levels_until) AS levels_until
    FROM held_spans
    INNER JOIN account_periods USING (account_id)
),

level_parts AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        TRUE AS is_in_period,
        CASE WHEN is_departed THEN 0 ELSE level_microseconds END AS numerator
    FROM period_levels
    WHERE aggregation = 'time_weighted_sum'
    UNION ALL
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        FALSE AS is_in_period,
        latest_value
        * GREATEST(LEAST(held_to, levels_until) - GREATEST(held_from, EPOCH_US(period_start)), 0) AS numerator
    FROM level_holdings
    WHERE aggregation = 'time_weighted_sum'
),

time_weighted_sums AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        SUM(numerator) AS numerator
    FROM level_parts
    GROUP BY account_id, sku, aggregation, unit
    HAVING BOOL_OR(is_in_period) OR SUM(numerator) <> 0
),

followed_holdings AS (
    SELECT
        *,
        LEAD(held_from) OVER (
            PARTITION BY sku, unit, dimensions, resource
            ORDER BY held_from
        ) AS next_held_from
    FROM level_holdings
    WHERE aggregation = 'latest'
),

-- The account that was the last to own the resource before its month, or what is known of it, ends.
latest_values AS (
    SELECT
        account_id,
        sku,
        aggregation,
        unit,
        latest_value AS numerator
    FROM followed_holdings
    WHERE
        grain_start >= period_start
        AND grain_start < period_end
        AND held_from < levels_until
        AND (next_held_from IS NULL OR next_held_from >= levels_until)
        AND (changed_at IS NULL OR EPOCH_US(changed_at) >= levels_until)
),

departed_values AS (
    SELECT DISTINCT
        account_id,
        sku,
        aggregation,
        unit,
        0 AS numerator
    FROM period_levels
    WHERE aggregation = 'latest' AND is_departed
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
    FROM latest_values
    UNION ALL
    SELECT *
    FROM departed_values
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
