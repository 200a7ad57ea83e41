-- behind_line: one row per row of usage behind a line item, the first ones after a given place.
--
-- Grain:   dimensions, grain_start
-- Reads:   usage
-- Params:  $account_id       VARCHAR      the account of the line
--          $sku              VARCHAR      the SKU of the line
--          $service_start    TIMESTAMPTZ  start of the line's service period (inclusive)
--          $service_end      TIMESTAMPTZ  end of the line's service period (exclusive)
--          $after_grain      TIMESTAMPTZ  grain of the last row that was shown (exclusive)
--          $after_dimensions VARCHAR      dimensions of the last row that was shown (exclusive)
--          $row_count        BIGINT       how many rows (inclusive)
--
-- A page shows so many rows, and the totals are of all of them, so that every page of a line says what the
-- line rests on. Lines of several tiers have the same usage behind them: tiers divide it, not its events.

WITH

line_usage AS (
    SELECT
        dimensions,
        grain_start,
        aggregation,
        quantity,
        value_sum,
        unit,
        event_count,
        COUNT(*) OVER () AS row_count_in_all,
        CAST(SUM(event_count) OVER () AS BIGINT) AS event_count_in_all,
        SUM(value_sum) OVER () AS value_sum_in_all
    FROM usage
    WHERE
        account_id = $account_id
        AND sku = $sku
        AND grain_start >= $service_start
        AND grain_start < $service_end
),

shown_usage AS (
    SELECT *
    FROM line_usage
    WHERE (grain_start, dimensions) > ($after_grain, $after_dimensions)
    ORDER BY grain_start, dimensions
    LIMIT $row_count
)

SELECT
    dimensions,
    grain_start,
    aggregation,
    quantity,
    value_sum,
    unit,
    event_count,
    row_count_in_all,
    event_count_in_all,
    value_sum_in_all
FROM shown_usage
ORDER BY grain_start, dimensions
