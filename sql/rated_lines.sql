-- rated_lines: one row per line item, as narrow as it is rated: usage, fees, discounts, bounds, commitments.
--
-- Grain:   account_id, sku, segment, kind, tier, priced_segment
-- Reads:   usage_lines, fee_lines, adjustment_lines, plan_discount_lines, commitment_lines
-- Params:  none
--
-- The order is that of the line items. Narrow rows are sorted, because wide ones take several times as
-- long; where there is nothing but usage, which comes in this order, they are not even that.

WITH

all_lines AS (
    SELECT *
    FROM usage_lines
    UNION ALL BY NAME
    SELECT *
    FROM fee_lines
    UNION ALL BY NAME
    SELECT *
    FROM adjustment_lines
    UNION ALL BY NAME
    SELECT *
    FROM plan_discount_lines
    UNION ALL BY NAME
    SELECT *
    FROM commitment_lines
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
    amount
FROM all_lines
ORDER BY account_id, sku, segment, kind, tier, priced_segment
