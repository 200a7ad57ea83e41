-- behind_usage: one row per event behind a row of usage, the first ones after a given place.
--
-- Grain:   object_id, line_number
-- Reads:   event_quantities
-- Params:  $account_id       VARCHAR      the account of the usage
--          $sku              VARCHAR      the SKU of the usage
--          $dimensions       VARCHAR      the dimensions of the usage
--          $grain_start      TIMESTAMPTZ  start of the grain (inclusive)
--          $grain_end        TIMESTAMPTZ  end of the grain (exclusive)
--          $after_object     VARCHAR      object of the last event that was shown (exclusive)
--          $after_line       BIGINT       line of the last event that was shown (exclusive)
--          $row_count        BIGINT       how many events (inclusive)
--
-- The totals are of all events behind the row, whatever page is shown, so that a reader sees that they are
-- the event count and the value sum which the row of usage has.

WITH

usage_events_of_row AS (
    SELECT
        object_id,
        line_number,
        source,
        id,
        subject,
        event_at,
        received_at,
        value_text,
        quantity,
        COUNT(*) OVER () AS event_count_in_all,
        SUM(quantity) OVER () AS quantity_in_all
    FROM event_quantities
    WHERE
        account_id = $account_id
        AND sku = $sku
        AND dimensions = $dimensions
        AND event_at >= $grain_start
        AND event_at < $grain_end
),

shown_events AS (
    SELECT *
    FROM usage_events_of_row
    WHERE (object_id, line_number) > ($after_object, $after_line)
    ORDER BY object_id, line_number
    LIMIT $row_count
)

SELECT
    object_id,
    line_number,
    source,
    id,
    subject,
    event_at,
    received_at,
    value_text,
    quantity,
    event_count_in_all,
    quantity_in_all
FROM shown_events
ORDER BY object_id, line_number
