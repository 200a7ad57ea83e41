-- line_items: one row per amount on an invoice, with an id and everything that explains it.
--
-- Grain:   account_id, sku, segment, kind, tier, service_period_start
-- Reads:   rated_lines, priced_segments, price_lists, charges, commitments
-- Params:  none
--
-- Lines are rated narrow; what all lines of a charge or a plan have in common is looked up here, as they
-- are written. The joins keep the order of the rated lines.

SELECT
    rated_lines.account_id || '/' || rated_lines.sku || '/' || priced_segments.id_part || '/'
    || rated_lines.id_suffix AS line_item_id,
    rated_lines.account_id,
    priced_segments.period_id,
    rated_lines.segment,
    priced_segments.service_period_start,
    priced_segments.service_period_end,
    price_lists.plan,
    rated_lines.sku,
    rated_lines.description,
    rated_lines.kind,
    CASE WHEN rated_lines.charge IS NULL THEN price_lists.no_text ELSE charges.model END AS model,
    rated_lines.tier,
    rated_lines.quantity,
    rated_lines.unit,
    rated_lines.unit_price,
    CASE WHEN rated_lines.kind = 'usage' THEN charges.per_units ELSE 1 END AS per_units,
    rated_lines.flat_fee,
    price_lists.currency,
    rated_lines.amount_exact,
    rated_lines.amount,
    CAST(rated_lines.amount_exact - rated_lines.amount AS DECIMAL(38, 21)) AS residual,
    CASE WHEN rated_lines.charge IS NULL THEN commitments.tax_category ELSE charges.tax_category END
        AS tax_category,
    price_lists.price_book_version
FROM rated_lines
INNER JOIN priced_segments ON rated_lines.priced_segment = priced_segments.priced_segment
INNER JOIN price_lists ON priced_segments.price_list = price_lists.price_list
LEFT JOIN charges ON rated_lines.charge = charges.charge
LEFT JOIN commitments ON priced_segments.price_list = commitments.price_list
ORDER BY account_id, sku, segment, kind, tier, service_period_start
