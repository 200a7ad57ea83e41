-- window_hashes: one row per raw event of the window: the lower half of the hash of its key.
--
-- Grain:   none, values repeat
-- Reads:   raw_events
-- Params:  $window_start  TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end    TIMESTAMPTZ  end of the billing window (exclusive)
--          $part          BIGINT       which part of the hashes, from 0
--          $part_count    BIGINT       how many parts there are
--
-- Copies of a key have one hash, so a hash that is there once is no copy of anything. Equal hashes are in one
-- part, so that each part is looked at by itself. Half a hash takes half the memory.

WITH

short_hashes AS (
    SELECT CAST(key_hash & 4294967295 AS UINTEGER) AS short_hash
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
        AND key_hash IS NOT NULL
)

SELECT short_hash
FROM short_hashes
WHERE
    $part_count = 1
    OR short_hash % $part_count = $part
ORDER BY short_hash
