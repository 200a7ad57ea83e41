-- projected_usage: one row per account, SKU and segment of a billing period: what it will come to at the end.
--
-- Grain:   account_id, sku, segment, dimensions, aggregation, unit
-- Reads:   usage, period_usage, day_usage, billed_meters, account_forecasts, forecast_days, forecast_rest,
--          priced_dimensions, priced_by_event
-- Params:  none
--
-- To what was used so far comes the rest of the period: the mean of the days that it is projected from, by
-- day_group, for each part of a day that is left; the lowest and the highest of them for the bounds. A day
-- without usage is one of zero. What is left of a day is counted in 1440ths. Only what is summed up over
-- time goes on; a maximum or an average stays, and so does what is priced event by event. In `day_usage` a
-- segment is 100 times the segment that is projected, and the day.

WITH

summed_usage AS (
    SELECT *
    FROM usage
    WHERE aggregation IN ('sum', 'count')
),

grain_starts AS (
    SELECT DISTINCT grain_start
    FROM summed_usage
),

forecast_grains AS (
    SELECT
        forecast_days.forecast,
        forecast_days.day_number,
        grain_starts.grain_start
    FROM grain_starts
    INNER JOIN forecast_days
        ON
            grain_starts.grain_start >= forecast_days.day_start
            AND grain_starts.grain_start < forecast_days.day_end
),

daily_sums AS (
    SELECT
        account_forecasts.account_id,
        summed_usage.sku,
        account_forecasts.segment,
        account_forecasts.forecast,
        CASE WHEN priced_dimensions.sku IS NULL THEN '' ELSE summed_usage.dimensions END AS priced_as,
        summed_usage.aggregation,
        summed_usage.unit,
        forecast_grains.day_number,
        SUM(summed_usage.value_sum) AS day_value,
        SUM(summed_usage.event_count) AS event_count
    FROM summed_usage
    INNER JOIN account_forecasts ON summed_usage.account_id = account_forecasts.account_id
    INNER JOIN forecast_grains
        ON
            account_forecasts.forecast = forecast_grains.forecast
            AND summed_usage.grain_start = forecast_grains.grain_start
    LEFT JOIN priced_dimensions
        ON
            account_forecasts.price_list = priced_dimensions.price_list
            AND summed_usage.sku = priced_dimensions.sku
    ANTI JOIN priced_by_event
        ON
            account_forecasts.price_list = priced_by_event.price_list
            AND summed_usage.sku = priced_by_event.sku
    GROUP BY
        account_forecasts.account_id,
        summed_usage.sku,
        account_forecasts.segment,
        account_forecasts.forecast,
        priced_as,
        summed_usage.aggregation,
        summed_usage.unit,
        forecast_grains.day_number
),

daily_values AS (
    SELECT
        daily_sums.account_id,
        daily_sums.sku,
        daily_sums.segment,
        daily_sums.forecast,
        daily_sums.priced_as,
        daily_sums.aggregation,
        billed_meters.billed_unit AS unit,
        CAST(billed_meters.divisor AS HUGEINT) AS divisor,
        daily_sums.day_number,
        daily_sums.day_value,
        daily_sums.event_count
    FROM daily_sums
    INNER JOIN billed_meters USING (sku, aggregation, unit)
    UNION ALL
    SELECT
        day_usage.account_id,
        day_usage.sku,
        account_forecasts.segment,
        account_forecasts.forecast,
        day_usage.dimensions AS priced_as,
        day_usage.aggregation,
        day_usage.unit,
        1 AS divisor,
        day_usage.segment % 100 AS day_number,
        day_usage.quantity AS day_value,
        day_usage.event_count
    FROM day_usage
    INNER JOIN account_forecasts
        ON
            day_usage.account_id = account_forecasts.account_id
            AND day_usage.segment // 100 = account_forecasts.segment
    WHERE day_usage.aggregation IN ('time_weighted_sum', 'sum_of_maxima')
),

group_values AS (
    SELECT
        daily_values.account_id,
        daily_values.sku,
        daily_values.segment,
        daily_values.forecast,
        daily_values.priced_as,
        daily_values.aggregation,
        daily_values.unit,
        daily_values.divisor,
        forecast_days.day_group,
        COUNT(*) AS found_days,
        SUM(daily_values.day_value) AS day_values,
        MIN(daily_values.day_value) AS lowest_value,
        MAX(daily_values.day_value) AS highest_value,
        SUM(daily_values.event_count) AS event_counts,
        MIN(daily_values.event_count) AS lowest_count,
        MAX(daily_values.event_count) AS highest_count
    FROM daily_values
    INNER JOIN forecast_days USING (forecast, day_number)
    GROUP BY
        daily_values.account_id,
        daily_values.sku,
        daily_values.segment,
        daily_values.forecast,
        daily_values.priced_as,
        daily_values.aggregation,
        daily_values.unit,
        daily_values.divisor,
        forecast_days.day_group
),

rest_sums AS (
    SELECT
        group_values.account_id,
        group_values.sku,
        group_values.segment,
        group_values.priced_as,
        group_values.aggregation,
        group_values.unit,
        1440 * group_values.divisor AS parts,
        forecast_rest.group_days,
        SUM(forecast_rest.parts_left * group_values.day_values) AS rest_values,
        SUM(
            forecast_rest.parts_left
            * CASE
                WHEN group_values.found_days = forecast_rest.group_days THEN group_values.lowest_value
                ELSE LEAST(group_values.lowest_value, 0)
            END
        ) AS lowest_rest,
        SUM(
            forecast_rest.parts_left
            * CASE
                WHEN group_values.found_days = forecast_rest.group_days THEN group_values.highest_value
                ELSE GREATEST(group_values.highest_value, 0)
            END
        ) AS highest_rest,
        SUM(forecast_rest.parts_left * group_values.event_counts) AS rest_events,
        SUM(
            forecast_rest.parts_left
            * CASE
                WHEN group_values.found_days = forecast_rest.group_days THEN group_values.lowest_count
                ELSE 0
            END
        ) AS lowest_events,
        SUM(forecast_rest.parts_left * group_values.highest_count) AS highest_events
    FROM group_values
    INNER JOIN forecast_rest
        ON
            group_values.forecast = forecast_rest.forecast
            AND group_values.segment = forecast_rest.segment
            AND group_values.day_group = forecast_rest.day_group
    GROUP BY
        group_values.account_id,
        group_values.sku,
        group_values.segment,
        group_values.priced_as,
        group_values.aggregation,
        group_values.unit,
        group_values.divisor,
        forecast_rest.group_days
),

projection_names AS (
    SELECT UNNEST(['expected', 'low', 'high']) AS projection
),

-- The three projections one below the other: what is left, and what it is divided by.
rest_quotients AS (
    SELECT
        rest_sums.*,
        projection_names.projection,
        CASE projection_names.projection
            WHEN 'low' THEN rest_sums.lowest_rest
            WHEN 'high' THEN rest_sums.highest_rest
            ELSE rest_sums.rest_values
        END AS rest,
        CASE projection_names.projection
            WHEN 'low' THEN rest_sums.lowest_events
            WHEN 'high' THEN rest_sums.highest_events
            ELSE rest_sums.rest_events
        END AS events,
        CASE projection_names.projection WHEN 'expected' THEN rest_sums.group_days ELSE 1 END AS averaged_days
    FROM rest_sums
    CROSS JOIN projection_names
),

rests AS (
    SELECT
        account_id,
        sku,
        segment,
        priced_as,
        aggregation,
        unit,
        projection,
        CAST(SIGN(rest) AS HUGEINT) AS fraction_sign,
        CAST(REPLACE(CAST(ABS(rest) AS VARCHAR), '.', '') AS HUGEINT) AS billionths,
        parts * averaged_days AS divisor,
        CAST(events AS HUGEINT) AS event_parts,
        CAST(1440 * averaged_days AS HUGEINT) AS event_divisor
    FROM rest_quotients
),

projections AS (
    SELECT
        account_id,
        sku,
        segment,
        priced_as,
        aggregation,
        unit,
        projection,
        fraction_sign
        * (billionths // divisor + CAST(2 * (billionths % divisor) >= divisor AS HUGEINT))
        * 0.000000001 AS quantity,
        (2 * event_parts + event_divisor) // (2 * event_divisor) AS event_count
    FROM rests
    UNION ALL
    SELECT
        period_usage.account_id,
        period_usage.sku,
        period_usage.segment,
        period_usage.dimensions AS priced_as,
        period_usage.aggregation,
        period_usage.unit,
        projection_names.projection,
        period_usage.quantity,
        period_usage.event_count
    FROM period_usage
    CROSS JOIN projection_names
)

SELECT
    account_id,
    sku,
    segment,
    priced_as AS dimensions,
    aggregation,
    unit,
    CAST(SUM(quantity) FILTER (WHERE projection = 'expected') AS DECIMAL(38, 9)) AS quantity,
    CAST(SUM(quantity) FILTER (WHERE projection = 'low') AS DECIMAL(38, 9)) AS low_quantity,
    CAST(SUM(quantity) FILTER (WHERE projection = 'high') AS DECIMAL(38, 9)) AS high_quantity,
    CAST(SUM(event_count) FILTER (WHERE projection = 'expected') AS BIGINT) AS event_count,
    CAST(SUM(event_count) FILTER (WHERE projection = 'low') AS BIGINT) AS low_event_count,
    CAST(SUM(event_count) FILTER (WHERE projection = 'high') AS BIGINT) AS high_event_count
FROM projections
GROUP BY account_id, sku, segment, priced_as, aggregation, unit
ORDER BY account_id, sku, segment, priced_as, aggregation, unit
