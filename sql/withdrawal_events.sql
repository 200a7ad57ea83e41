-- withdrawal_events: one row per raw event of a type that withdraws another event, and which one it names.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events, withdrawal_types
-- Params:  none
--
-- An event is named by its key. A withdrawal that says no source means its own; one that says no id names
-- nothing, and is shown as such.

WITH

withdrawal_paths AS (
    SELECT
        event_type,
        replaces,
        '$."' || REPLACE(REGEXP_REPLACE(source_path, '^data\.', ''), '.', '"."') || '"' AS source_json_path,
        '$."' || REPLACE(REGEXP_REPLACE(id_path, '^data\.', ''), '.', '"."') || '"' AS id_json_path
    FROM withdrawal_types
)

SELECT
    raw_events.object_id,
    raw_events.line_number,
    raw_events.source,
    raw_events.id,
    raw_events.event_at,
    raw_events.received_at,
    CASE
        WHEN withdrawal_paths.source_json_path IS NULL THEN raw_events.source
        ELSE NULLIF(raw_events.data ->> withdrawal_paths.source_json_path, '')
    END AS target_source,
    NULLIF(raw_events.data ->> withdrawal_paths.id_json_path, '') AS target_id,
    withdrawal_paths.replaces,
    raw_events.type AS event_type
FROM raw_events
INNER JOIN withdrawal_paths ON raw_events.type = withdrawal_paths.event_type
ORDER BY raw_events.object_id, raw_events.line_number
