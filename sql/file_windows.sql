-- file_windows: one row per billing window that an event of the files is in.
--
-- Grain:   window_number
-- Reads:   raw_events
-- Params:  $window_length  INTERVAL  length of a window
--
-- Windows are numbered from 1970-01-01 UTC. A file holds the events of a date, of which a window shorter than
-- a day may have none.

SELECT DISTINCT EPOCH_US(event_at) // EPOCH_US(CAST($window_length AS INTERVAL)) AS window_number
FROM raw_events
ORDER BY window_number
