-- changed_accounts: one row per account whose usage is not the same in two revisions of a window.
--
-- Grain:   account_id
-- Reads:   from_usage, to_usage
-- Params:  none
--
-- Only these accounts have a change to explain. The event set hash is compared too: two changes that cancel
-- each other out are two changes.

WITH

changed_rows AS (
    (
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            unit,
            event_count,
            event_set_hash
        FROM from_usage
        EXCEPT
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            unit,
            event_count,
            event_set_hash
        FROM to_usage
    )
    UNION ALL
    (
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            unit,
            event_count,
            event_set_hash
        FROM to_usage
        EXCEPT
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            unit,
            event_count,
            event_set_hash
        FROM from_usage
    )
)

SELECT DISTINCT account_id
FROM changed_rows
ORDER BY account_id
