-- account_days: one row per account and day of its billing period, as `account_periods` has a segment.
--
-- Grain:   account_id, segment
-- Reads:   account_zones, zone_days
-- Params:  $known_until  TIMESTAMPTZ  end of the last window that takes part; a level is counted up to here
--
-- Given to `period_usage` as its segments, each day is aggregated as if it were a period: a maximum is
-- that of the day, and a level counts from midnight to midnight.

SELECT
    account_zones.account_id,
    zone_days.day_number AS segment,
    zone_days.day_start AS period_start,
    zone_days.day_end AS period_end,
    LEAST(zone_days.day_end, $known_until) AS levels_until,
    CAST(NULL AS INTEGER) AS price_list
FROM account_zones
INNER JOIN zone_days ON account_zones.time_zone = zone_days.time_zone
WHERE zone_days.day_start < $known_until
ORDER BY account_zones.account_id, zone_days.day_number
