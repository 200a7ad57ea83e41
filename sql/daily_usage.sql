-- daily_usage: one row per account and SKU of a billing period: what a document shows of it by day.
--
-- Grain:   account_id, sku, unit
-- Reads:   usage, day_usage, billed_meters, account_zones, zone_days
-- Params:  none
--
-- Days are those of the account's own time zone; a grain is of the day in which it begins. Sums and
-- counts, which most meters are, are added up here. What any other aggregation comes to on a day is
-- `period_usage` of that day alone, in `day_usage`. A quantity is a text as documents have it, in the
-- unit that is priced, and rounded by itself: days of a unit that does not divide add up to the period
-- within half a billionth for each. Days and their quantities are two lists, divided by spaces; a day
-- without usage is in neither.

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

zone_grains AS (
    SELECT
        zone_days.time_zone,
        zone_days.day_number,
        grain_starts.grain_start
    FROM grain_starts
    INNER JOIN zone_days
        ON
            grain_starts.grain_start >= zone_days.day_start
            AND grain_starts.grain_start < zone_days.day_end
),

daily_sums AS (
    SELECT
        summed_usage.account_id,
        summed_usage.sku,
        summed_usage.aggregation,
        summed_usage.unit,
        zone_grains.day_number,
        SUM(summed_usage.value_sum) AS value_sum
    FROM summed_usage
    INNER JOIN account_zones ON summed_usage.account_id = account_zones.account_id
    INNER JOIN zone_grains
        ON
            account_zones.time_zone = zone_grains.time_zone
            AND summed_usage.grain_start = zone_grains.grain_start
    GROUP BY
        summed_usage.account_id,
        summed_usage.sku,
        summed_usage.aggregation,
        summed_usage.unit,
        zone_grains.day_number
),

whole_sums AS (
    SELECT
        daily_sums.account_id,
        daily_sums.sku,
        daily_sums.day_number,
        daily_sums.value_sum,
        billed_meters.billed_unit AS unit,
        CAST(billed_meters.divisor AS HUGEINT) AS divisor,
        CAST(REPLACE(CAST(ABS(daily_sums.value_sum) AS VARCHAR), '.', '') AS HUGEINT) AS billionths
    FROM daily_sums
    INNER JOIN billed_meters USING (sku, aggregation, unit)
),

day_quantities AS (
    SELECT
        account_id,
        sku,
        unit,
        day_number,
        CAST(SIGN(value_sum) AS HUGEINT)
        * (billionths // divisor + CAST(2 * (billionths % divisor) >= divisor AS HUGEINT))
        * 0.000000001 AS quantity
    FROM whole_sums
    UNION ALL
    SELECT
        day_usage.account_id,
        day_usage.sku,
        day_usage.unit,
        day_usage.segment AS day_number,
        day_usage.quantity
    FROM day_usage
    SEMI JOIN account_zones ON day_usage.account_id = account_zones.account_id
),

account_quantities AS (
    SELECT
        account_id,
        sku,
        unit,
        day_number,
        CAST(SUM(quantity) AS VARCHAR) AS quantity
    FROM day_quantities
    GROUP BY account_id, sku, unit, day_number
    HAVING SUM(quantity) <> 0
)

SELECT
    account_id,
    sku,
    unit,
    STRING_AGG(CAST(day_number AS VARCHAR), ' ' ORDER BY day_number) AS day_numbers,
    STRING_AGG(RTRIM(RTRIM(quantity, '0'), '.'), ' ' ORDER BY day_number) AS quantities
FROM account_quantities
GROUP BY account_id, sku, unit
ORDER BY account_id, sku, unit
