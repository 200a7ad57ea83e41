-- differing_lines: one row per line item on which the two raters do not agree, with the figures of both.
--
-- Grain:   line_item_id
-- Reads:   line_items, reference_lines
-- Params:  none
--
-- Each rater says what the lines of an account are, so a line that only one of them has is a difference too:
-- its figures of the other are null.

SELECT
    COALESCE(line_items.line_item_id, reference_lines.line_item_id) AS line_item_id,
    COALESCE(line_items.account_id, reference_lines.account_id) AS account_id,
    COALESCE(line_items.sku, reference_lines.sku) AS sku,
    line_items.quantity AS sql_quantity,
    line_items.amount_exact AS sql_amount_exact,
    line_items.amount AS sql_amount,
    reference_lines.quantity AS reference_quantity,
    reference_lines.amount_exact AS reference_amount_exact,
    reference_lines.amount AS reference_amount
FROM line_items
FULL JOIN reference_lines ON line_items.line_item_id = reference_lines.line_item_id
WHERE
    line_items.quantity IS DISTINCT FROM reference_lines.quantity
    OR line_items.amount_exact IS DISTINCT FROM reference_lines.amount_exact
    OR line_items.amount IS DISTINCT FROM reference_lines.amount
ORDER BY line_item_id
