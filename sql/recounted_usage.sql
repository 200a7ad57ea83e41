-- recounted_usage: one row per account and SKU whose usage differs between two revisions of the same windows.
--
-- Grain:   account_id, sku
-- Reads:   usage_now, usage_before
-- Params:  none
--
-- What differs is what somebody billed again: late events, a mended meter, another owner.

WITH

differing_usage AS (
    (
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            event_count,
            event_set_hash
        FROM usage_now
        EXCEPT ALL
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            event_count,
            event_set_hash
        FROM usage_before
    )
    UNION ALL
    (
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            event_count,
            event_set_hash
        FROM usage_before
        EXCEPT ALL
        SELECT
            account_id,
            sku,
            dimensions,
            grain_start,
            quantity,
            event_count,
            event_set_hash
        FROM usage_now
    )
)

SELECT DISTINCT
    account_id,
    sku
FROM differing_usage
ORDER BY account_id, sku
