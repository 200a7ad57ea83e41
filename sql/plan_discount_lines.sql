-- plan_discount_lines: one row per charge's share of a discount of its plan.
--
-- Grain:   priced_segment, charge, tier
-- Reads:   usage_lines, fee_lines, adjustment_lines, priced_segments, price_lists, plan_discounts
-- Params:  none
--
-- A discount of the plan is a percentage of all that the segment's charges come to, fees in advance left
-- out, or an amount that is taken off once, in the last segment with a day. It is rounded whole, then split
-- over the charges that cost something, in proportion, by largest remainder in minor units: whoever
-- lost most to rounding down gets the next unit, and of equals the first SKU. What rounding took or gave
-- stays with the share that was served first.

WITH RECURSIVE

discounted_segments AS (
    SELECT
        priced_segments.priced_segment,
        priced_segments.price_list,
        priced_segments.is_last,
        price_lists.minor_unit,
        price_lists.rounds_half_even,
        CAST(price_lists.minor_unit * 10000 AS HUGEINT) AS digits_of_unit
    FROM priced_segments
    INNER JOIN price_lists USING (price_list)
    SEMI JOIN plan_discounts ON priced_segments.price_list = plan_discounts.price_list
    WHERE priced_segments.timing = 'arrears'
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
    UNION ALL
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        amount
    FROM fee_lines
    UNION ALL
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        amount
    FROM adjustment_lines
),

discounted AS (
    SELECT
        rated_amounts.account_id,
        rated_amounts.sku,
        rated_amounts.segment,
        rated_amounts.priced_segment,
        rated_amounts.charge,
        0 AS position,
        CAST(SUM(rated_amounts.amount) AS DECIMAL(28, 4)) AS subtotal,
        CAST(0 AS DECIMAL(38, 21)) AS amount_exact,
        CAST(0 AS DECIMAL(28, 4)) AS amount
    FROM rated_amounts
    SEMI JOIN discounted_segments USING (priced_segment)
    GROUP BY
        rated_amounts.account_id,
        rated_amounts.sku,
        rated_amounts.segment,
        rated_amounts.priced_segment,
        rated_amounts.charge
    UNION ALL
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        position,
        CAST(subtotal - 0.0001 * share * digits_of_unit AS DECIMAL(28, 4)) AS subtotal,
        CAST(
            -0.0001 * share * digits_of_unit
            - CASE WHEN served = 1 THEN discount_exact - discount_rounded ELSE 0 END
            AS DECIMAL(38, 21)
        ) AS amount_exact,
        CAST(-0.0001 * share * digits_of_unit AS DECIMAL(28, 4)) AS amount
    FROM (
        SELECT
            *,
            CASE
                WHEN subtotal <= 0 THEN 0
                ELSE
                    whole_share
                    + CAST(served <= units - SUM(whole_share) OVER (PARTITION BY priced_segment) AS HUGEINT)
            END AS share
        FROM (
            SELECT
                *,
                ROW_NUMBER() OVER (
                    PARTITION BY priced_segment
                    ORDER BY weight = 0, share_remainder DESC, sku ASC
                ) AS served
            FROM (
                SELECT
                    *,
                    CASE WHEN weights = 0 THEN 0 ELSE units * weight // weights END AS whole_share,
                    CASE WHEN weights = 0 THEN 0 ELSE (units * weight) % weights END AS share_remainder
                FROM (
                    SELECT
                        *,
                        CAST(discount_rounded * 10000 AS HUGEINT) // digits_of_unit AS units,
                        CAST(GREATEST(subtotal, 0) * 10000 AS HUGEINT) // digits_of_unit AS weight,
                        CAST(
                            SUM(CAST(GREATEST(subtotal, 0) * 10000 AS HUGEINT) // digits_of_unit)
                                OVER (PARTITION BY priced_segment)
                            AS HUGEINT
                        ) AS weights
                    FROM (
                        SELECT
                            *,
                            CAST(
                                discount_exact - remainder
                                + CASE
                                    WHEN 2 * remainder < minor_unit THEN 0
                                    WHEN
                                        rounds_half_even
                                        AND 2 * remainder = minor_unit
                                        AND (discount_exact - remainder) % (2 * minor_unit) = 0
                                        THEN 0
                                    ELSE minor_unit
                                END AS DECIMAL(28, 4)
                            ) AS discount_rounded
                        FROM (
                            SELECT
                                *,
                                discount_exact % minor_unit AS remainder
                            FROM (
                                SELECT
                                    * EXCLUDE (discount_amount, discount_factor, base_amount),
                                    CASE
                                        WHEN base_amount <= 0 THEN CAST(0 AS DECIMAL(38, 21))
                                        WHEN discount_factor IS NOT NULL
                                            THEN CAST(
                                                CAST(base_amount AS DECIMAL(28, 4)) * discount_factor
                                                AS DECIMAL(38, 21)
                                            )
                                        WHEN is_last
                                            THEN LEAST(
                                                CAST(discount_amount AS DECIMAL(38, 21)),
                                                CAST(base_amount AS DECIMAL(38, 21))
                                            )
                                        ELSE CAST(0 AS DECIMAL(38, 21))
                                    END AS discount_exact
                                FROM (
                                    SELECT
                                        discounted.account_id,
                                        discounted.sku,
                                        discounted.segment,
                                        discounted.priced_segment,
                                        discounted.charge,
                                        plan_discounts.position,
                                        discounted.subtotal,
                                        discounted_segments.is_last,
                                        discounted_segments.minor_unit,
                                        discounted_segments.rounds_half_even,
                                        discounted_segments.digits_of_unit,
                                        plan_discounts.factor AS discount_factor,
                                        plan_discounts.amount AS discount_amount,
                                        SUM(discounted.subtotal) OVER (PARTITION BY discounted.priced_segment)
                                            AS base_amount
                                    FROM discounted
                                    INNER JOIN discounted_segments USING (priced_segment)
                                    INNER JOIN plan_discounts
                                        ON
                                            discounted_segments.price_list = plan_discounts.price_list
                                            AND discounted.position + 1 = plan_discounts.position
                                ) AS bases
                            ) AS exact_discounts
                        ) AS remainders
                    ) AS rounded_discounts
                ) AS weighted_charges
            ) AS whole_shares
        ) AS served_charges
    ) AS shares
)

SELECT
    discounted.account_id,
    discounted.sku,
    discounted.segment,
    discounted.priced_segment,
    discounted.charge,
    plan_discounts.kind,
    plan_discounts.id_suffix,
    plan_discounts.tier,
    plan_discounts.description,
    CAST(0 AS DECIMAL(38, 9)) AS quantity,
    price_lists.no_text AS unit,
    CAST(0 AS DECIMAL(18, 12)) AS unit_price,
    discounted.amount_exact AS flat_fee,
    discounted.amount_exact,
    discounted.amount
FROM discounted
INNER JOIN priced_segments USING (priced_segment)
INNER JOIN price_lists USING (price_list)
INNER JOIN plan_discounts
    ON
        priced_segments.price_list = plan_discounts.price_list
        AND discounted.position = plan_discounts.position
WHERE discounted.amount <> 0
ORDER BY discounted.priced_segment, discounted.charge, plan_discounts.tier
