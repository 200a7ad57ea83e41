-- adjustment_lines: one row per discount, maximum or minimum of a charge that changes what there is to pay.
--
-- Grain:   priced_segment, charge, kind, tier
-- Reads:   charge_usage, usage_lines, fee_lines, priced_segments, price_lists, charges, charge_discounts,
--          charge_bounds
-- Params:  none
--
-- Each discount is taken off what the one before left, as rounded. Then the maximum caps the charge or the
-- minimum tops it up, by the days of the segment. A charge that is rated and comes to no line has a
-- subtotal of zero, which a minimum tops up too.

WITH RECURSIVE

adjusted_charges AS (
    SELECT charge
    FROM charge_discounts
    UNION
    SELECT charge
    FROM charge_bounds
),

rated_amounts AS (
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        amount
    FROM usage_lines
    SEMI JOIN adjusted_charges USING (charge)
    UNION ALL
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        amount
    FROM fee_lines
    SEMI JOIN adjusted_charges USING (charge)
    UNION ALL
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        0 AS amount
    FROM charge_usage
    SEMI JOIN adjusted_charges USING (charge)
),

discounted AS (
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        0 AS position,
        CAST(SUM(amount) AS DECIMAL(28, 4)) AS subtotal,
        CAST(0 AS DECIMAL(38, 21)) AS amount_exact,
        CAST(0 AS DECIMAL(28, 4)) AS amount
    FROM rated_amounts
    GROUP BY account_id, sku, segment, priced_segment, charge
    UNION ALL
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        position,
        CAST(subtotal + amount AS DECIMAL(28, 4)) AS subtotal,
        amount_exact,
        amount
    FROM (
        SELECT
            * EXCLUDE (minor_unit, rounds_half_even, remainder),
            CAST(
                amount_exact - remainder
                + CASE
                    WHEN 2 * ABS(remainder) < minor_unit THEN 0
                    WHEN
                        rounds_half_even
                        AND 2 * ABS(remainder) = minor_unit
                        AND (amount_exact - remainder) % (2 * minor_unit) = 0
                        THEN 0
                    ELSE SIGN(remainder) * minor_unit
                END AS DECIMAL(28, 4)
            ) AS amount
        FROM (
            SELECT
                *,
                amount_exact % minor_unit AS remainder
            FROM (
                SELECT
                    discounted.account_id,
                    discounted.sku,
                    discounted.segment,
                    discounted.priced_segment,
                    discounted.charge,
                    charge_discounts.position,
                    discounted.subtotal,
                    charges.minor_unit,
                    charges.rounds_half_even,
                    CASE
                        WHEN discounted.subtotal <= 0 THEN CAST(0 AS DECIMAL(38, 21))
                        WHEN charge_discounts.factor IS NOT NULL
                            THEN CAST(-discounted.subtotal * charge_discounts.factor AS DECIMAL(38, 21))
                        ELSE
                            -LEAST(
                                CAST(charge_discounts.amount AS DECIMAL(38, 21)),
                                CAST(discounted.subtotal AS DECIMAL(38, 21))
                            )
                    END AS amount_exact
                FROM discounted
                INNER JOIN charge_discounts
                    ON
                        discounted.charge = charge_discounts.charge
                        AND discounted.position + 1 = charge_discounts.position
                INNER JOIN charges ON discounted.charge = charges.charge
            ) AS exact_discounts
        ) AS remainders_of_discounts
    ) AS rounded_discounts
),

discounted_charges AS (
    SELECT *
    FROM discounted
    QUALIFY ROW_NUMBER() OVER (PARTITION BY priced_segment, charge ORDER BY position DESC) = 1
),

due_bounds AS (
    SELECT
        discounted_charges.account_id,
        discounted_charges.sku,
        discounted_charges.segment,
        discounted_charges.priced_segment,
        discounted_charges.charge,
        charge_bounds.kind,
        charge_bounds.id_suffix,
        discounted_charges.subtotal,
        charges.minor_unit,
        charges.rounds_half_even,
        priced_segments.active_days,
        charge_bounds.amount AS amount_whole,
        CAST(priced_segments.days AS HUGEINT) AS days,
        CAST(REPLACE(CAST(charge_bounds.amount * priced_segments.active_days AS VARCHAR), '.', '') AS HUGEINT)
            AS shared_digits
    FROM discounted_charges
    INNER JOIN charge_bounds ON discounted_charges.charge = charge_bounds.charge
    INNER JOIN charges ON discounted_charges.charge = charges.charge
    INNER JOIN priced_segments ON discounted_charges.priced_segment = priced_segments.priced_segment
),

prorated_bounds AS (
    SELECT
        *,
        CAST(
            CASE
                WHEN active_days = days THEN amount_whole
                ELSE 0.000000000001 * (
                    shared_digits // days + CAST(2 * (shared_digits % days) >= days AS HUGEINT)
                )
            END AS DECIMAL(38, 12)
        ) AS bound
    FROM due_bounds
),

bound_remainders AS (
    SELECT
        *,
        CAST(bound - subtotal AS DECIMAL(38, 21)) AS amount_exact,
        CAST(bound - subtotal AS DECIMAL(38, 21)) % minor_unit AS remainder
    FROM prorated_bounds
    WHERE
        active_days > 0
        AND ((kind = 'maximum' AND subtotal > bound) OR (kind = 'minimum' AND subtotal < bound))
),

adjustments AS (
    SELECT
        discounted.account_id,
        discounted.sku,
        discounted.segment,
        discounted.priced_segment,
        discounted.charge,
        charge_discounts.kind,
        charge_discounts.id_suffix,
        charge_discounts.tier,
        charge_discounts.description,
        discounted.amount_exact,
        discounted.amount
    FROM discounted
    INNER JOIN charge_discounts USING (charge, position)
    WHERE discounted.amount_exact <> 0
    UNION ALL
    SELECT
        bound_remainders.account_id,
        bound_remainders.sku,
        bound_remainders.segment,
        bound_remainders.priced_segment,
        bound_remainders.charge,
        bound_remainders.kind,
        bound_remainders.id_suffix,
        0 AS tier,
        charges.description,
        bound_remainders.amount_exact,
        CAST(
            bound_remainders.amount_exact - bound_remainders.remainder
            + CASE
                WHEN 2 * ABS(bound_remainders.remainder) < bound_remainders.minor_unit THEN 0
                WHEN
                    bound_remainders.rounds_half_even
                    AND 2 * ABS(bound_remainders.remainder) = bound_remainders.minor_unit
                    AND (bound_remainders.amount_exact - bound_remainders.remainder)
                    % (2 * bound_remainders.minor_unit) = 0
                    THEN 0
                ELSE SIGN(bound_remainders.remainder) * bound_remainders.minor_unit
            END AS DECIMAL(28, 4)
        ) AS amount
    FROM bound_remainders
    INNER JOIN charges USING (charge)
)

SELECT
    adjustments.account_id,
    adjustments.sku,
    adjustments.segment,
    adjustments.priced_segment,
    adjustments.charge,
    adjustments.kind,
    adjustments.id_suffix,
    adjustments.tier,
    adjustments.description,
    CAST(0 AS DECIMAL(38, 9)) AS quantity,
    price_lists.no_text AS unit,
    CAST(0 AS DECIMAL(18, 12)) AS unit_price,
    adjustments.amount_exact AS flat_fee,
    adjustments.amount_exact,
    adjustments.amount
FROM adjustments
INNER JOIN priced_segments USING (priced_segment)
INNER JOIN price_lists USING (price_list)
ORDER BY adjustments.priced_segment, adjustments.charge, adjustments.kind, adjustments.tier
