-- usage_levels: one row per stretch of a grain in which one account, or nobody, owns a resource with a level.
--
-- Grain:   account_id, sku, dimensions, grain_start, resource, owned_from
-- Reads:   event_quantities, account_references
-- Params:  $grain  INTERVAL  length of a grain; grains count from 1970-01-01 UTC
--
-- A level belongs to a resource: a row ends where the resource changes hands, and keeps its first and latest
-- instant, its latest value and the level times the microseconds between the two. Of events at one instant
-- the one received last decides, then the higher source and id. The account is null where nobody owned the
-- resource and nobody was billed instead: no usage, but the next owner goes on with that level. In such a
-- stretch events may be of several accounts; one of the rows lasts, that of the last event. Other meters have
-- no rows here.

WITH

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
        quantity
    FROM event_quantities
    WHERE
        aggregation IN ('latest', 'time_weighted_sum')
        AND (account_id IS NOT NULL OR quantity IS NOT NULL)
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
)

SELECT
    account_id,
    sku,
    dimensions,
    resource,
    grain_start,
    owned_from,
    aggregation,
    unit,
    MIN(event_at) AS first_event_at,
    MAX(event_at) AS latest_event_at,
    LAST(quantity ORDER BY event_at, received_at, source, id) AS latest_value,
    COALESCE(SUM(quantity * (EPOCH_US(next_event_at) - EPOCH_US(event_at))), 0) AS level_microseconds,
    BOOL_OR(next_event_at IS NULL) AS lasts
FROM level_changes
GROUP BY account_id, sku, dimensions, resource, grain_start, owned_from, aggregation, unit
ORDER BY
    account_id,
    sku,
    dimensions,
    grain_start,
    resource,
    owned_from
