-- commitment_lines: one row per segment that stays below its plan's commitment, or pays more beyond it.
--
-- Grain:   priced_segment
-- Reads:   usage_lines, fee_lines, adjustment_lines, plan_discount_lines, priced_segments, price_lists,
--          commitments
-- Params:  none
--
-- What all charges of the segment come to after every discount, fees in advance left out, is topped up to
-- the commitment, by the days of the segment. What lies above it costs the overage factor: the line has
-- what that is more than the charges themselves. A commitment that is not prorated is due once, in the last
-- segment with a day, and counts the lines of all segments, commitments of earlier plans among them.
-- What is used twice is materialized: planning a copy of it takes long while texts share a large dictionary.

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

segment_amounts AS MATERIALIZED (
    SELECT
        priced_segments.account_id,
        rated_amounts.priced_segment,
        CAST(SUM(rated_amounts.amount) AS DECIMAL(28, 4)) AS amount
    FROM rated_amounts
    INNER JOIN priced_segments ON rated_amounts.priced_segment = priced_segments.priced_segment
    WHERE priced_segments.timing = 'arrears'
    GROUP BY priced_segments.account_id, rated_amounts.priced_segment
),

due_commitments AS MATERIALIZED (
    SELECT
        priced_segments.account_id,
        priced_segments.segment,
        priced_segments.priced_segment,
        priced_segments.active_days,
        commitments.* EXCLUDE (price_list),
        price_lists.minor_unit,
        price_lists.rounds_half_even,
        price_lists.no_text,
        COALESCE(segment_amounts.amount, 0) AS amount_rated,
        CAST(priced_segments.days AS HUGEINT) AS days,
        CAST(REPLACE(CAST(commitments.amount * priced_segments.active_days AS VARCHAR), '.', '') AS HUGEINT)
            AS shared_digits
    FROM priced_segments
    INNER JOIN commitments ON priced_segments.price_list = commitments.price_list
    INNER JOIN price_lists ON priced_segments.price_list = price_lists.price_list
    LEFT JOIN segment_amounts ON priced_segments.priced_segment = segment_amounts.priced_segment
    WHERE
        priced_segments.timing = 'arrears'
        AND priced_segments.active_days > 0
        AND (commitments.is_prorated OR priced_segments.is_last)
),

prorated_commitments AS (
    SELECT
        *,
        CAST(
            CASE
                WHEN active_days = days THEN amount
                ELSE 0.000000000001 * (
                    shared_digits // days + CAST(2 * (shared_digits % days) >= days AS HUGEINT)
                )
            END AS DECIMAL(38, 12)
        ) AS committed
    FROM due_commitments
    WHERE is_prorated
),

prorated_amounts AS (
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

prorated_remainders AS (
    SELECT
        *,
        amount_exact % minor_unit AS remainder
    FROM prorated_amounts
),

prorated_lines AS MATERIALIZED (
    SELECT
        * EXCLUDE (amount),
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
    FROM prorated_remainders
),

period_amounts AS (
    SELECT
        account_id,
        CAST(SUM(amount) AS DECIMAL(28, 4)) AS amount
    FROM (
        SELECT
            account_id,
            amount
        FROM segment_amounts
        UNION ALL
        SELECT
            account_id,
            amount
        FROM prorated_lines
    ) AS amounts_of_period
    GROUP BY account_id
),

whole_commitments AS (
    SELECT
        due_commitments.* EXCLUDE (amount_rated),
        COALESCE(period_amounts.amount, 0) AS amount_rated,
        CAST(due_commitments.amount AS DECIMAL(38, 12)) AS committed
    FROM due_commitments
    LEFT JOIN period_amounts ON due_commitments.account_id = period_amounts.account_id
    WHERE NOT due_commitments.is_prorated
),

whole_amounts AS (
    SELECT
        *,
        CASE
            WHEN amount_rated < committed THEN CAST(committed - amount_rated AS DECIMAL(38, 21))
            ELSE CAST(
                CAST(amount_rated - committed AS DECIMAL(38, 12)) * CAST(overage_factor - 1 AS DECIMAL(8, 4))
                AS DECIMAL(38, 21)
            )
        END AS amount_exact
    FROM whole_commitments
),

whole_remainders AS (
    SELECT
        *,
        amount_exact % minor_unit AS remainder
    FROM whole_amounts
),

whole_lines AS (
    SELECT
        * EXCLUDE (amount),
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
    FROM whole_remainders
),

all_lines AS (
    SELECT *
    FROM prorated_lines
    UNION ALL BY NAME
    SELECT *
    FROM whole_lines
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
    amount
FROM all_lines
WHERE amount_exact <> 0
ORDER BY priced_segment
