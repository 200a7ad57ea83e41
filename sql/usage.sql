-- usage: one row per account, SKU, dimensions, resource and grain: what merging grains into any period needs.
--
-- Grain:   account_id, sku, dimensions, grain_start, resource, owned_from
-- Reads:   event_quantities, usage_values, account_references
-- Params:  $grain  INTERVAL  length of a grain; grains count from 1970-01-01 UTC
--
-- The value sum is the control total: it ties to the events whatever the aggregation. The quantity is what
-- this grain alone comes to: of a percentile its highest sample, of a time-weighted sum its latest level. A
-- level belongs to a resource: a row ends where the resource changes hands, and keeps its first and latest
-- instant, its latest value and the level times the microseconds between the two. Of events at one instant
-- the one received last decides, then the higher source and id. The event set hash names the set of events
-- behind the row, whatever their order: it is the XOR of the hashes of their keys, so that hashes of
-- disjoint sets merge. Most meters count or sum, and their rows need nothing else: only events of the others
-- are looked at again.

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
        BIT_XOR(key_hash) AS event_set_hash
    FROM event_quantities
    WHERE aggregation IN ('sum', 'count')
    GROUP BY account_id, sku, dimensions, grain_start, aggregation, unit
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
    WHERE aggregation NOT IN ('sum', 'count', 'latest', 'time_weighted_sum')
    GROUP BY account_id, sku, dimensions, grain_start, aggregation, unit
),

level_events AS (
    SELECT
        account_id,
        sku,
        dimensions,
        COALESCE(subject, '') AS resource,
        TIME_BUCKET($grain, event_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS grain_start,
        aggregation,
        unit,
        event_at,
        received_at,
        source,
        id,
        key_hash,
        quantity
    FROM event_quantities
    WHERE aggregation IN ('latest', 'time_weighted_sum')
),

level_resources AS (
    SELECT DISTINCT resource
    FROM level_events
),

owner_changes AS (
    SELECT
        account_references.reference AS resource,
        account_references.valid_from AS changed_at
    FROM account_references
    SEMI JOIN level_resources ON account_references.reference = level_resources.resource
    UNION
    SELECT
        account_references.reference AS resource,
        account_references.valid_to AS changed_at
    FROM account_references
    SEMI JOIN level_resources ON account_references.reference = level_resources.resource
),

owned_level_events AS (
    SELECT
        level_events.*,
        GREATEST(level_events.grain_start, owner_changes.changed_at) AS owned_from
    FROM level_events
    ASOF LEFT JOIN owner_changes
        ON
            level_events.resource = owner_changes.resource
            AND level_events.event_at >= owner_changes.changed_at
),

level_changes AS (
    SELECT
        *,
        LEAD(event_at) OVER (
            PARTITION BY sku, dimensions, resource, grain_start, owned_from
            ORDER BY event_at, received_at, source, id
        ) AS next_event_at
    FROM owned_level_events
),

grain_levels AS (
    SELECT
        account_id,
        sku,
        dimensions,
        resource,
        grain_start,
        owned_from,
        aggregation,
        unit,
        SUM(quantity) AS value_sum,
        COUNT(*) AS event_count,
        BIT_XOR(key_hash) AS event_set_hash,
        MIN(event_at) AS first_event_at,
        MAX(event_at) AS latest_event_at,
        LAST(quantity ORDER BY event_at, received_at, source, id) AS latest_value,
        COALESCE(SUM(quantity * (EPOCH_US(next_event_at) - EPOCH_US(event_at))), 0) AS level_microseconds
    FROM level_changes
    GROUP BY account_id, sku, dimensions, resource, grain_start, owned_from, aggregation, unit
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

usage_rows AS (
    SELECT
        *,
        '' AS resource,
        value_sum AS quantity
    FROM summed_grains
    UNION ALL BY NAME
    SELECT
        whole_totals.account_id,
        whole_totals.sku,
        whole_totals.dimensions,
        '' AS resource,
        whole_totals.grain_start,
        whole_totals.aggregation,
        CASE whole_totals.aggregation
            WHEN 'max' THEN whole_totals.value_max
            WHEN 'min' THEN whole_totals.value_min
            WHEN 'percentile' THEN whole_totals.value_max
            WHEN 'sum_of_maxima' THEN whole_totals.value_max
            WHEN 'unique_count' THEN grain_value_counts.value_count
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
    UNION ALL BY NAME
    SELECT
        *,
        latest_value AS quantity
    FROM grain_levels
)

SELECT
    account_id,
    sku,
    dimensions,
    resource,
    grain_start,
    owned_from,
    aggregation,
    quantity,
    value_sum,
    unit,
    event_count,
    event_set_hash,
    first_event_at,
    latest_event_at,
    latest_value,
    level_microseconds
FROM usage_rows
ORDER BY
    account_id,
    sku,
    dimensions,
    grain_start,
    resource,
    owned_from
