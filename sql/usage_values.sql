-- usage_values: one row per value that a unique count or a percentile needs, per series and grain.
--
-- Grain:   account_id, sku, dimensions, grain_start, value_text
-- Reads:   event_quantities
-- Params:  $grain  INTERVAL  length of a grain; grains count from 1970-01-01 UTC
--
-- Two counts of unique users do not add up, and two percentiles have no common one: only the values
-- themselves can be merged into a longer time. Meters of other aggregations have no rows here.

WITH

value_events AS (
    SELECT
        account_id,
        sku,
        dimensions,
        TIME_BUCKET($grain, event_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS grain_start,
        CASE
            WHEN aggregation = 'unique_count' THEN value_text
            ELSE CAST(quantity AS VARCHAR)
        END AS value_text
    FROM event_quantities
    WHERE aggregation IN ('unique_count', 'percentile') AND account_id IS NOT NULL
)

SELECT
    account_id,
    sku,
    dimensions,
    grain_start,
    value_text,
    COUNT(*) AS event_count
FROM value_events
GROUP BY account_id, sku, dimensions, grain_start, value_text
ORDER BY account_id, sku, dimensions, grain_start, value_text
