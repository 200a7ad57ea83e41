-- unpriced_usage: one row per account, SKU, segment and reason: usage that no price is for.
--
-- Grain:   account_id, sku, segment, unit, dimensions, reason
-- Reads:   period_usage, event_values, priced_segments, price_list_charges, charges, charge_cells,
--          charge_dimensions
-- Params:  none
--
-- It is refused, never left out: no terms, no charge, no cell for its dimensions, another unit than the
-- currency that a dynamic price is in, a tier that ends below it, events without a value that are priced one
-- by one, or one SKU counted in two ways. A quantity of zero costs nothing and needs no price.

WITH

termed_usage AS (
    SELECT
        period_usage.*,
        priced_segments.priced_segment,
        price_list_charges.charge,
        price_list_charges.has_cells
    FROM period_usage
    LEFT JOIN priced_segments
        ON
            period_usage.account_id = priced_segments.account_id
            AND period_usage.segment = priced_segments.segment
            AND priced_segments.timing = 'arrears'
    LEFT JOIN price_list_charges
        ON
            priced_segments.price_list = price_list_charges.price_list
            AND period_usage.sku = price_list_charges.sku
),

found_dimensions AS (
    SELECT DISTINCT
        charge,
        dimensions
    FROM termed_usage
    WHERE has_cells
),

found_values AS (
    SELECT
        found_dimensions.charge,
        found_dimensions.dimensions,
        LIST(
            COALESCE(
                JSON_EXTRACT_STRING(
                    COALESCE(NULLIF(CAST(found_dimensions.dimensions AS VARCHAR), ''), '{}'),
                    charge_dimensions.json_path
                ),
                ''
            )
            ORDER BY charge_dimensions.position
        ) AS dimension_values
    FROM found_dimensions
    INNER JOIN charge_dimensions USING (charge)
    GROUP BY found_dimensions.charge, found_dimensions.dimensions
),

unpriced_dimensions AS (
    SELECT
        found_values.charge,
        found_values.dimensions
    FROM found_values
    LEFT JOIN charge_cells
        ON
            found_values.charge = charge_cells.charge
            AND (
                charge_cells.dimension_values IS NULL
                OR found_values.dimension_values = charge_cells.dimension_values
            )
    GROUP BY found_values.charge, found_values.dimensions
    HAVING COUNT(charge_cells.charge) = 0
),

counted_ways AS (
    SELECT
        account_id,
        sku
    FROM period_usage
    GROUP BY account_id, sku
    HAVING MIN(unit) <> MAX(unit) OR MIN(aggregation) <> MAX(aggregation)
),

account_totals AS (
    SELECT
        account_id,
        sku,
        SUM(quantity) AS quantity
    FROM termed_usage
    SEMI JOIN charges ON termed_usage.charge = charges.charge AND charges.highest_unit IS NOT NULL
    GROUP BY account_id, sku
),

-- A period that began to keep values half-way has events without one, which would be free.
counted_events AS (
    SELECT
        termed_usage.account_id,
        termed_usage.sku,
        termed_usage.segment,
        SUM(termed_usage.event_count) AS event_count
    FROM termed_usage
    SEMI JOIN charges ON termed_usage.charge = charges.charge AND charges.needs_values
    GROUP BY termed_usage.account_id, termed_usage.sku, termed_usage.segment
),

valued_events AS (
    SELECT
        account_id,
        sku,
        segment,
        SUM(event_count) AS event_count
    FROM event_values
    GROUP BY account_id, sku, segment
),

problems AS (
    SELECT
        account_id,
        sku,
        segment,
        unit,
        dimensions,
        'no_terms' AS reason
    FROM termed_usage
    WHERE priced_segment IS NULL AND quantity <> 0
    UNION ALL
    SELECT
        account_id,
        sku,
        segment,
        unit,
        dimensions,
        'no_charge' AS reason
    FROM termed_usage
    WHERE priced_segment IS NOT NULL AND charge IS NULL AND quantity <> 0
    UNION ALL
    SELECT
        termed_usage.account_id,
        termed_usage.sku,
        termed_usage.segment,
        termed_usage.unit,
        termed_usage.dimensions,
        'no_cell' AS reason
    FROM termed_usage
    SEMI JOIN unpriced_dimensions USING (charge, dimensions)
    WHERE termed_usage.quantity <> 0
    UNION ALL
    SELECT
        termed_usage.account_id,
        termed_usage.sku,
        termed_usage.segment,
        termed_usage.unit,
        termed_usage.dimensions,
        'not_in_currency' AS reason
    FROM termed_usage
    INNER JOIN charges ON termed_usage.charge = charges.charge
    WHERE
        charges.required_unit IS NOT NULL
        AND termed_usage.unit <> charges.required_unit
        AND termed_usage.quantity <> 0
    UNION ALL
    SELECT
        termed_usage.account_id,
        termed_usage.sku,
        termed_usage.segment,
        termed_usage.unit,
        termed_usage.dimensions,
        'above_last_tier' AS reason
    FROM termed_usage
    INNER JOIN charges ON termed_usage.charge = charges.charge
    INNER JOIN account_totals
        ON termed_usage.account_id = account_totals.account_id AND termed_usage.sku = account_totals.sku
    WHERE account_totals.quantity - charges.included_units > charges.highest_unit
    UNION ALL
    SELECT
        termed_usage.account_id,
        termed_usage.sku,
        termed_usage.segment,
        termed_usage.unit,
        termed_usage.dimensions,
        'no_event_values' AS reason
    FROM termed_usage
    INNER JOIN charges ON termed_usage.charge = charges.charge
    INNER JOIN counted_events
        ON
            termed_usage.account_id = counted_events.account_id
            AND termed_usage.sku = counted_events.sku
            AND termed_usage.segment = counted_events.segment
    LEFT JOIN valued_events
        ON
            termed_usage.account_id = valued_events.account_id
            AND termed_usage.sku = valued_events.sku
            AND termed_usage.segment = valued_events.segment
    WHERE
        charges.needs_values
        AND (
            counted_events.event_count <> COALESCE(valued_events.event_count, 0)
            OR (termed_usage.quantity <> 0 AND valued_events.event_count IS NULL)
        )
    UNION ALL
    SELECT
        period_usage.account_id,
        period_usage.sku,
        period_usage.segment,
        period_usage.unit,
        period_usage.dimensions,
        'counted_in_two_ways' AS reason
    FROM period_usage
    SEMI JOIN counted_ways USING (account_id, sku)
)

SELECT
    account_id,
    sku,
    segment,
    unit,
    dimensions,
    reason
FROM problems
ORDER BY account_id, sku, segment, unit, dimensions, reason
