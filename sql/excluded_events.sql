-- excluded_events: one row per raw event of the window that is not billed in this revision, and why.
--
-- Grain:   object_id, line_number
-- Reads:   raw_events, repeated_hashes, event_quantities, meters, account_references,
--          account_fallbacks, neighbours, withdrawn_events, withdrawal_types
-- Params:  $window_start      TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end        TIMESTAMPTZ  end of the billing window (exclusive)
--          $cutoff_at         TIMESTAMPTZ  receipt at or after it is late (exclusive)
--          $future_tolerance  INTERVAL     how far event time may be ahead of receipt time (inclusive)
--
-- Producers retry, so one event can arrive many times. The copy received first stands, and the place in
-- the files breaks ties: the same raw files give the same rows, in whatever order they are read. A copy
-- whose event time was ahead of its receipt gives way to one that came when the time was right. Copies
-- are dropped before anything else is asked, so a key is billed or excluded once, never both.
-- Of the reasons that hold for an event, the first in this order is given.
-- Most keys occur once. Only keys whose short hash is among the repeated ones are compared, and then exactly:
-- two keys of one hash, or a hash too many among them, cost a comparison and never an event. Quantity and
-- data of copies are compared by their hash alone: it decides the word for a copy, not what is billed. What
-- else may exclude an event is asked of all events, each reason of the columns that it needs; only events of
-- hashes that one of them names are looked at closely.
-- The events that are billed are not written again.

WITH

window_events AS NOT MATERIALIZED (
    SELECT
        object_id,
        line_number,
        source,
        id,
        type,
        subject,
        event_at,
        received_at,
        payload_hash,
        CAST(key_hash & 4294967295 AS UINTEGER) AS short_hash,
        -- In whole numbers: adding to an instant goes through the calendar, which takes longer than the rest.
        EPOCH_US(event_at) - EPOCH_US(received_at)
        > EPOCH_US(CAST($future_tolerance AS INTERVAL)) AS is_in_the_future
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
),

-- A type whose meter takes the quantity of every event needs no look at data; other meters are computed.
metered_types AS (
    SELECT
        event_type,
        BOOL_OR(LEN(filters) = 0) AS has_meter_of_every_event,
        BOOL_OR(
            LEN(filters) = 0
            AND value_path = 'quantity'
            AND aggregation NOT IN ('count', 'unique_count')
        ) AS needs_quantity
    FROM meters
    GROUP BY event_type
),

lasting_references AS (
    SELECT reference
    FROM account_references
    WHERE
        valid_from <= $window_start
        AND valid_to >= $window_end
),

doubtful_subjects AS (
    SELECT DISTINCT window_events.subject
    FROM window_events
    ANTI JOIN lasting_references ON window_events.subject = lasting_references.reference
),

doubtful_types AS (
    SELECT DISTINCT window_events.type AS event_type
    FROM window_events
    ANTI JOIN metered_types ON window_events.type = metered_types.event_type
    UNION ALL
    SELECT withdrawal_types.event_type
    FROM withdrawal_types
),

-- Each looks at as few columns as it can.
doubtful_hashes AS (
    SELECT short_hash
    FROM repeated_hashes
    UNION ALL
    SELECT window_events.short_hash
    FROM window_events
    WHERE
        window_events.received_at >= $cutoff_at
        OR window_events.is_in_the_future
    UNION ALL
    SELECT window_events.short_hash
    FROM window_events
    SEMI JOIN doubtful_subjects ON window_events.subject IS NOT DISTINCT FROM doubtful_subjects.subject
    UNION ALL
    SELECT window_events.short_hash
    FROM window_events
    SEMI JOIN doubtful_types ON window_events.type = doubtful_types.event_type
),

doubtful_events AS MATERIALIZED (
    SELECT window_events.*
    FROM window_events
    SEMI JOIN doubtful_hashes ON window_events.short_hash = doubtful_hashes.short_hash
),

candidate_copies AS (
    SELECT
        doubtful_events.*,
        -- Compared as one value, in which null equals null.
        {
            'type': doubtful_events.type,
            'event_at': doubtful_events.event_at,
            'subject': doubtful_events.subject,
            'payload_hash': doubtful_events.payload_hash
        } AS event_content
    FROM doubtful_events
    SEMI JOIN repeated_hashes ON doubtful_events.short_hash = repeated_hashes.short_hash
),

ranked_copies AS (
    SELECT
        *,
        ROW_NUMBER() OVER by_receipt AS copy_number,
        FIRST_VALUE(object_id) OVER by_receipt AS winner_object_id,
        FIRST_VALUE(line_number) OVER by_receipt AS winner_line_number,
        FIRST_VALUE(event_content) OVER by_receipt AS winner_content
    FROM candidate_copies
    WINDOW
        by_receipt AS (PARTITION BY source, id ORDER BY is_in_the_future, received_at, object_id, line_number)
),

half_metered_types AS (
    SELECT event_type
    FROM metered_types
    WHERE NOT has_meter_of_every_event
),

-- Nothing is read for it where each type has a meter of every event, and below where no value is computed.
events_that_a_filter_takes AS (
    SELECT
        object_id,
        line_number
    FROM event_quantities
    WHERE EXISTS (SELECT half_metered_types.event_type FROM half_metered_types)
),

fallbacks_of_any_source AS (
    SELECT account_id
    FROM account_fallbacks
    WHERE source IS NULL
),

types_of_quantities AS (
    SELECT event_type
    FROM metered_types
    WHERE needs_quantity
),

unreadable_events AS (
    SELECT
        object_id,
        line_number
    FROM event_quantities
    WHERE
        is_computed
        AND quantity IS NULL
    UNION ALL
    SELECT
        raw_events.object_id,
        raw_events.line_number
    FROM raw_events
    SEMI JOIN types_of_quantities ON raw_events.type = types_of_quantities.event_type
    WHERE
        raw_events.quantity IS NULL
        AND raw_events.event_at >= $window_start
        AND raw_events.event_at < $window_end
),

judged_events AS (
    SELECT
        doubtful_events.*,
        CASE
            WHEN doubtful_events.received_at >= $cutoff_at THEN 'late'
            WHEN NOT withdrawal_types.replaces THEN 'withdrawal'
            WHEN doubtful_events.is_in_the_future THEN 'in_the_future'
            WHEN
                account_references.account_id IS NULL
                AND account_fallbacks.account_id IS NULL
                AND (SELECT COUNT(*) FROM fallbacks_of_any_source) = 0
                THEN 'orphaned_account'
            WHEN metered_types.event_type IS NULL THEN 'unknown_sku'
        END AS reason
    FROM doubtful_events
    LEFT JOIN withdrawal_types ON doubtful_events.type = withdrawal_types.event_type
    LEFT JOIN metered_types ON doubtful_events.type = metered_types.event_type
    LEFT JOIN account_fallbacks ON doubtful_events.source = account_fallbacks.source
    LEFT JOIN account_references
        ON
            doubtful_events.subject = account_references.reference
            AND doubtful_events.event_at >= account_references.valid_from
            AND doubtful_events.event_at < account_references.valid_to
),

found_reasons AS (
    SELECT
        window_events.*,
        1 AS reason_order,
        'conflicting_duplicate' AS reason,
        neighbours.object_id AS winner_object_id,
        neighbours.line_number AS winner_line_number
    FROM window_events
    INNER JOIN neighbours ON window_events.source = neighbours.source AND window_events.id = neighbours.id
    UNION ALL BY NAME
    SELECT
        * EXCLUDE (event_content, winner_content, copy_number),
        2 AS reason_order,
        CASE
            WHEN event_content = winner_content THEN 'exact_duplicate'
            ELSE 'conflicting_duplicate'
        END AS reason
    FROM ranked_copies
    WHERE copy_number > 1
    UNION ALL BY NAME
    SELECT
        window_events.*,
        3 AS reason_order,
        withdrawn_events.reason,
        withdrawn_events.winner_object_id,
        withdrawn_events.winner_line_number
    FROM window_events
    INNER JOIN withdrawn_events
        ON
            window_events.object_id = withdrawn_events.object_id
            AND window_events.line_number = withdrawn_events.line_number
    WHERE withdrawn_events.winner_received_at < $cutoff_at
    UNION ALL BY NAME
    SELECT
        *,
        4 AS reason_order
    FROM judged_events
    WHERE reason IS NOT NULL
    UNION ALL BY NAME
    SELECT
        window_events.*,
        5 AS reason_order,
        'unknown_sku' AS reason
    FROM window_events
    SEMI JOIN half_metered_types ON window_events.type = half_metered_types.event_type
    ANTI JOIN events_that_a_filter_takes USING (object_id, line_number)
    UNION ALL BY NAME
    SELECT
        window_events.*,
        6 AS reason_order,
        'unreadable_quantity' AS reason
    FROM window_events
    SEMI JOIN unreadable_events USING (object_id, line_number)
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
    ARG_MIN(reason, reason_order) AS reason,
    ARG_MIN_NULL(winner_object_id, reason_order) AS winner_object_id,
    ARG_MIN_NULL(winner_line_number, reason_order) AS winner_line_number
FROM found_reasons
GROUP BY
    object_id,
    line_number,
    source,
    id,
    type,
    subject,
    event_at,
    received_at
ORDER BY object_id, line_number
