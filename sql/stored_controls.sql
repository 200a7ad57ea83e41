-- stored_controls: one row per control of a reconciliation, as it was published.
--
-- Grain:   control, scope, unit
-- Reads:   reconciliation
-- Params:  none
--
-- A gate and a report go by what was published, not by what would be computed now. The delta and the
-- verdict follow from the other columns; they are read to show that they still do.

SELECT
    control,
    scope,
    unit,
    expected,
    actual,
    tolerance,
    tolerance_reason,
    delta,
    verdict,
    effect,
    account_id,
    break_class
FROM reconciliation
ORDER BY control, scope, unit
