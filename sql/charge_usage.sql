-- charge_usage: one row per account, SKU, segment and cell: the usage that is priced, and where it begins.
--
-- Grain:   account_id, sku, segment, cell
-- Reads:   period_usage, priced_segments, price_lists, price_list_charges, charges, charge_bands,
--          charge_cells, charge_dimensions
-- Params:  none
--
-- Where a period is split and counts on, usage begins where that of the segments before ended, whatever
-- prices those. What is not additive cannot be counted on: it is prorated by days instead, half up at nine
-- decimals. A charge is rated without usage where zero costs something, and in each segment of a period
-- that counts on once a segment is rated. There, fees_paid is the number of graduated tiers whose flat fee
-- earlier segments with a graduated charge have paid: the most tiers that were entered as one of them ended,
-- counted anew from a segment in which usage left a tier. Most accounts have one segment, so their rows take
-- the short way.

WITH

priced_usage AS (
    SELECT
        priced_segments.priced_segment,
        period_usage.account_id,
        period_usage.sku,
        period_usage.segment,
        price_list_charges.charge,
        price_list_charges.has_cells,
        period_usage.dimensions,
        period_usage.aggregation,
        period_usage.unit,
        period_usage.quantity,
        period_usage.event_count,
        priced_segments.segment_count,
        priced_segments.counts_on,
        priced_segments.active_days,
        priced_segments.days,
        priced_segments.segment_count = 1
        AND NOT price_list_charges.has_cells
        AND COALESCE(period_usage.dimensions, '') = '' AS is_alone
    FROM period_usage
    INNER JOIN priced_segments
        ON
            period_usage.account_id = priced_segments.account_id
            AND period_usage.segment = priced_segments.segment
            AND priced_segments.timing = 'arrears'
    INNER JOIN price_list_charges
        ON
            priced_segments.price_list = price_list_charges.price_list
            AND period_usage.sku = price_list_charges.sku
),

shared_usage AS (
    SELECT
        *,
        aggregation IN ('sum', 'count', 'time_weighted_sum', 'sum_of_maxima') AS is_additive
    FROM priced_usage
    WHERE NOT is_alone
),

found_dimensions AS (
    SELECT DISTINCT
        charge,
        dimensions
    FROM shared_usage
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

found_cells AS (
    SELECT
        found_values.charge,
        found_values.dimensions,
        COALESCE(own_cells.tier, default_cells.tier) AS cell
    FROM found_values
    LEFT JOIN charge_cells AS own_cells
        ON
            found_values.charge = own_cells.charge
            AND found_values.dimension_values = own_cells.dimension_values
    LEFT JOIN charge_cells AS default_cells
        ON found_values.charge = default_cells.charge AND default_cells.dimension_values IS NULL
),

segment_sums AS (
    SELECT
        shared_usage.priced_segment,
        shared_usage.account_id,
        shared_usage.sku,
        shared_usage.segment,
        shared_usage.charge,
        shared_usage.has_cells,
        found_cells.cell,
        MIN(shared_usage.unit) AS unit,
        SUM(shared_usage.quantity) AS quantity,
        CAST(SUM(shared_usage.event_count) AS BIGINT) AS event_count,
        BOOL_AND(shared_usage.is_additive) AS is_additive
    FROM shared_usage
    LEFT JOIN found_cells USING (charge, dimensions)
    GROUP BY
        shared_usage.priced_segment,
        shared_usage.account_id,
        shared_usage.sku,
        shared_usage.segment,
        shared_usage.charge,
        shared_usage.has_cells,
        found_cells.cell
),

account_skus AS (
    SELECT
        account_id,
        sku,
        MIN(unit) AS unit,
        BOOL_AND(is_additive) AS is_additive
    FROM segment_sums
    GROUP BY account_id, sku
),

-- Whatever may have to be rated without usage: what costs something, and what counts on.
costly_charges AS (
    SELECT
        priced_segments.priced_segment,
        priced_segments.account_id,
        price_list_charges.sku,
        priced_segments.segment,
        price_list_charges.charge
    FROM charges
    INNER JOIN price_list_charges USING (charge)
    INNER JOIN priced_segments USING (price_list)
    WHERE
        charges.zero_usage_costs
        AND priced_segments.timing = 'arrears'
        AND priced_segments.active_days > 0
),

counting_skus AS (
    SELECT
        account_id,
        sku
    FROM account_skus
    WHERE is_additive
    UNION
    SELECT
        costly_charges.account_id,
        costly_charges.sku
    FROM costly_charges
    INNER JOIN priced_segments ON costly_charges.priced_segment = priced_segments.priced_segment
    WHERE priced_segments.counts_on
),

costly_zeros AS (
    SELECT *
    FROM costly_charges
    UNION
    SELECT
        priced_segments.priced_segment,
        priced_segments.account_id,
        price_list_charges.sku,
        priced_segments.segment,
        price_list_charges.charge
    FROM counting_skus
    INNER JOIN priced_segments ON counting_skus.account_id = priced_segments.account_id
    INNER JOIN price_list_charges
        ON
            priced_segments.price_list = price_list_charges.price_list
            AND counting_skus.sku = price_list_charges.sku
    WHERE
        priced_segments.counts_on
        AND priced_segments.active_days > 0
),

unused_charges AS (
    SELECT costly_zeros.*
    FROM costly_zeros
    ANTI JOIN priced_usage
        ON
            costly_zeros.account_id = priced_usage.account_id
            AND costly_zeros.sku = priced_usage.sku
            AND costly_zeros.segment = priced_usage.segment
),

rated_sums AS (
    SELECT
        priced_segment,
        account_id,
        sku,
        segment,
        charge,
        has_cells,
        cell,
        unit,
        quantity,
        event_count,
        is_additive
    FROM segment_sums
    UNION ALL
    SELECT
        unused_charges.priced_segment,
        unused_charges.account_id,
        unused_charges.sku,
        unused_charges.segment,
        unused_charges.charge,
        FALSE AS has_cells,
        NULL AS cell,
        COALESCE(account_skus.unit, price_lists.no_text) AS unit,
        0 AS quantity,
        0 AS event_count,
        COALESCE(account_skus.is_additive, TRUE) AS is_additive
    FROM unused_charges
    INNER JOIN priced_segments ON unused_charges.priced_segment = priced_segments.priced_segment
    INNER JOIN price_lists ON priced_segments.price_list = price_lists.price_list
    LEFT JOIN account_skus
        ON unused_charges.account_id = account_skus.account_id AND unused_charges.sku = account_skus.sku
),

-- Whole billionths of what is not additive, to be divided by the days.
shared_days AS (
    SELECT
        rated_sums.*,
        priced_segments.counts_on AND rated_sums.is_additive AS counts_on,
        priced_segments.active_days > 0 AS has_day,
        NOT rated_sums.is_additive AND priced_segments.segment_count > 1 AS is_prorated,
        CAST(priced_segments.days AS HUGEINT) AS days,
        CASE
            WHEN NOT rated_sums.is_additive AND priced_segments.segment_count > 1
                THEN CAST(
                    REPLACE(CAST(ABS(rated_sums.quantity) * priced_segments.active_days AS VARCHAR), '.', '')
                    AS HUGEINT
                )
        END AS billionth_days
    FROM rated_sums
    INNER JOIN priced_segments USING (priced_segment)
),

shared_quantities AS (
    SELECT
        * EXCLUDE (quantity),
        CAST(
            CASE
                WHEN is_prorated
                    THEN SIGN(quantity) * 0.000000001 * (
                        billionth_days // days
                        + CAST(2 * (billionth_days % days) >= days AS HUGEINT)
                    )
                ELSE quantity
            END AS DECIMAL(38, 9)
        ) AS quantity
    FROM shared_days
),

shared_positions AS (
    SELECT
        *,
        CAST(
            CASE
                WHEN counts_on
                    THEN SUM(quantity) OVER (
                        PARTITION BY account_id, sku
                        ORDER BY segment
                        RANGE UNBOUNDED PRECEDING
                    )
                ELSE quantity
            END AS DECIMAL(38, 9)
        ) AS used_until,
        CAST(
            CASE WHEN counts_on THEN SUM(quantity) OVER (PARTITION BY account_id, sku) ELSE quantity END
            AS DECIMAL(38, 9)
        ) AS used_in_all
    FROM shared_quantities
),

-- The bounds above which tiers after the first are entered.
charge_bounds_above AS (
    SELECT
        charge,
        LIST(above) FILTER (above IS NOT NULL) AS bounds
    FROM charge_bands
    WHERE NOT is_included
    GROUP BY charge
),

tier_positions AS (
    SELECT
        shared_positions.*,
        charges.tier_fees,
        charges.charges_zero_usage,
        charge_bounds_above.bounds,
        shared_positions.used_until - shared_positions.quantity AS used_before,
        (shared_positions.used_until - shared_positions.quantity) - LEAST(
            GREATEST(shared_positions.used_until - shared_positions.quantity, 0), charges.included_units
        ) AS count_from,
        shared_positions.used_until
        - LEAST(GREATEST(shared_positions.used_until, 0), charges.included_units) AS count_to
    FROM shared_positions
    INNER JOIN charges ON shared_positions.charge = charges.charge
    LEFT JOIN charge_bounds_above ON shared_positions.charge = charge_bounds_above.charge
),

tiers_entered AS (
    SELECT
        *,
        CASE
            WHEN count_from < 0 OR (count_from = 0 AND NOT charges_zero_usage) THEN 0
            ELSE 1 + COALESCE(LEN(LIST_FILTER(bounds, lambda bound: count_from > bound)), 0)
        END AS entered_before,
        CASE
            WHEN count_to < 0 OR (count_to = 0 AND NOT charges_zero_usage) THEN 0
            ELSE 1 + COALESCE(LEN(LIST_FILTER(bounds, lambda bound: count_to > bound)), 0)
        END AS entered_until
    FROM tier_positions
),

tier_runs AS (
    SELECT
        *,
        SUM(CAST(entered_until < entered_before AS INTEGER)) OVER (
            PARTITION BY account_id, sku, tier_fees
            ORDER BY segment
        ) AS run
    FROM tiers_entered
),

paid_tiers AS (
    SELECT
        *,
        MAX(entered_until) OVER (PARTITION BY account_id, sku, tier_fees, run ORDER BY segment) AS paid_until,
        COALESCE(
            MAX(CASE WHEN has_day THEN segment END) OVER (PARTITION BY account_id, sku, tier_fees),
            MAX(segment) OVER (PARTITION BY account_id, sku, tier_fees)
        ) AS last_segment
    FROM tier_runs
),

paid_fees AS (
    SELECT
        *,
        COALESCE(
            LAG(paid_until) OVER (PARTITION BY account_id, sku, tier_fees ORDER BY segment, cell), 0
        ) AS paid_before
    FROM paid_tiers
)

SELECT
    priced_segment,
    account_id,
    sku,
    segment,
    charge,
    CAST(NULL AS INTEGER) AS cell,
    unit,
    CAST(0 AS DECIMAL(38, 9)) AS used_before,
    quantity AS used_until,
    quantity AS used_in_all,
    CAST(0 AS BIGINT) AS fees_paid,
    TRUE AS owes_volume_fee,
    event_count
FROM priced_usage
WHERE is_alone
UNION ALL
SELECT
    priced_segment,
    account_id,
    sku,
    segment,
    charge,
    cell,
    unit,
    CASE WHEN has_cells THEN 0 ELSE used_before END AS used_before,
    CASE WHEN has_cells THEN quantity ELSE used_until END AS used_until,
    CASE WHEN has_cells THEN quantity ELSE used_in_all END AS used_in_all,
    CASE WHEN counts_on AND tier_fees = 'graduated' THEN paid_before ELSE 0 END AS fees_paid,
    NOT counts_on OR segment = last_segment AS owes_volume_fee,
    event_count
FROM paid_fees
ORDER BY account_id, sku, segment, cell
