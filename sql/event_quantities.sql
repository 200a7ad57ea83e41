-- event_quantities: one row per event and meter that counts it, with the quantity it adds.
--
-- Grain:   object_id, line_number, sku
-- Reads:   metered_events, meters
-- Params:  none
--
-- Read with window_events as metered_events it is what was received, with usage_events it is what is billed.
-- One request may be sold as several SKUs, so one event may feed several meters. The quantity is what the
-- event adds to the control totals of its SKU, whatever the aggregation: 1 where events or unique texts are
-- counted, the value elsewhere. It is null when the value is missing or is not a plain decimal: it is never
-- taken as zero, the event is excluded as a whole instead. A number in data is a string of its exact
-- digits, so no value passes through a float. A quantity that is not computed is the event's own, or 1.

WITH

-- A dotted path such as `usage.tokens` is '/usage/tokens' or '$."usage"."tokens"' to DuckDB. The first is
-- quicker to follow, but takes a number for a place in a list.
meter_paths AS (
    SELECT
        sku,
        event_type,
        aggregation,
        value_path,
        unit,
        aggregation <> 'count'
        AND (LEN(filters) > 0 OR value_path <> 'quantity' OR aggregation = 'unique_count') AS is_computed,
        REGEXP_REPLACE(value_path, '^data\.', '') AS value_data_path,
        CASE
            WHEN REGEXP_MATCHES(value_data_path, '(^|\.)[0-9]+(\.|$)')
                THEN '$."' || REPLACE(value_data_path, '.', '"."') || '"'
            ELSE '/' || REPLACE(value_data_path, '.', '/')
        END AS value_json_path,
        LEN(filters) > 0 AS has_filters,
        LEN(dimensions) AS dimension_count,
        '{' || TO_JSON(dimensions[1]) || ':' AS first_label,
        CASE
            WHEN REGEXP_MATCHES(dimensions[1], '(^|\.)[0-9]+(\.|$)')
                THEN '$."' || REPLACE(dimensions[1], '.', '"."') || '"'
            ELSE '/' || REPLACE(dimensions[1], '.', '/')
        END AS first_json_path
    FROM meters
),

-- Most meters have no filter and one dimension. Lists are kept apart: only events of the others carry them.
meter_lists AS (
    SELECT
        sku,
        LIST_TRANSFORM(
            filters,
            lambda f: { 'json_path': '$."' || REPLACE(f.path, '.', '"."') || '"', 'expected': f.expected }
        ) AS json_filters,
        LIST_TRANSFORM(
            dimensions,
            lambda d: { 'json_path': '$."' || REPLACE(d, '.', '"."') || '"', 'label': TO_JSON(d) || ':' }
        ) AS json_dimensions
    FROM meters
    WHERE
        LEN(filters) > 0
        OR LEN(dimensions) > 1
),

counted_events AS (
    SELECT
        metered_events.object_id,
        metered_events.line_number,
        metered_events.source,
        metered_events.id,
        metered_events.key_hash,
        metered_events.account_id,
        metered_events.subject,
        metered_events.event_at,
        metered_events.received_at,
        meter_paths.sku,
        meter_paths.unit,
        meter_paths.aggregation,
        meter_paths.is_computed,
        CASE meter_paths.dimension_count
            WHEN 0 THEN '{}'
            WHEN 1
                THEN CONCAT(
                    meter_paths.first_label,
                    COALESCE(metered_events.data -> meter_paths.first_json_path, 'null'),
                    '}'
                )
            ELSE CONCAT(
                '{',
                ARRAY_TO_STRING(
                    LIST_TRANSFORM(
                        meter_lists.json_dimensions,
                        lambda d: d.label || COALESCE(metered_events.data -> d.json_path, 'null')
                    ),
                    ','
                ),
                '}'
            )
        END AS dimensions,
        CASE WHEN meter_paths.value_path = 'quantity' THEN metered_events.quantity END AS typed_quantity,
        CASE
            WHEN meter_paths.value_path <> 'quantity' THEN metered_events.data ->> meter_paths.value_json_path
        END AS value_text
    FROM metered_events
    INNER JOIN meter_paths ON metered_events.type = meter_paths.event_type
    LEFT JOIN meter_lists ON meter_paths.sku = meter_lists.sku
    WHERE
        NOT meter_paths.has_filters
        OR LIST_BOOL_AND(
            LIST_TRANSFORM(
                meter_lists.json_filters,
                lambda f: COALESCE(metered_events.data ->> f.json_path = f.expected, FALSE)
            )
        )
)

SELECT
    object_id,
    line_number,
    source,
    id,
    key_hash,
    account_id,
    subject,
    event_at,
    received_at,
    sku,
    unit,
    aggregation,
    is_computed,
    dimensions,
    value_text,
    CASE
        WHEN aggregation = 'count' THEN CAST(1 AS DECIMAL(38, 9))
        WHEN aggregation = 'unique_count'
            THEN CASE WHEN value_text IS NOT NULL THEN CAST(1 AS DECIMAL(38, 9)) END
        WHEN value_text IS NULL THEN typed_quantity
        WHEN REGEXP_FULL_MATCH(value_text, '-?[0-9]{1,29}(\.[0-9]{1,9})?')
            THEN TRY_CAST(value_text AS DECIMAL(38, 9))
    END AS quantity
FROM counted_events
ORDER BY object_id, line_number, sku
