-- merged_usage: one row per account, SKU, dimensions and grain: shards of a window merged.
--
-- Grain:   account_id, sku, dimensions, grain_start
-- Reads:   usage, usage_values, usage_levels
-- Params:  none
--
-- Events that were shared out by a hash of their key are counted shard by shard; merged, the rows are those
-- of all events at once. A level needs its events in order, so all events of a resource that latest or
-- time-weighted sum counts belong into one shard; rows of two shards are refused: no merge of them is exact.

WITH

merged_totals AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        aggregation,
        unit,
        SUM(value_sum) AS value_sum,
        MAX(quantity) AS quantity_max,
        MIN(quantity) AS quantity_min,
        CAST(SUM(event_count) AS BIGINT) AS event_count,
        BIT_XOR(event_set_hash) AS event_set_hash,
        SUM(quantity) AS quantity_sum
    FROM usage
    GROUP BY account_id, sku, dimensions, grain_start, aggregation, unit
),

merged_value_counts AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        COUNT(DISTINCT value_text) AS value_count
    FROM usage_values
    GROUP BY account_id, sku, dimensions, grain_start
),

resource_rows AS (
    SELECT
        sku,
        COUNT(*) AS row_count
    FROM usage_levels
    GROUP BY account_id, sku, dimensions, grain_start, resource, owned_from
),

torn_levels AS (
    SELECT DISTINCT sku
    FROM resource_rows
    WHERE row_count > 1
),

-- An average is divided in integers, as whole billionths.
whole_totals AS (
    SELECT
        *,
        CASE
            WHEN aggregation = 'average'
                THEN CAST(REPLACE(CAST(ABS(value_sum) AS VARCHAR), '.', '') AS HUGEINT)
        END AS billionths
    FROM merged_totals
)

SELECT
    whole_totals.account_id,
    whole_totals.sku,
    whole_totals.dimensions,
    whole_totals.grain_start,
    whole_totals.aggregation,
    CASE
        WHEN torn_levels.sku IS NOT NULL
            THEN ERROR('a series of SKU ' || whole_totals.sku || ' has levels in two shards')
        WHEN whole_totals.aggregation IN ('latest', 'time_weighted_sum') THEN whole_totals.quantity_sum
        WHEN whole_totals.aggregation = 'min' THEN whole_totals.quantity_min
        WHEN whole_totals.aggregation = 'unique_count' THEN merged_value_counts.value_count
        -- Rounded half up, away from zero.
        WHEN whole_totals.aggregation = 'average'
            THEN SIGN(whole_totals.value_sum) * 0.000000001 * (
                whole_totals.billionths // whole_totals.event_count
                + CAST(
                    2 * (whole_totals.billionths % whole_totals.event_count)
                    >= whole_totals.event_count AS INTEGER
                )
            )
        WHEN whole_totals.aggregation IN ('sum', 'count') THEN whole_totals.value_sum
        ELSE whole_totals.quantity_max
    END AS quantity,
    whole_totals.value_sum,
    whole_totals.unit,
    whole_totals.event_count,
    whole_totals.event_set_hash
FROM whole_totals
LEFT JOIN merged_value_counts USING (account_id, sku, dimensions, grain_start)
LEFT JOIN torn_levels ON whole_totals.sku = torn_levels.sku
ORDER BY
    whole_totals.account_id,
    whole_totals.sku,
    whole_totals.dimensions,
    whole_totals.grain_start
