-- commitment_lines: one row per segment that stays below its plan's commitment, or pays more beyond it.
--
-- Grain:   priced_segment
-- Reads:   usage_lines, fee_lines, adjustment_lines, plan_discount_lines, priced_segments, price_lists,
--          commitments
-- Params:  none
--
-- What all charges of the segment come to after every discount, fees in advance left out, is topped up to
-- the commitment, by the days of the segment. What lies above it costs the overage factor: the line has
-- what that is more than the charges themselves.

WITH

rated_amounts AS (
    SELECT
        priced_segment,
        amount
    FROM usage_lines
    UNION ALL
    SELECT
        priced_segment,
        amount
    FROM fee_lines
    UNION ALL
    SELECT
        priced_segment,
        amount
    FROM adjustment_lines
    UNION ALL
    SELECT
        priced_segment,
        amount
    FROM plan_discount_lines
),

segment_amounts AS (
    SELECT
        rated_amounts.priced_segment,
        CAST(SUM(rated_amounts.amount) AS DECIMAL(28, 4)) AS amount
    FROM rated_amounts
    INNER JOIN priced_segments USING (priced_segment)
    SEMI JOIN commitments ON priced_segments.price_list = commitments.price_list
    GROUP BY rated_amounts.priced_segment
),

due_commitments AS (
    SELECT
        priced_segments.account_id,
        priced_segments.segment,
        priced_segments.priced_segment,
        priced_segments.active_days,
        commitments.*,
        price_lists.minor_unit,
        price_lists.rounds_half_even,
        price_lists.no_text,
        COALESCE(segment_amounts.amount, 0) AS amount_rated,
        CAST(priced_segments.days AS HUGEINT) AS days,
        CAST(REPLACE(CAST(commitments.amount * priced_segments.active_days AS VARCHAR), '.', '') AS HUGEINT)
            AS shared_digits
    FROM priced_segments
    INNER JOIN commitments USING (price_list)
    INNER JOIN price_lists USING (price_list)
    LEFT JOIN segment_amounts USING (priced_segment)
    WHERE
        priced_segments.timing = 'arrears'
        AND (priced_segments.active_days > 0 OR segment_amounts.amount IS NOT NULL)
),

prorated_commitments AS (
    SELECT
        *,
        CAST(
            CASE
                WHEN NOT is_prorated OR active_days = days THEN amount
                ELSE 0.000000000001 * (
                    shared_digits // days + CAST(2 * (shared_digits % days) >= days AS HUGEINT)
                )
            END AS DECIMAL(38, 12)
        ) AS committed
    FROM due_commitments
),

exact_amounts AS (
    SELECT
        *,
        CASE
            WHEN amount_rated < committed THEN CAST(committed - amount_rated AS DECIMAL(38, 21))
            ELSE CAST(
                CAST(amount_rated - committed AS DECIMAL(38, 12)) * CAST(overage_factor - 1 AS DECIMAL(8, 4))
                AS DECIMAL(38, 21)
            )
        END AS amount_exact
    FROM prorated_commitments
),

remainders AS (
    SELECT
        *,
        amount_exact % minor_unit AS remainder
    FROM exact_amounts
    WHERE amount_exact <> 0
)

SELECT
    account_id,
    sku,
    segment,
    priced_segment,
    CAST(NULL AS INTEGER) AS charge,
    CASE WHEN amount_rated < committed THEN commitment_kind ELSE overage_kind END AS kind,
    CASE WHEN amount_rated < committed THEN commitment_kind ELSE overage_kind END AS id_suffix,
    0 AS tier,
    description,
    CAST(0 AS DECIMAL(38, 9)) AS quantity,
    no_text AS unit,
    CAST(0 AS DECIMAL(18, 12)) AS unit_price,
    amount_exact AS flat_fee,
    amount_exact,
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
FROM remainders
ORDER BY priced_segment
