-- event_amounts: one row per account, SKU and segment: what its events cost where each is priced by itself.
--
-- Grain:   account_id, sku, segment
-- Reads:   event_values, priced_segments, price_list_charges, charges, charge_bands
-- Params:  none
--
-- Events come in order of their grain, then of their value. One of zero or less pays its percentage, without
-- fee, bounds and allowance. Of the others the first ones are free: so many, or until their sum passes the
-- allowance; the one that passes it pays the percentage of what is above. In a period that counts on,
-- allowances go on from segment to segment.

WITH

ordered_values AS (
    SELECT
        event_values.account_id,
        event_values.sku,
        event_values.segment,
        event_values.grain_start,
        event_values.value AS event_value,
        CAST(event_values.event_count AS HUGEINT) AS event_count,
        CASE WHEN priced_segments.counts_on THEN 0 ELSE event_values.segment END AS counted_from,
        priced_segments.price_list
    FROM event_values
    INNER JOIN priced_segments
        ON
            event_values.account_id = priced_segments.account_id
            AND event_values.segment = priced_segments.segment
            AND priced_segments.timing = 'arrears'
),

counted_values AS (
    SELECT
        *,
        event_value > 0 AS is_positive,
        COALESCE(
            SUM(CASE WHEN event_value > 0 THEN event_count ELSE 0 END) OVER earlier,
            0
        ) AS events_before,
        COALESCE(
            SUM(CASE WHEN event_value > 0 THEN event_value * event_count ELSE 0 END) OVER earlier,
            0
        ) AS amount_before
    FROM ordered_values
    WINDOW earlier AS (
        PARTITION BY account_id, sku, counted_from
        ORDER BY segment, grain_start, event_value
        ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW
    )
),

-- What is left of each allowance when the events of the row begin.
open_allowances AS (
    SELECT
        counted_values.*,
        charges.fee_per_event,
        charges.minimum_per_event,
        charges.maximum_per_event,
        charge_bands.price_of_one AS factor,
        GREATEST(charges.free_events - counted_values.events_before, 0) AS events_left,
        GREATEST(charges.free_amount - counted_values.amount_before, 0) AS amount_left
    FROM counted_values
    INNER JOIN price_list_charges
        ON
            counted_values.price_list = price_list_charges.price_list
            AND counted_values.sku = price_list_charges.sku
    INNER JOIN charges ON price_list_charges.charge = charges.charge
    INNER JOIN charge_bands ON charges.charge = charge_bands.charge
    WHERE charges.needs_values
),

-- How many events lie inside the amount that is free: a quotient of whole billionths.
free_counts AS (
    SELECT
        *,
        CASE
            WHEN NOT is_positive THEN 0
            ELSE LEAST(
                event_count,
                GREATEST(
                    CAST(events_left AS HUGEINT),
                    CAST(REPLACE(CAST(CAST(amount_left AS DECIMAL(38, 9)) AS VARCHAR), '.', '') AS HUGEINT)
                    // CAST(REPLACE(CAST(ABS(event_value) AS VARCHAR), '.', '') AS HUGEINT)
                )
            )
        END AS free_count
    FROM open_allowances
),

crossing_values AS (
    SELECT
        *,
        is_positive
        AND free_count < event_count
        AND amount_left > free_count * event_value AS has_crossing,
        CAST((free_count + 1) * event_value - amount_left AS DECIMAL(38, 9)) AS value_above
    FROM free_counts
),

event_costs AS (
    SELECT
        account_id,
        sku,
        segment,
        CASE
            WHEN is_positive
                THEN
                    GREATEST(
                        LEAST(
                            CAST(event_value * factor AS DECIMAL(38, 21)) + fee_per_event,
                            CAST(maximum_per_event AS DECIMAL(38, 21))
                        ),
                        CAST(minimum_per_event AS DECIMAL(38, 21))
                    )
            ELSE CAST(event_value * factor AS DECIMAL(38, 21))
        END AS cost_of_one,
        event_count - free_count - CAST(has_crossing AS HUGEINT) AS paid_count,
        CASE
            WHEN has_crossing
                THEN
                    GREATEST(
                        LEAST(
                            CAST(value_above * factor AS DECIMAL(38, 21)) + fee_per_event,
                            CAST(maximum_per_event AS DECIMAL(38, 21))
                        ),
                        CAST(minimum_per_event AS DECIMAL(38, 21))
                    )
            ELSE CAST(0 AS DECIMAL(38, 21))
        END AS crossing_cost
    FROM crossing_values
)

SELECT
    account_id,
    sku,
    segment,
    SUM(CAST(cost_of_one * paid_count AS DECIMAL(38, 21)) + crossing_cost) AS amount_exact
FROM event_costs
GROUP BY account_id, sku, segment
ORDER BY account_id, sku, segment
