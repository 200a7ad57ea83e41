-- changed_lines: one row per account that has another line item now than it had before.
--
-- Grain:   account_id
-- Reads:   line_items, other_line_items
-- Params:  none
--
-- What a line is called, or which part of a sum it stands for, is no change: only its id and its numbers are.

SELECT DISTINCT account_id
FROM (
    (
        SELECT
            account_id,
            line_item_id,
            quantity,
            amount_exact,
            amount
        FROM line_items
        EXCEPT
        SELECT
            account_id,
            line_item_id,
            quantity,
            amount_exact,
            amount
        FROM other_line_items
    )
    UNION ALL
    (
        SELECT
            account_id,
            line_item_id,
            quantity,
            amount_exact,
            amount
        FROM other_line_items
        EXCEPT
        SELECT
            account_id,
            line_item_id,
            quantity,
            amount_exact,
            amount
        FROM line_items
    )
) AS lines_of_one_side
ORDER BY account_id
