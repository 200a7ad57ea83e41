-- projected_usage: one row per account, SKU and segment of its billing period: what it will have used at the end.
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
                WHEN group_values.found_days < forecast_rest.group_days THEN LEAST(group_values.lowest_value, 0)
                ELSE group_values.lowest_value
            END
        ) AS lowest_rest,
        SUM(
            forecast_rest.parts_left
            * CASE
                WHEN group_values.found_days < forecast_rest.group_days THEN GREATEST(group_values.highest_value, 0)
                ELSE group_values.highest_value
            END
        ) AS highest_rest,
        SUM(forecast_rest.parts_left * group_values.event_counts) AS rest_events,
        SUM(
            forecast_rest.parts_left
            * CASE WHEN group_values.found_days < forecast_rest.group_days THEN 0 ELSE group_values.lowest_count END
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

-- The three projections one below the other, as fractions of whole billionths.
rest_fractions AS (
    SELECT
        *,
        UNNEST(
            [
                {'projection': 'expected', 'rest': rest_values, 'events': rest_events, 'days': group_days},
                {'projection': 'low', 'rest': lowest_rest, 'events': lowest_events, 'days': 1},
                {'projection': 'high', 'rest': highest_rest, 'events': highest_events, 'days': 1}
            ]
        ) AS of_rest
    FROM rest_sums
),

rests AS (
    SELECT
        account_id,
        sku,
        segment,
        priced_as,
        aggregation,
        unit,
        of_rest.projection AS projection,
        CAST(SIGN(of_rest.rest) AS HUGEINT) AS fraction_sign,
        CAST(REPLACE(CAST(ABS(of_rest.rest) AS VARCHAR), '.', '') AS HUGEINT) AS billionths,
        parts * of_rest.days AS divisor,
        CAST(of_rest.events AS HUGEINT) AS event_parts,
        CAST(1440 * of_rest.days AS HUGEINT) AS event_divisor
    FROM rest_fractions
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
        account_id,
        sku,
        segment,
        dimensions AS priced_as,
        aggregation,
        unit,
        UNNEST(['expected', 'low', 'high']) AS projection,
        quantity,
        event_count
    FROM period_usage
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
