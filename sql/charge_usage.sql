-- charge_usage: one row per account, SKU, segment and cell: the usage that is priced, and where it begins.
--
-- Grain:   account_id, sku, segment, cell
-- Reads:   period_usage, priced_segments, price_lists, price_list_charges, charges, charge_cells,
--          charge_dimensions
-- Params:  none
--
-- Where a period is split and counts on, usage begins where that of the segments before ended, whatever
-- prices those. What is not additive cannot be counted on: it is prorated by days instead, half up at nine
-- decimals. A charge is rated without usage where zero costs something, and in each segment of a period
-- that counts on once a segment has usage. Most accounts have one segment, so their rows take the short way.

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

-- Whatever may have to be rated without usage.
costly_zeros AS (
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
    UNION
    SELECT
        priced_segments.priced_segment,
        priced_segments.account_id,
        price_list_charges.sku,
        priced_segments.segment,
        price_list_charges.charge
    FROM account_skus
    INNER JOIN priced_segments ON account_skus.account_id = priced_segments.account_id
    INNER JOIN price_list_charges
        ON
            priced_segments.price_list = price_list_charges.price_list
            AND account_skus.sku = price_list_charges.sku
    WHERE
        priced_segments.counts_on
        AND priced_segments.active_days > 0
        AND account_skus.is_additive
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
        priced_segments.segment_count,
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
    TRUE AS is_first,
    TRUE AS is_last,
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
    CASE WHEN has_cells THEN 0 ELSE used_until - quantity END AS used_before,
    CASE WHEN has_cells THEN quantity ELSE used_until END AS used_until,
    CASE WHEN has_cells THEN quantity ELSE used_in_all END AS used_in_all,
    NOT counts_on OR segment = 1 AS is_first,
    NOT counts_on OR segment = segment_count AS is_last,
    event_count
FROM shared_positions
ORDER BY account_id, sku, segment, cell
