"""External figures held against usage and line items: one control for each account, SKU and side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from pipeline.core.breaks import BreakClass
from pipeline.core.decimals import plain_text
from pipeline.core.external import ExternalContract
from pipeline.core.money import exact
from pipeline.core.reconciliation import Control, Effect, Equation, Verdict


@dataclass(frozen=True, slots=True)
class ExternalMatch:
    """One account and SKU of a period, on three sides, of the days that both sides have; None where there is nothing.

    ``earlier`` is without the newest of these days, which a report may not have in full.
    """

    period_id: str
    account_id: str
    sku: str
    unit: str
    external_quantity: Decimal | None
    usage_quantity: Decimal | None
    earlier_external_quantity: Decimal
    earlier_usage_quantity: Decimal
    line_item_quantity: Decimal | None
    external_amount: Decimal | None
    line_item_amount: Decimal | None
    is_known: bool  # the account and the SKU are ours


def external_controls(contract: ExternalContract, matches: Sequence[ExternalMatch], *, is_whole: bool) -> list[Control]:
    """Return the controls of one report: against usage every night, against line items when the period is whole."""
    controls = []
    for one in matches:
        scope = "/".join(filter(None, (one.period_id, contract.name, one.account_id, one.sku)))
        of_usage = None
        if contract.columns.quantity is not None:
            of_usage = _control(
                contract, one, Equation.EXTERNAL_USAGE, scope, one.unit, one.external_quantity, one.usage_quantity
            )
            controls.append(of_usage)
        if is_whole and contract.columns.quantity is not None:
            controls.append(
                _control(
                    *(contract, one, Equation.EXTERNAL_LINES, scope, one.unit),
                    *(one.external_quantity, one.line_item_quantity),
                )
            )
        if is_whole and contract.currency is not None:
            controls.append(
                _control(
                    *(contract, one, Equation.EXTERNAL_AMOUNT, scope, contract.currency),
                    *(one.external_amount, one.line_item_amount),
                    same_quantity=of_usage is not None and of_usage.verdict is Verdict.PASS,
                )
            )
    return controls


def _control(
    contract: ExternalContract,
    match: ExternalMatch,
    equation: Equation,
    scope: str,
    unit: str,
    external: Decimal | None,
    ours: Decimal | None,
    *,
    same_quantity: bool = False,
) -> Control:
    expected, actual = external or Decimal(0), ours or Decimal(0)
    tolerance = contract.tolerance.of(expected)
    kind = _kind(contract, match, equation, external, ours, same_quantity=same_quantity)
    is_settled = kind not in (BreakClass.MAPPING, BreakClass.TIMING)
    hold_or_stop = Effect.HOLD if match.account_id else Effect.STOP
    bounds = f"{plain_text(contract.tolerance.absolute)} or {plain_text(contract.tolerance.percent)} percent"
    return Control(
        *(equation, scope, unit, expected, actual, tolerance),
        tolerance_reason=f"{contract.name} allows {bounds}: {contract.tolerance.reason}",
        effect=hold_or_stop if contract.gates and is_settled else Effect.REPORT,
        account_id=match.account_id if match.is_known else "",
        difference=kind,
    )


def _kind(
    contract: ExternalContract,
    match: ExternalMatch,
    equation: Equation,
    external: Decimal | None,
    ours: Decimal | None,
    *,
    same_quantity: bool,
) -> BreakClass:
    """Return of what kind a difference is, if there is one."""
    if not match.is_known:
        return BreakClass.MAPPING
    earlier, earlier_ours = match.earlier_external_quantity, match.earlier_usage_quantity
    with exact():
        ties_earlier = (earlier_ours - earlier).copy_abs() <= contract.tolerance.of(earlier)
    is_by_day = equation is Equation.EXTERNAL_USAGE and contract.columns.day is not None
    if is_by_day and ties_earlier and (earlier or earlier_ours):
        return BreakClass.TIMING
    if not ours:
        return BreakClass.MISSING
    if not external:
        return BreakClass.EXTRA
    return BreakClass.PRICE if same_quantity else BreakClass.AMOUNT
