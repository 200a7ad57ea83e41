-- usage: one row per account, SKU, dimensions and grain: how much of the SKU the account used in it.
--
-- Grain:   account_id, sku, dimensions, grain_start
-- Reads:   usage_events, event_quantities
-- Params:  $grain  INTERVAL  length of a grain; grains count from 1970-01-01 UTC
--
-- A sum and a count are both the sum of what each event adds (see event_quantities). The event set hash
-- names the set of events behind the row, whatever their order, so that two revisions can be compared
-- row by row: equal hashes mean the very same events.

WITH

billed_events AS (
    SELECT
        object_id,
        line_number,
        account_id,
        TIME_BUCKET($grain, event_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS grain_start,
        MD5(STRLEN(source) || ':' || source || id) AS key_digest
    FROM usage_events
),

digested_events AS (
    SELECT
        object_id,
        line_number,
        account_id,
        grain_start,
        CAST('0x' || key_digest[1:16] AS UBIGINT) AS upper_digest,
        CAST('0x' || key_digest[17:32] AS UBIGINT) AS lower_digest
    FROM billed_events
)

SELECT
    digested_events.account_id,
    event_quantities.sku,
    event_quantities.dimensions,
    digested_events.grain_start,
    SUM(event_quantities.quantity) AS quantity,
    event_quantities.unit,
    COUNT(*) AS event_count,
    MD5(
        COUNT(*)
        || ':' || SUM(digested_events.upper_digest)
        || ':' || SUM(digested_events.lower_digest)
    ) AS event_set_hash
FROM digested_events
INNER JOIN event_quantities USING (object_id, line_number)
GROUP BY
    digested_events.account_id,
    event_quantities.sku,
    event_quantities.dimensions,
    digested_events.grain_start,
    event_quantities.unit
ORDER BY
    digested_events.account_id,
    event_quantities.sku,
    event_quantities.dimensions,
    digested_events.grain_start
