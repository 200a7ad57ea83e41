-- quarantine_samples: one row per quarantined line of the night, the first few of each reason.
--
-- Grain:   object_id, line_number
-- Reads:   ledger_objects, quarantine
-- Params:  $sample_rows  BIGINT  how many lines of each reason (inclusive)
--
-- A reader mends a feed from a few lines, not from all of them. Which ones is decided by their place in
-- the files, so a report made again shows the same.

SELECT
    quarantine.object_id,
    quarantine.line_number,
    quarantine.contract,
    quarantine.reason,
    quarantine.message,
    quarantine.raw,
    quarantine.raw_bytes
FROM quarantine
INNER JOIN ledger_objects USING (object_id)
WHERE ledger_objects.is_of_night
QUALIFY
    $sample_rows >= ROW_NUMBER() OVER (
        PARTITION BY quarantine.reason
        ORDER BY quarantine.object_id, quarantine.line_number
    )
ORDER BY quarantine.object_id, quarantine.line_number
