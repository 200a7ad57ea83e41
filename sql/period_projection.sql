-- period_projection: one row of usage as rating takes it, from one of the three projections of a period.
--
-- Grain:   account_id, sku, segment, dimensions, aggregation, unit
-- Reads:   projected_usage
-- Params:  $projection  VARCHAR  expected, low or high
--
-- Given to the SQL rater as `period_usage`.

SELECT
    account_id,
    sku,
    segment,
    dimensions,
    aggregation,
    unit,
    CASE $projection
        WHEN 'low' THEN low_quantity
        WHEN 'high' THEN high_quantity
        ELSE quantity
    END AS quantity,
    CASE $projection
        WHEN 'low' THEN low_event_count
        WHEN 'high' THEN high_event_count
        ELSE event_count
    END AS event_count
FROM projected_usage
ORDER BY account_id, sku, segment, dimensions, aggregation, unit
