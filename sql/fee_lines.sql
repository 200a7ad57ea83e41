-- fee_lines: one row per line of a flat fee, with its exact and its rounded amount.
--
-- Grain:   priced_segment, charge
-- Reads:   priced_segments, price_lists, price_list_charges, charges, charge_fees
-- Params:  none
--
-- A fee in arrears is of the segment, one in advance of the service period that it is paid for. What is
-- prorated is multiplied by the days on which the account was there, divided by all days, half up at twelve
-- decimals; what is not is due whole, once: in the first segment with the fee in which the account was there.

WITH

fees AS (
    SELECT
        priced_segments.account_id,
        price_list_charges.sku,
        priced_segments.segment,
        priced_segments.priced_segment,
        charge_fees.charge,
        charge_fees.kind,
        charge_fees.id_suffix,
        charges.description,
        charges.minor_unit,
        charges.rounds_half_even,
        price_lists.no_text,
        charge_fees.amount,
        charge_fees.is_prorated AND priced_segments.active_days <> priced_segments.days AS is_shared,
        charge_fees.is_prorated,
        priced_segments.timing,
        CASE WHEN priced_segments.active_days > 0 THEN priced_segments.segment END AS active_segment,
        CAST(priced_segments.days AS HUGEINT) AS days,
        CAST(
            REPLACE(
                CAST(ABS(charge_fees.amount) * priced_segments.active_days AS VARCHAR), '.', ''
            ) AS HUGEINT
        )
            AS shared_digits
    FROM charge_fees
    INNER JOIN charges ON charge_fees.charge = charges.charge
    INNER JOIN price_list_charges ON charge_fees.charge = price_list_charges.charge
    INNER JOIN priced_segments
        ON
            price_list_charges.price_list = priced_segments.price_list
            AND charge_fees.timing = priced_segments.timing
    INNER JOIN price_lists ON priced_segments.price_list = price_lists.price_list
),

due_fees AS (
    SELECT
        *,
        is_prorated OR segment = MIN(active_segment) OVER (PARTITION BY account_id, sku, timing) AS is_due
    FROM fees
),

exact_amounts AS (
    SELECT
        *,
        CAST(
            CASE
                WHEN is_shared
                    THEN SIGN(amount) * 0.000000000001 * (
                        shared_digits // days + CAST(2 * (shared_digits % days) >= days AS HUGEINT)
                    )
                ELSE amount
            END AS DECIMAL(38, 21)
        ) AS amount_exact
    FROM due_fees
    WHERE is_due
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
    charge,
    kind,
    id_suffix,
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
ORDER BY priced_segment, charge
