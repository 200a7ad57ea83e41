"""External figures held against usage and line items: one control for each account, SKU and side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Return the controls of one report: against usage every night, against line items when the period is whole.

    A report by month is compared when the period is whole, and not before: until then usage is a part of it. Its usage
    is that of the line items, which another control ties.
    """
    controls = []
    for one in matches:
        scope = "/".join(filter(None, (one.period_id, contract.name, one.account_id, one.sku)))
        of_quantity = []
        if contract.columns.quantity is not None and contract.columns.day is not None:
            sides = (one.unit, one.external_quantity, one.usage_quantity)
            of_quantity.append(_control(contract, one, Equation.EXTERNAL_USAGE, scope, *sides, is_whole=is_whole))
        if is_whole and contract.columns.quantity is not None:
            sides = (one.unit, one.external_quantity, one.line_item_quantity)
            of_quantity.append(_control(contract, one, Equation.EXTERNAL_LINES, scope, *sides, is_whole=is_whole))
        controls += of_quantity
        if is_whole and contract.currency is not None:
            controls.append(
                _control(
                    *(contract, one, Equation.EXTERNAL_AMOUNT, scope, contract.currency),
                    *(one.external_amount, one.line_item_amount),
                    is_whole=is_whole,
                    same_quantity=bool(of_quantity) and of_quantity[0].verdict is Verdict.PASS,
                )
            )
    return controls


def report_controls(
    contract: ExternalContract, period_id: str, faults: Mapping[str, str], *, is_missing: bool, is_whole: bool
) -> list[Control]:
    """Return a failed control for each report that cannot be read, and one if a whole period has none at all.

    ``faults`` says by key what is wrong. A report that gates stops the close with them: what nobody can compare
    proves nothing. No night is stopped.
    """
    effect = Effect.STOP if contract.gates and is_whole else Effect.REPORT
    one, none = Decimal(1), Decimal(0)
    controls = [
        Control(
            *(Equation.EXTERNAL_USAGE, f"{period_id}/{contract.name}/{key}", "reports", one, none),
            tolerance_reason=f"the report cannot be read: {fault}",
            effect=effect,
        )
        for key, fault in sorted(faults.items())
    ]
    if is_whole and is_missing:
        controls.append(
            Control(
                *(Equation.EXTERNAL_LINES, f"{period_id}/{contract.name}", "reports", one, none),
                tolerance_reason=f"no report below {contract.prefix} says anything of {period_id}",
                effect=effect,
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
    is_whole: bool,
    same_quantity: bool = False,
) -> Control:
    expected, actual = external or Decimal(0), ours or Decimal(0)
    tolerance = contract.tolerance.of(expected)
    kind = _kind(contract, match, equation, external, ours, same_quantity=same_quantity)
    # What is nobody's has nobody to hold: it stops the close, and no night.
    is_settled = is_whole if kind is BreakClass.MAPPING else kind is not BreakClass.TIMING
    hold_or_stop = Effect.HOLD if match.account_id and match.is_known else Effect.STOP
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
