-- quarantine_page: one row per quarantined line, the first ones after a given place.
--
-- Grain:   object_id, line_number
-- Reads:   quarantine
-- Params:  $after_object  VARCHAR  object of the last line that was shown (exclusive)
--          $after_line    BIGINT   line of the last line that was shown (exclusive)
--          $row_count     BIGINT   how many lines (inclusive)
--
-- Line 0 is an object that cannot be read as a whole.

WITH

counted_lines AS (
    SELECT
        *,
        COUNT(*) OVER () AS line_count_in_all
    FROM quarantine
),

shown_lines AS (
    SELECT *
    FROM counted_lines
    WHERE (object_id, line_number) > ($after_object, $after_line)
    ORDER BY object_id, line_number
    LIMIT $row_count
)

SELECT
    object_id,
    line_number,
    contract,
    received_at,
    reason,
    message,
    raw,
    raw_bytes,
    line_count_in_all
FROM shown_lines
ORDER BY object_id, line_number
