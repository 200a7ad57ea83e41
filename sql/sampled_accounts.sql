-- sampled_accounts: one row per account whose usage of the billing window is counted again.
--
-- Grain:   account_id
-- Reads:   usage
-- Params:  $draw             VARCHAR  what is drawn by: another text draws other accounts
--          $account_count    BIGINT   how many accounts are drawn, if there are so many
--          $event_count_max  BIGINT   an account with more metered events is not drawn: each is read in turn
--
-- The draw is a hash of the text and the account, so it is the same on every machine and nobody chooses it.

WITH

account_events AS (
    SELECT
        account_id,
        SUM(event_count) AS event_count,
        MD5(CONCAT($draw, ' ', account_id)) AS lot
    FROM usage
    GROUP BY account_id
)

SELECT
    account_id,
    event_count,
    lot
FROM account_events
WHERE event_count <= $event_count_max
QUALIFY ROW_NUMBER() OVER (ORDER BY lot, account_id) <= $account_count
ORDER BY lot, account_id
