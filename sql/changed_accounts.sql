-- changed_accounts: one row per account whose usage is not the same in two revisions of a window.
--
-- Grain:   account_id
-- Reads:   from_usage, to_usage, from_usage_values, to_usage_values, from_usage_levels, to_usage_levels,
--          changed_skus, resource_owners
-- Params:  none
--
-- Only these accounts have a change to explain. Every column is compared: two changes that cancel each other
-- out are two changes, and what a period makes of a level or of unique texts stands in rows of their own.
-- A meter that bills the same rows otherwise changes every account that has the SKU, and what a resource was
-- set to changes every account that owns it, or is billed for it, at some time.

WITH

changed_rows AS (
    (
        SELECT *
        FROM from_usage
        EXCEPT
        SELECT *
        FROM to_usage
    )
    UNION ALL
    (
        SELECT *
        FROM to_usage
        EXCEPT
        SELECT *
        FROM from_usage
    )
),

changed_values AS (
    (
        SELECT *
        FROM from_usage_values
        EXCEPT
        SELECT *
        FROM to_usage_values
    )
    UNION ALL
    (
        SELECT *
        FROM to_usage_values
        EXCEPT
        SELECT *
        FROM from_usage_values
    )
),

changed_levels AS (
    (
        SELECT *
        FROM from_usage_levels
        EXCEPT
        SELECT *
        FROM to_usage_levels
    )
    UNION ALL
    (
        SELECT *
        FROM to_usage_levels
        EXCEPT
        SELECT *
        FROM from_usage_levels
    )
)

SELECT account_id
FROM changed_rows
UNION
SELECT account_id
FROM changed_values
UNION
SELECT account_id
FROM changed_levels
WHERE account_id IS NOT NULL
UNION
SELECT from_usage_levels.account_id
FROM from_usage_levels
SEMI JOIN changed_levels ON from_usage_levels.resource = changed_levels.resource
WHERE from_usage_levels.account_id IS NOT NULL
UNION
SELECT to_usage_levels.account_id
FROM to_usage_levels
SEMI JOIN changed_levels ON to_usage_levels.resource = changed_levels.resource
WHERE to_usage_levels.account_id IS NOT NULL
UNION
SELECT resource_owners.account_id
FROM resource_owners
SEMI JOIN changed_levels ON resource_owners.resource = changed_levels.resource
UNION
SELECT from_usage.account_id
FROM from_usage
SEMI JOIN changed_skus ON from_usage.sku = changed_skus.sku
UNION
SELECT to_usage.account_id
FROM to_usage
SEMI JOIN changed_skus ON to_usage.sku = changed_skus.sku
ORDER BY account_id
