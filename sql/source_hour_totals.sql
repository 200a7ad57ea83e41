-- source_hour_totals: one row per event source, hour and summed path of the collected events.
--
-- Grain:   source, hour_start, path
-- Reads:   raw_events, contract_objects, summed_paths
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--          $cutoff_at     TIMESTAMPTZ  an event received at or after it is late (exclusive)
--
-- What a control file is compared with: what the producer sent, once each. A copy is the transport's
-- doing, so the copy received first counts and the others do not; a late event will not be billed by
-- this revision, so it does not count either. `quantity` is always among the paths, for the count.

WITH

collected_copies AS (
    SELECT
        raw_events.source,
        raw_events.id,
        raw_events.event_at,
        raw_events.received_at,
        raw_events.object_id,
        raw_events.line_number,
        raw_events.quantity,
        raw_events.data
    FROM raw_events
    SEMI JOIN contract_objects ON raw_events.object_id = contract_objects.object_id
    WHERE
        raw_events.event_at >= $window_start
        AND raw_events.event_at < $window_end
        AND raw_events.received_at < $cutoff_at
),

sent_events AS (
    SELECT
        source,
        DATE_TRUNC('hour', event_at) AS hour_start,
        quantity,
        data
    FROM collected_copies
    QUALIFY
        1 = ROW_NUMBER() OVER (
            PARTITION BY source, id
            ORDER BY received_at, object_id, line_number
        )
),

path_texts AS (
    SELECT
        sent_events.source,
        sent_events.hour_start,
        summed_paths.path,
        CASE
            WHEN summed_paths.path = 'quantity' THEN CAST(sent_events.quantity AS VARCHAR)
            ELSE sent_events.data ->> (
                '$."'
                || REPLACE(REGEXP_REPLACE(summed_paths.path, '^data\.', ''), '.', '"."')
                || '"'
            )
        END AS value_text
    FROM sent_events
    CROSS JOIN summed_paths
)

SELECT
    source,
    hour_start,
    path,
    COUNT(*) AS event_count,
    COALESCE(
        SUM(
            CASE
                WHEN REGEXP_FULL_MATCH(value_text, '-?[0-9]{1,29}(\.[0-9]{1,9})?')
                    THEN TRY_CAST(value_text AS DECIMAL(38, 9))
            END
        ),
        0
    ) AS total
FROM path_texts
GROUP BY
    source,
    hour_start,
    path
ORDER BY source, hour_start, path
