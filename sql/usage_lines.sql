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
-- half on.

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

banded_usage AS (
    SELECT
        charge_usage.*,
        charges.description,
        charges.included_units,
        charges.charges_zero_usage,
        charges.package_size,
        charges.package_price,
        charges.rounds_packages_up,
        charges.fee_per_event,
        charges.minor_unit,
        charges.rounds_half_even,
        event_amounts.amount_exact AS events_amount,
        UNNEST(banded_charges.bands) AS band
    FROM charge_usage
    INNER JOIN charges USING (charge)
    INNER JOIN banded_charges USING (charge)
    LEFT JOIN event_amounts
        ON
            charges.needs_values
            AND charge_usage.account_id = event_amounts.account_id
            AND charge_usage.sku = event_amounts.sku
            AND charge_usage.segment = event_amounts.segment
),

-- Bands of units that are not included count from the end of the included ones.
positions AS (
    SELECT
        *,
        CASE
            WHEN included_units = 0 OR band.is_included THEN used_before
            ELSE used_before - LEAST(GREATEST(used_before, 0), included_units)
        END AS count_from,
        CASE
            WHEN included_units = 0 OR band.is_included THEN used_until
            ELSE used_until - LEAST(GREATEST(used_until, 0), included_units)
        END AS count_to,
        CASE
            WHEN included_units = 0 OR band.is_included THEN used_in_all
            ELSE used_in_all - LEAST(GREATEST(used_in_all, 0), included_units)
        END AS count_in_all
    FROM banded_usage
    WHERE cell IS NULL OR cell = band.tier
),

quantities AS (
    SELECT
        * EXCLUDE (band),
        band.kind,
        band.id_suffix,
        band.tier,
        band.unit_price,
        band.price_of_one,
        CASE
            WHEN NOT band.takes_all
                THEN
                    LEAST(GREATEST(count_to, band.above), band.up_to)
                    - LEAST(GREATEST(count_from, band.above), band.up_to)
            WHEN
                (band.above IS NULL OR count_in_all > band.above)
                AND (band.up_to IS NULL OR count_in_all <= band.up_to)
                THEN count_to - count_from
        END AS quantity,
        CASE
            WHEN band.flat_fee = 0 THEN 0
            WHEN NOT band.takes_all AND band.above IS NOT NULL
                THEN
                    band.flat_fee * (
                        CAST(count_to > band.above AS INTEGER)
                        - CAST(NOT is_first AND count_from > band.above AS INTEGER)
                    )
            WHEN NOT band.takes_all
                THEN
                    band.flat_fee * (
                        CAST(count_to > 0 OR (charges_zero_usage AND count_to = 0) AS INTEGER)
                        - CAST(
                            NOT is_first AND (count_from > 0 OR (charges_zero_usage AND count_from = 0))
                            AS INTEGER
                        )
                    )
            WHEN is_last AND (count_in_all > 0 OR (charges_zero_usage AND count_in_all = 0))
                THEN band.flat_fee
            ELSE 0
        END AS fee_due
    FROM positions
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
    FROM quantities
),

counted_packages AS (
    SELECT
        *,
        CASE
            WHEN package_size IS NULL OR kind <> 'usage' THEN 0
            ELSE
                SIGN(count_to) * (
                    billionths_to // billionths_each
                    + CAST(rounds_packages_up AND billionths_to % billionths_each > 0 AS HUGEINT)
                )
                - SIGN(count_from) * (
                    billionths_from // billionths_each
                    + CAST(rounds_packages_up AND billionths_from % billionths_each > 0 AS HUGEINT)
                )
        END AS packages
    FROM package_positions
),

fixed_parts AS (
    SELECT
        * EXCLUDE (fee_due),
        CASE
            WHEN package_size IS NOT NULL
                THEN CAST(CAST(packages AS DECIMAL(38, 0)) * package_price AS DECIMAL(38, 21))
            WHEN events_amount IS NOT NULL
                THEN events_amount - CAST(quantity * price_of_one AS DECIMAL(38, 21))
            WHEN fee_per_event IS NOT NULL
                THEN CAST(event_count * CAST(fee_per_event AS DECIMAL(38, 12)) AS DECIMAL(38, 21))
            ELSE CAST(fee_due AS DECIMAL(38, 21))
        END AS flat_fee
    FROM counted_packages
    WHERE
        quantity <> 0
        OR (quantity = 0 AND fee_due <> 0)
        OR packages <> 0
        OR (fee_per_event IS NOT NULL AND event_count <> 0)
),

exact_amounts AS (
    SELECT
        *,
        CAST(quantity * price_of_one AS DECIMAL(38, 21)) + flat_fee AS amount_exact
    FROM fixed_parts
),

remainders AS (
    SELECT
        *,
        amount_exact % minor_unit AS remainder
    FROM exact_amounts
)

SELECT
    account_id,
    sku,
    segment,
    priced_segment,
    charge,
    kind,
    id_suffix,
    tier,
    description,
    quantity,
    unit,
    unit_price,
    flat_fee,
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
ORDER BY account_id, sku, segment, kind, tier
