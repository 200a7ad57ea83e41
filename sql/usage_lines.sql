-- usage_lines: one row per line of usage or of included units, with its exact and its rounded amount.
--
-- Grain:   account_id, sku, segment, kind, tier
-- Reads:   charge_usage, event_amounts, charges, charge_bands
-- Params:  none
--
-- All models are bands of quantity: a line has the part of the usage that lies in its band, which is where
-- the usage ends less where it begins, both clamped to the band. A volume or stairstep price is that of the
-- band in which the period ends. Units that are included come first and leave the rest to the other bands.
-- A rounded amount is the exact one less what is above a whole minor unit, or up to the next one from the
-- half on; for cents rounded half up the engine's own function does the same in half the time.

WITH

banded_charges AS (
    SELECT
        charge_bands.charge,
        LIST(
            {
                'kind': charge_bands.kind,
                'id_suffix': charge_bands.id_suffix,
                'is_included': charge_bands.is_included,
                'tier': charge_bands.tier,
                'above': charge_bands.above,
                'up_to': charge_bands.up_to,
                'takes_all': charge_bands.takes_all,
                'unit_price': charge_bands.unit_price,
                'price_of_one': charge_bands.price_of_one,
                'flat_fee': charge_bands.flat_fee
            }
            ORDER BY charge_bands.kind, charge_bands.tier
        ) AS bands
    FROM charge_bands
    GROUP BY charge_bands.charge
),

-- Bands of units that are not included count from the end of the included ones.
positions AS (
    SELECT
        charge_usage.*,
        charges.* EXCLUDE (charge, sku),
        banded_charges.bands,
        event_amounts.amount_exact AS events_amount,
        CASE
            WHEN charges.included_units = 0 THEN charge_usage.used_before
            ELSE
                charge_usage.used_before
                - LEAST(GREATEST(charge_usage.used_before, 0), charges.included_units)
        END AS count_from,
        CASE
            WHEN charges.included_units = 0 THEN charge_usage.used_until
            ELSE
                charge_usage.used_until
                - LEAST(GREATEST(charge_usage.used_until, 0), charges.included_units)
        END AS count_to,
        CASE
            WHEN charges.included_units = 0 THEN charge_usage.used_in_all
            ELSE
                charge_usage.used_in_all
                - LEAST(GREATEST(charge_usage.used_in_all, 0), charges.included_units)
        END AS count_in_all
    FROM charge_usage
    INNER JOIN charges ON charge_usage.charge = charges.charge
    INNER JOIN banded_charges ON charge_usage.charge = banded_charges.charge
    LEFT JOIN event_amounts
        ON
            charge_usage.account_id = event_amounts.account_id
            AND charge_usage.sku = event_amounts.sku
            AND charge_usage.segment = event_amounts.segment
            AND charges.needs_values
),

-- Whole billionths, because packages are counted by division.
package_positions AS (
    SELECT
        *,
        CASE
            WHEN package_size IS NOT NULL
                THEN CAST(REPLACE(CAST(package_size AS VARCHAR), '.', '') AS HUGEINT)
        END AS billionths_each,
        CASE
            WHEN package_size IS NOT NULL
                THEN CAST(REPLACE(CAST(ABS(count_from) AS VARCHAR), '.', '') AS HUGEINT)
        END AS billionths_from,
        CASE
            WHEN package_size IS NOT NULL
                THEN CAST(REPLACE(CAST(ABS(count_to) AS VARCHAR), '.', '') AS HUGEINT)
        END AS billionths_to
    FROM positions
),

-- What a package or the events cost whatever the quantity is; null for all other models.
fixed_parts AS (
    SELECT
        *,
        CASE
            WHEN package_size IS NOT NULL
                THEN
                    CAST(
                        CAST(
                            SIGN(count_to) * (
                                billionths_to // billionths_each
                                + CAST(rounds_packages_up AND billionths_to % billionths_each > 0 AS HUGEINT)
                            )
                            - SIGN(count_from) * (
                                billionths_from // billionths_each
                                + CAST(
                                    rounds_packages_up AND billionths_from % billionths_each > 0 AS HUGEINT
                                )
                            ) AS DECIMAL(38, 0)
                        ) * package_price AS DECIMAL(38, 21)
                    )
            WHEN fee_per_event IS NOT NULL
                THEN CAST(event_count * CAST(fee_per_event AS DECIMAL(38, 12)) AS DECIMAL(38, 21))
        END AS fixed_part,
        CASE
            WHEN package_size IS NOT NULL
                THEN
                    SIGN(count_to) * (
                        billionths_to // billionths_each
                        + CAST(rounds_packages_up AND billionths_to % billionths_each > 0 AS HUGEINT)
                    )
                    <> SIGN(count_from) * (
                        billionths_from // billionths_each
                        + CAST(rounds_packages_up AND billionths_from % billionths_each > 0 AS HUGEINT)
                    )
            ELSE fee_per_event IS NOT NULL AND event_count <> 0
        END AS has_fixed_part
    FROM package_positions
),

banded_usage AS (
    SELECT
        account_id,
        sku,
        segment,
        priced_segment,
        charge,
        cell,
        unit,
        description,
        used_before,
        used_until,
        count_from,
        count_to,
        count_in_all,
        fees_paid,
        owes_volume_fee,
        charges_zero_usage,
        minor_unit,
        rounds_half_even,
        events_amount,
        fixed_part,
        has_fixed_part,
        UNNEST(bands) AS band
    FROM fixed_parts
),

quantities AS (
    SELECT
        *,
        CASE
            WHEN band.is_included
                THEN
                    LEAST(GREATEST(used_until, band.above), band.up_to)
                    - LEAST(GREATEST(used_before, band.above), band.up_to)
            WHEN NOT band.takes_all
                THEN
                    LEAST(GREATEST(count_to, band.above), band.up_to)
                    - LEAST(GREATEST(count_from, band.above), band.up_to)
            WHEN
                (band.above IS NULL OR count_in_all > band.above)
                AND (band.up_to IS NULL OR count_in_all <= band.up_to)
                THEN count_to - count_from
        END AS quantity,
        CAST(
            CASE
                WHEN band.flat_fee = 0 THEN 0
                WHEN band.takes_all
                    THEN
                        band.flat_fee * CAST(
                            owes_volume_fee
                            AND (count_in_all > 0 OR (charges_zero_usage AND count_in_all = 0)) AS INTEGER
                        )
                WHEN band.tier > fees_paid
                    THEN
                        band.flat_fee * CAST(
                            count_to > COALESCE(band.above, 0)
                            OR (band.above IS NULL AND charges_zero_usage AND count_to = 0) AS INTEGER
                        )
                WHEN
                    (
                        count_from > COALESCE(band.above, 0)
                        OR (band.above IS NULL AND charges_zero_usage AND count_from = 0)
                    )
                    AND NOT (
                        count_to > COALESCE(band.above, 0)
                        OR (band.above IS NULL AND charges_zero_usage AND count_to = 0)
                    )
                    THEN -band.flat_fee
                ELSE 0
            END AS DECIMAL(26, 12)
        ) AS fee_due
    FROM banded_usage
),

lines AS (
    SELECT
        *,
        CASE
            WHEN fixed_part IS NULL THEN CAST(fee_due AS DECIMAL(38, 21))
            WHEN band.is_included THEN CAST(0 AS DECIMAL(38, 21))
            WHEN events_amount IS NOT NULL
                THEN events_amount - CAST(quantity * band.price_of_one AS DECIMAL(38, 21))
            ELSE fixed_part
        END AS flat_fee
    FROM quantities
    WHERE
        (cell IS NULL OR cell = band.tier)
        AND (quantity <> 0 OR (quantity = 0 AND (fee_due <> 0 OR (has_fixed_part AND NOT band.is_included))))
),

exact_amounts AS (
    SELECT
        *,
        CAST(quantity * band.price_of_one AS DECIMAL(38, 21)) + flat_fee AS amount_exact
    FROM lines
),

remainders AS (
    SELECT
        *,
        NOT rounds_half_even AND minor_unit = 0.01 AS has_function,
        CASE WHEN rounds_half_even OR minor_unit <> 0.01 THEN amount_exact % minor_unit END AS remainder
    FROM exact_amounts
)

SELECT
    account_id,
    sku,
    segment,
    priced_segment,
    charge,
    STRUCT_EXTRACT(band, 'kind') AS kind,
    STRUCT_EXTRACT(band, 'id_suffix') AS id_suffix,
    STRUCT_EXTRACT(band, 'tier') AS tier,
    description,
    quantity,
    unit,
    STRUCT_EXTRACT(band, 'unit_price') AS unit_price,
    flat_fee,
    amount_exact,
    CASE
        WHEN has_function THEN CAST(ROUND(amount_exact, 2) AS DECIMAL(28, 4))
        ELSE CAST(
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
        )
    END AS amount
FROM remainders
ORDER BY account_id, sku, segment, kind, tier
