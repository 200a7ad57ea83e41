-- usage: one row per account, SKU, dimensions and grain: what merging grains into any period needs.
--
-- Grain:   account_id, sku, dimensions, grain_start
-- Reads:   event_quantities, usage_values
-- Params:  $grain  INTERVAL  length of a grain; grains count from 1970-01-01 UTC
--
-- The value sum is the control total: it ties to the events whatever the aggregation. The quantity is what
-- this grain alone comes to: of a percentile its highest sample, of a time-weighted sum its latest level. A
-- level keeps its first and latest instant, its latest value and the level times the microseconds between
-- the two. Of events at one instant the one received last decides, then the higher source and id. The event
-- set hash names the set of events behind the row, whatever their order: it is the XOR of the first eight
-- bytes, lowest first, of the MD5 of their keys, so that hashes of disjoint sets merge.
-- Most meters count or sum, and their rows need nothing else; only events of the others are read again.

WITH

summed_grains AS (
    SELECT
        account_id,
        sku,
        dimensions,
        TIME_BUCKET($grain, event_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS grain_start,
        aggregation,
        unit,
        SUM(quantity) AS value_sum,
        COUNT(*) AS event_count,
        BIT_XOR(MD5_NUMBER(CONCAT(STRLEN(source), ':', source, id))) AS key_digest
    FROM event_quantities
    WHERE aggregation IN ('sum', 'count')
    GROUP BY account_id, sku, dimensions, grain_start, aggregation, unit
),

other_events AS (
    SELECT
        account_id,
        sku,
        dimensions,
        TIME_BUCKET($grain, event_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS grain_start,
        aggregation,
        unit,
        event_at,
        received_at,
        source,
        id,
        quantity
    FROM event_quantities
    WHERE aggregation NOT IN ('sum', 'count')
),

other_totals AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        aggregation,
        unit,
        SUM(quantity) AS value_sum,
        MAX(quantity) AS value_max,
        MIN(quantity) AS value_min,
        COUNT(*) AS event_count,
        BIT_XOR(MD5_NUMBER(CONCAT(STRLEN(source), ':', source, id))) AS key_digest
    FROM other_events
    GROUP BY account_id, sku, dimensions, grain_start, aggregation, unit
),

level_changes AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        event_at,
        quantity,
        LEAD(event_at) OVER (
            PARTITION BY account_id, sku, dimensions, grain_start
            ORDER BY event_at, received_at, source, id
        ) AS next_event_at
    FROM other_events
    WHERE aggregation IN ('latest', 'time_weighted_sum')
),

grain_levels AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        MIN(event_at) AS first_event_at,
        MAX(event_at) AS latest_event_at,
        MAX(quantity) FILTER (WHERE next_event_at IS NULL) AS latest_value,
        COALESCE(SUM(quantity * (EPOCH_US(next_event_at) - EPOCH_US(event_at))), 0) AS level_microseconds
    FROM level_changes
    GROUP BY account_id, sku, dimensions, grain_start
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

other_grains AS (
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
            WHEN 'latest' THEN grain_levels.latest_value
            WHEN 'time_weighted_sum' THEN grain_levels.latest_value
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
        whole_totals.key_digest,
        grain_levels.first_event_at,
        grain_levels.latest_event_at,
        grain_levels.latest_value,
        grain_levels.level_microseconds
    FROM whole_totals
    LEFT JOIN grain_levels USING (account_id, sku, dimensions, grain_start)
    LEFT JOIN grain_value_counts USING (account_id, sku, dimensions, grain_start)
),

grains AS (
    SELECT
        *,
        value_sum AS quantity
    FROM summed_grains
    UNION ALL BY NAME
    SELECT *
    FROM other_grains
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
    CAST(key_digest & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT) AS event_set_hash,
    first_event_at,
    latest_event_at,
    latest_value,
    level_microseconds
FROM grains
ORDER BY account_id, sku, dimensions, grain_start
