-- event_quantities: one row per raw event and meter that counts it, with the quantity it adds.
--
-- Grain:   object_id, line_number, sku
-- Reads:   raw_events, meters
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--
-- One request may be sold as several SKUs, so one event may feed several meters. A count adds 1 per
-- event, so that summing is all that is left to do. The quantity is null when a sum's value is missing
-- or is not a plain decimal: it is never taken as zero, the event is excluded as a whole instead.
-- A number in data is a string of its exact digits, so no value passes through a float.

WITH

window_events AS (
    SELECT
        object_id,
        line_number,
        type,
        quantity,
        data
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

-- A dotted path such as `usage.tokens` is '$."usage"."tokens"' to DuckDB.
meter_paths AS (
    SELECT
        sku,
        event_type,
        aggregation,
        value_path,
        unit,
        '$."' || REPLACE(REGEXP_REPLACE(value_path, '^data\.', ''), '.', '"."') || '"' AS value_json_path,
        LIST_TRANSFORM(
            filters,
            lambda f: { 'json_path': '$."' || REPLACE(f.path, '.', '"."') || '"', 'expected': f.expected }
        ) AS json_filters,
        LIST_TRANSFORM(
            dimensions,
            lambda d: { 'json_path': '$."' || REPLACE(d, '.', '"."') || '"', 'label': TO_JSON(d) || ':' }
        ) AS json_dimensions
    FROM meters
),

metered_events AS (
    SELECT
        window_events.object_id,
        window_events.line_number,
        meter_paths.sku,
        meter_paths.unit,
        LIST_TRANSFORM(
            meter_paths.json_dimensions,
            lambda d: d.label || COALESCE(TO_JSON(window_events.data ->> d.json_path), 'null')
        ) AS dimension_texts,
        CASE
            WHEN meter_paths.aggregation = 'count' THEN '1'
            WHEN meter_paths.value_path = 'quantity' THEN CAST(window_events.quantity AS VARCHAR)
            ELSE window_events.data ->> meter_paths.value_json_path
        END AS value_text
    FROM window_events
    INNER JOIN meter_paths ON window_events.type = meter_paths.event_type
    WHERE
        LIST_BOOL_AND(
            LIST_TRANSFORM(
                meter_paths.json_filters,
                lambda f: COALESCE(window_events.data ->> f.json_path = f.expected, FALSE)
            )
        ) IS NOT FALSE
)

SELECT
    object_id,
    line_number,
    sku,
    unit,
    '{' || ARRAY_TO_STRING(dimension_texts, ',') || '}' AS dimensions,
    value_text,
    CASE
        WHEN REGEXP_FULL_MATCH(value_text, '-?[0-9]{1,29}(\.[0-9]{1,9})?')
            THEN TRY_CAST(value_text AS DECIMAL(38, 9))
    END AS quantity
FROM metered_events
ORDER BY object_id, line_number, sku
