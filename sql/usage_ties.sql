-- usage_ties: one row per SKU and unit: the rows of usage, and how many of them their billed events make.
--
-- Grain:   sku, unit
-- Reads:   usage, usage_values, usage_levels, usage_events, event_quantities
-- Params:  $grain  INTERVAL  length of a grain; grains count from 1970-01-01 UTC
--
-- Totals of values say nothing about a maximum. Of a meter that adds up the quantity is the value sum, which
-- ties to the events; every other row is counted again from its events, and so are the values and the levels
-- that a period is billed from. An average ties to within the half of a billionth that was rounded. No event
-- of a meter that adds up is looked at again.

WITH

other_events AS (
    SELECT
        usage_events.account_id,
        event_quantities.sku,
        event_quantities.dimensions,
        TIME_BUCKET($grain, event_quantities.event_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS grain_start,
        event_quantities.aggregation,
        COALESCE(event_quantities.subject, '') AS resource,
        event_quantities.event_at,
        event_quantities.received_at,
        event_quantities.source,
        event_quantities.id,
        event_quantities.quantity,
        CASE
            WHEN event_quantities.aggregation = 'unique_count' THEN event_quantities.value_text
            WHEN event_quantities.aggregation = 'percentile' THEN CAST(event_quantities.quantity AS VARCHAR)
        END AS value_text
    FROM usage_events
    INNER JOIN event_quantities USING (object_id, line_number)
    WHERE event_quantities.aggregation NOT IN ('sum', 'count')
),

recounts AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        SUM(quantity) AS value_sum,
        MAX(quantity) AS value_max,
        MIN(quantity) AS value_min,
        COUNT(*) AS event_count,
        COUNT(DISTINCT value_text) AS value_count,
        BIT_XOR(DISTINCT MD5_NUMBER_LOWER(value_text)) AS value_set_hash
    FROM other_events
    GROUP BY account_id, sku, dimensions, grain_start
),

last_levels AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        resource,
        LAST(quantity ORDER BY event_at, received_at, source, id) AS latest_value
    FROM other_events
    WHERE aggregation IN ('latest', 'time_weighted_sum')
    GROUP BY account_id, sku, dimensions, grain_start, resource
),

recounted_levels AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        SUM(latest_value) AS level_sum
    FROM last_levels
    GROUP BY account_id, sku, dimensions, grain_start
),

stored_resources AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        ARG_MAX(latest_value, owned_from) AS latest_value
    FROM usage_levels
    GROUP BY account_id, sku, dimensions, grain_start, resource
),

stored_levels AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        SUM(latest_value) AS level_sum
    FROM stored_resources
    GROUP BY account_id, sku, dimensions, grain_start
),

stored_values AS (
    SELECT
        account_id,
        sku,
        dimensions,
        grain_start,
        COUNT(*) AS value_count,
        SUM(event_count) AS event_count,
        SUM(TRY_CAST(value_text AS DECIMAL(38, 9)) * event_count) AS value_sum,
        BIT_XOR(MD5_NUMBER_LOWER(value_text)) AS value_set_hash
    FROM usage_values
    GROUP BY account_id, sku, dimensions, grain_start
),

compared_rows AS (
    SELECT
        usage.sku,
        usage.unit,
        CASE
            WHEN usage.aggregation IN ('sum', 'count')
                THEN
                    usage.quantity = usage.value_sum
                    AND COALESCE(stored_values.value_sum, usage.value_sum) = usage.value_sum
            WHEN usage.value_sum <> recounts.value_sum OR usage.event_count <> recounts.event_count THEN FALSE
            WHEN usage.aggregation IN ('max', 'sum_of_maxima') THEN usage.quantity = recounts.value_max
            WHEN usage.aggregation = 'min' THEN usage.quantity = recounts.value_min
            WHEN usage.aggregation = 'average'
                THEN
                    2 * ABS(usage.quantity * usage.event_count - usage.value_sum)
                    <= 0.000000001 * usage.event_count
            WHEN usage.aggregation IN ('latest', 'time_weighted_sum')
                THEN
                    usage.quantity = recounted_levels.level_sum
                    AND stored_levels.level_sum = recounted_levels.level_sum
            ELSE
                usage.quantity
                = CASE usage.aggregation
                    WHEN 'unique_count' THEN recounts.value_count
                    ELSE recounts.value_max
                END
                AND stored_values.value_count = recounts.value_count
                AND stored_values.event_count = recounts.event_count
                AND stored_values.value_set_hash = recounts.value_set_hash
                AND (usage.aggregation = 'unique_count' OR stored_values.value_sum = recounts.value_sum)
        END AS is_tied
    FROM usage
    LEFT JOIN recounts USING (account_id, sku, dimensions, grain_start)
    LEFT JOIN recounted_levels USING (account_id, sku, dimensions, grain_start)
    LEFT JOIN stored_levels USING (account_id, sku, dimensions, grain_start)
    LEFT JOIN stored_values USING (account_id, sku, dimensions, grain_start)
)

SELECT
    sku,
    unit,
    COUNT(*) AS row_count,
    COUNT(*) FILTER (WHERE is_tied) AS tied_count
FROM compared_rows
GROUP BY sku, unit
ORDER BY sku, unit
