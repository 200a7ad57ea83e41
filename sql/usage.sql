-- usage: one row per account, SKU, dimensions and grain: what conservation and merging need of every meter.
--
-- Grain:   account_id, sku, dimensions, grain_start
-- Reads:   event_quantities, usage_values, usage_levels
-- Params:  $grain  INTERVAL  length of a grain; grains count from 1970-01-01 UTC
--
-- The value sum is the control total: it ties to the events whatever the aggregation. The quantity is what
-- this grain alone comes to: of a percentile its highest sample, of levels the latest of each resource, added
-- up. The event set hash names the set of events behind the row, whatever their order: it is the XOR of the
-- hashes of their keys, so that hashes of disjoint sets merge. Most meters count or sum, and their rows need
-- nothing else: only events of the others are looked at again. What nobody owns is no usage.

WITH

-- Grains are numbered, which is quicker to group by than the instants at which they start.
summed_grains AS (
    SELECT
        account_id,
        sku,
        dimensions,
        CAST(EPOCH_US(event_at) // EPOCH_US(CAST($grain AS INTERVAL)) AS INTEGER) AS grain_number,
        aggregation,
        unit,
        SUM(quantity) AS value_sum,
        COUNT(*) AS event_count,
        BIT_XOR(key_hash) AS event_set_hash
    FROM event_quantities
    WHERE aggregation IN ('sum', 'count') AND account_id IS NOT NULL
    GROUP BY account_id, sku, dimensions, grain_number, aggregation, unit
),

other_totals AS (
    SELECT
        account_id,
        sku,
        dimensions,
        TIME_BUCKET($grain, event_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS grain_start,
        aggregation,
        unit,
        SUM(quantity) AS value_sum,
        MAX(quantity) AS value_max,
        MIN(quantity) AS value_min,
        COUNT(*) AS event_count,
        BIT_XOR(key_hash) AS event_set_hash
    FROM event_quantities
    WHERE aggregation NOT IN ('sum', 'count') AND account_id IS NOT NULL
    GROUP BY account_id, sku, dimensions, grain_start, aggregation, unit
),

grain_value_counts AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        COUNT(*) AS value_count
    FROM usage_values
    GROUP BY account_id, sku, dimensions, grain_start
),

-- A resource that came back has several rows; the newest one has its latest value.
resource_levels AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        ARG_MAX(latest_value, owned_from) AS latest_value
    FROM usage_levels
    GROUP BY account_id, sku, dimensions, grain_start, resource
),

grain_levels AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        SUM(latest_value) AS level_sum
    FROM resource_levels
    GROUP BY account_id, sku, dimensions, grain_start
),

-- An average is divided in integers, as whole billionths.
whole_totals AS (
    SELECT
        *,
        CASE
            WHEN aggregation = 'average'
                THEN CAST(REPLACE(CAST(ABS(value_sum) AS VARCHAR), '.', '') AS HUGEINT)
        END AS billionths
    FROM other_totals
),

usage_rows AS (
    SELECT
        * EXCLUDE (grain_number),
        MAKE_TIMESTAMPTZ(grain_number * EPOCH_US(CAST($grain AS INTERVAL))) AS grain_start,
        value_sum AS quantity
    FROM summed_grains
    UNION ALL BY NAME
    SELECT
        whole_totals.account_id,
        whole_totals.sku,
        whole_totals.dimensions,
        whole_totals.grain_start,
        whole_totals.aggregation,
        CASE whole_totals.aggregation
            WHEN 'max' THEN whole_totals.value_max
            WHEN 'min' THEN whole_totals.value_min
            WHEN 'percentile' THEN whole_totals.value_max
            WHEN 'sum_of_maxima' THEN whole_totals.value_max
            WHEN 'unique_count' THEN grain_value_counts.value_count
            WHEN 'latest' THEN grain_levels.level_sum
            WHEN 'time_weighted_sum' THEN grain_levels.level_sum
            -- Rounded half up, away from zero.
            WHEN 'average'
                THEN SIGN(whole_totals.value_sum) * 0.000000001 * (
                    whole_totals.billionths // whole_totals.event_count
                    + CAST(
                        2 * (whole_totals.billionths % whole_totals.event_count)
                        >= whole_totals.event_count AS INTEGER
                    )
                )
        END AS quantity,
        whole_totals.value_sum,
        whole_totals.unit,
        whole_totals.event_count,
        whole_totals.event_set_hash
    FROM whole_totals
    LEFT JOIN grain_value_counts USING (account_id, sku, dimensions, grain_start)
    LEFT JOIN grain_levels USING (account_id, sku, dimensions, grain_start)
)

SELECT
    account_id,
    sku,
    dimensions,
    grain_start,
    aggregation,
    quantity,
    value_sum,
    unit,
    event_count,
    event_set_hash
FROM usage_rows
ORDER BY
    account_id,
    sku,
    dimensions,
    grain_start
