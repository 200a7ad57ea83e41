-- unsummed_usage: one row of usage whose aggregation is neither a sum nor a count.
--
-- Grain:   account_id, sku, dimensions, grain_start
-- Reads:   usage
-- Params:  none
--
-- Most usage is summed, and what is not is looked at day by day; the rows are those of `usage`.

SELECT
    account_id,
    sku,
    dimensions,
    grain_start,
    aggregation,
    quantity,
    value_sum,
    unit,
    event_count,
    event_set_hash
FROM usage
WHERE aggregation NOT IN ('sum', 'count')
ORDER BY account_id, sku, dimensions, grain_start
