-- compared_events: one row per event of the changed accounts that one of two revisions counts, or both.
--
-- Grain:   object_id, line_number
-- Reads:   from_usage_events, to_usage_events, from_usage_levels, to_usage_levels, compared_outcomes,
--          changed_accounts, resource_owners, reason_steps
-- Params:  none
--
-- Both sides hold every event of the window with its account, by the one directory and by the other. The
-- step is that of the waterfall in which the event comes or goes; 0 is one that both revisions bill. What an
-- account has of a resource goes on from what another one had, so events of its resources are there whoever
-- owned them.

SELECT
    from_usage_events.source,
    from_usage_events.id,
    from_usage_events.key_hash,
    from_usage_events.account_id AS from_account_id,
    to_usage_events.account_id AS to_account_id,
    from_usage_events.type,
    from_usage_events.subject,
    from_usage_events.event_at,
    from_usage_events.received_at,
    from_usage_events.quantity,
    from_usage_events.data,
    from_usage_events.object_id,
    from_usage_events.line_number,
    COALESCE(compared_outcomes.is_counted_from, TRUE) AS is_counted_from,
    COALESCE(compared_outcomes.is_counted_to, TRUE) AS is_counted_to,
    COALESCE(reason_steps.step, 0) AS step
FROM from_usage_events
INNER JOIN to_usage_events USING (object_id, line_number)
LEFT JOIN compared_outcomes USING (object_id, line_number)
LEFT JOIN reason_steps ON compared_outcomes.reason = reason_steps.reason
WHERE
    (
        from_usage_events.account_id IN (SELECT changed_accounts.account_id FROM changed_accounts)
        OR to_usage_events.account_id IN (SELECT changed_accounts.account_id FROM changed_accounts)
        OR from_usage_events.subject IN (
            SELECT resource_owners.resource
            FROM resource_owners
            SEMI JOIN changed_accounts USING (account_id)
            UNION
            SELECT from_usage_levels.resource
            FROM from_usage_levels
            SEMI JOIN changed_accounts USING (account_id)
            UNION
            SELECT to_usage_levels.resource
            FROM to_usage_levels
            SEMI JOIN changed_accounts USING (account_id)
        )
    )
    AND (COALESCE(compared_outcomes.is_counted_from, TRUE) OR COALESCE(compared_outcomes.is_counted_to, TRUE))
ORDER BY from_usage_events.object_id, from_usage_events.line_number
