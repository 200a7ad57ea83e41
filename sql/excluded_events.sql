-- excluded_events: one row per raw event of the window that is not billed in this revision, and why.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events, event_quantities, account_references
-- Params:  $window_start      TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end        TIMESTAMPTZ  end of the billing window (exclusive)
--          $cutoff_at         TIMESTAMPTZ  receipt at or after it is late (exclusive)
--          $future_tolerance  INTERVAL     how far event time may be ahead of receipt time (inclusive)
--
-- Producers retry, so one event can arrive many times. The copy received first stands, and the place in
-- the files breaks ties: the same raw files give the same rows, in whatever order they are read. A copy
-- whose event time was ahead of its receipt gives way to one that came when the time was right. Copies
-- are dropped before anything else is asked, so a key is billed or excluded once, never both.
-- Of the reasons that hold for a standing copy, the first in this order is given.

WITH

window_events AS (
    SELECT
        object_id,
        line_number,
        source,
        id,
        type,
        subject,
        event_at,
        received_at,
        quantity,
        data
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

-- Most keys occur once; only the others are worth sorting.
repeated_keys AS (
    SELECT
        source,
        id
    FROM window_events
    GROUP BY source, id
    HAVING COUNT(*) > 1
),

repeated_events AS (
    SELECT
        window_events.object_id,
        window_events.line_number,
        window_events.source,
        window_events.id,
        window_events.received_at,
        window_events.event_at > window_events.received_at + $future_tolerance AS is_in_the_future,
        -- Compared as one value, in which null equals null.
        {
            'type': window_events.type,
            'event_at': window_events.event_at,
            'subject': window_events.subject,
            'quantity': window_events.quantity,
            'data': window_events.data
        } AS event_content
    FROM window_events
    INNER JOIN repeated_keys USING (source, id)
),

ranked_copies AS (
    SELECT
        object_id,
        line_number,
        event_content,
        ROW_NUMBER() OVER by_receipt AS copy_number,
        FIRST_VALUE(object_id) OVER by_receipt AS winner_object_id,
        FIRST_VALUE(line_number) OVER by_receipt AS winner_line_number,
        FIRST_VALUE(event_content) OVER by_receipt AS winner_content
    FROM repeated_events
    WINDOW
        by_receipt AS (PARTITION BY source, id ORDER BY is_in_the_future, received_at, object_id, line_number)
),

later_copies AS (
    SELECT
        object_id,
        line_number,
        winner_object_id,
        winner_line_number,
        CASE
            WHEN event_content = winner_content THEN 'exact_duplicate'
            ELSE 'conflicting_duplicate'
        END AS reason
    FROM ranked_copies
    WHERE copy_number > 1
),

metered_events AS (
    SELECT
        object_id,
        line_number,
        BOOL_OR(quantity IS NULL) AS has_unreadable_quantity
    FROM event_quantities
    GROUP BY object_id, line_number
),

owned_events AS (
    SELECT DISTINCT
        window_events.object_id,
        window_events.line_number
    FROM window_events
    INNER JOIN account_references
        ON
            window_events.subject = account_references.reference
            AND window_events.event_at >= account_references.valid_from
            AND window_events.event_at < account_references.valid_to
),

judged_events AS (
    SELECT
        window_events.object_id,
        window_events.line_number,
        window_events.source,
        window_events.id,
        window_events.type,
        window_events.subject,
        window_events.event_at,
        window_events.received_at,
        later_copies.winner_object_id,
        later_copies.winner_line_number,
        CASE
            WHEN later_copies.reason IS NOT NULL THEN later_copies.reason
            WHEN window_events.received_at >= $cutoff_at THEN 'late'
            WHEN window_events.event_at > window_events.received_at + $future_tolerance
                THEN 'in_the_future'
            WHEN owned_events.object_id IS NULL THEN 'orphaned_account'
            WHEN metered_events.object_id IS NULL THEN 'unknown_sku'
            WHEN metered_events.has_unreadable_quantity THEN 'unreadable_quantity'
        END AS reason
    FROM window_events
    LEFT JOIN later_copies USING (object_id, line_number)
    LEFT JOIN owned_events USING (object_id, line_number)
    LEFT JOIN metered_events USING (object_id, line_number)
)

SELECT
    object_id,
    line_number,
    source,
    id,
    type,
    subject,
    event_at,
    received_at,
    reason,
    winner_object_id,
    winner_line_number
FROM judged_events
WHERE reason IS NOT NULL
ORDER BY object_id, line_number
