-- late_arrivals: one row per source, age and SKU: what came at or after the cutoff that the policy sets.
--
-- Grain:   source, age_order, sku, unit
-- Reads:   raw_events, excluded_events, late_exclusions, event_quantities
-- Params:  $window_start      TIMESTAMPTZ  first instant of the billing window (inclusive)
--          $window_end        TIMESTAMPTZ  end of the billing window (exclusive)
--          $policy_cutoff_at  TIMESTAMPTZ  window_end + grace period, whatever the revision (exclusive)
--
-- Age is how long after the cutoff an event was received. An event counts if it is billed by now, or will
-- be by the next revision; a late copy of another event changes nothing, nor does a late event that is
-- excluded for another reason once it is on time (late_exclusions). The row without a SKU counts events, the
-- rows with one say what they add to it: one event may feed several SKUs.

WITH

late_events AS (
    SELECT
        object_id,
        line_number,
        source,
        received_at
    FROM raw_events
    WHERE
        event_at >= $window_start
        AND event_at < $window_end
        AND received_at >= $policy_cutoff_at
),

other_exclusions AS (
    SELECT
        object_id,
        line_number
    FROM excluded_events
    WHERE reason <> 'late'
    UNION ALL
    SELECT
        object_id,
        line_number
    FROM late_exclusions
),

aged_events AS (
    SELECT
        late_events.object_id,
        late_events.line_number,
        late_events.source,
        CASE
            WHEN late_events.received_at <= CAST($policy_cutoff_at AS TIMESTAMPTZ) + INTERVAL 1 HOUR THEN 1
            WHEN late_events.received_at <= CAST($policy_cutoff_at AS TIMESTAMPTZ) + INTERVAL 6 HOUR THEN 2
            WHEN late_events.received_at <= CAST($policy_cutoff_at AS TIMESTAMPTZ) + INTERVAL 24 HOUR THEN 3
            WHEN late_events.received_at <= CAST($policy_cutoff_at AS TIMESTAMPTZ) + INTERVAL 168 HOUR THEN 4
            WHEN late_events.received_at <= CAST($policy_cutoff_at AS TIMESTAMPTZ) + INTERVAL 744 HOUR THEN 5
            ELSE 6
        END AS age_order,
        CASE age_order
            WHEN 1 THEN 'up to 1 h'
            WHEN 2 THEN 'up to 6 h'
            WHEN 3 THEN 'up to 1 d'
            WHEN 4 THEN 'up to 7 d'
            WHEN 5 THEN 'up to 31 d'
            ELSE 'more than 31 d'
        END AS age
    FROM late_events
    ANTI JOIN other_exclusions USING (object_id, line_number)
)

SELECT
    source,
    age_order,
    age,
    NULL AS sku,
    NULL AS unit,
    COUNT(*) AS event_count,
    NULL AS quantity
FROM aged_events
GROUP BY source, age_order, age
UNION ALL
SELECT
    aged_events.source,
    aged_events.age_order,
    aged_events.age,
    event_quantities.sku,
    event_quantities.unit,
    COUNT(*) AS event_count,
    COALESCE(SUM(event_quantities.quantity), 0) AS quantity
FROM event_quantities
INNER JOIN aged_events USING (object_id, line_number)
GROUP BY
    aged_events.source,
    aged_events.age_order,
    aged_events.age,
    event_quantities.sku,
    event_quantities.unit
ORDER BY source, age_order, sku NULLS FIRST, unit
