-- event_values: one row per value of the events of a grain, for prices that depend on each event.
--
-- Grain:   account_id, sku, segment, grain_start, value
-- Reads:   usage, usage_values, billed_meters, account_periods
-- Params:  none
--
-- A meter that keeps its values sums or counts them too: the values of a segment add up to its quantity in
-- period_usage. So each is converted to the billed unit as that is, but never rounded: a value that is no
-- nine decimals of the billed unit is refused. Values of an account that has no period, because it left the
-- directory since, are left out: rating refuses its usage.

WITH

kept_values AS (
    SELECT usage_values.*
    FROM usage_values
    SEMI JOIN billed_meters
        ON
            usage_values.sku = billed_meters.sku
            AND billed_meters.aggregation IN ('sum', 'count')
),

segment_values AS (
    SELECT
        usage.account_id,
        usage.sku,
        account_periods.segment,
        usage.grain_start,
        kept_values.value_text,
        kept_values.event_count,
        CAST(billed_meters.divisor AS HUGEINT) AS divisor,
        CAST(REPLACE(CAST(CAST(kept_values.value_text AS DECIMAL(38, 9)) AS VARCHAR), '.', '') AS HUGEINT)
            AS billionths
    FROM usage
    INNER JOIN kept_values USING (account_id, sku, dimensions, grain_start)
    INNER JOIN billed_meters
        ON
            usage.sku = billed_meters.sku
            AND usage.aggregation = billed_meters.aggregation
            AND usage.unit = billed_meters.unit
    INNER JOIN account_periods
        ON
            usage.account_id = account_periods.account_id
            AND usage.grain_start >= account_periods.period_start
            AND usage.grain_start < account_periods.period_end
    WHERE usage.aggregation IN ('sum', 'count')
),

billed_values AS (
    SELECT
        *,
        CASE
            WHEN billionths % divisor <> 0
                THEN ERROR(
                    'account ' || account_id || ', SKU ' || sku || ': the value ' || value_text
                    || ' divided by ' || divisor || ' has more than nine decimals'
                )
            ELSE CAST((billionths // divisor) * 0.000000001 AS DECIMAL(38, 9))
        END AS billed_value
    FROM segment_values
)

SELECT
    account_id,
    sku,
    segment,
    grain_start,
    billed_value AS value, -- noqa: RF04
    CAST(SUM(event_count) AS BIGINT) AS event_count
FROM billed_values
GROUP BY account_id, sku, segment, grain_start, billed_value
ORDER BY account_id, sku, segment, grain_start, billed_value
