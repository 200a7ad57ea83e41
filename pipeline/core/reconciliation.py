"""The reconciliation: every equation that proves that nothing vanished (P3), as controls with a verdict.

A *control* compares two totals of the same thing taken on independent paths: ``expected`` and ``actual``. Its *delta*
is ``actual - expected``. A *tolerance* is zero unless something was rounded, and then it is derived (half a minor unit
for each rounded line item), never chosen. The chain of a window revision, in order:

    lines of an object -> events of the night -> events of the window -> outcomes -> usage -> line items -> invoices

An object belongs to the *night* whose span from the previous cutoff to its own cutoff holds its receipt time; the
nights tile the time line, so that every object is counted by exactly one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from pipeline.core.agreement import Agreement, amounts_of
from pipeline.core.breaks import BreakClass, Difference
from pipeline.core.completeness import ProducerCount, ProducerTotal
from pipeline.core.decimals import plain_text
from pipeline.core.errors import ReconciliationError
from pipeline.core.money import exact, minor_unit_digits

EXACT_REASON = "nothing is rounded here, so the two sides are equal"


class Equation(StrEnum):
    """The name of each equation, as it stands in the column ``control``."""

    OBJECT_LINES = "object_lines"
    NIGHT_EVENTS = "night_events"
    WINDOW_EVENTS = "window_events"
    EVENT_OUTCOMES = "event_outcomes"
    EVENTS_ONCE = "events_once"
    SKU_QUANTITY = "sku_quantity"
    USAGE_QUANTITY = "usage_quantity"
    USAGE_EVENT_COUNT = "usage_event_count"
    USAGE_ROWS = "usage_rows"
    LINE_ITEM_QUANTITY = "line_item_quantity"
    LINE_ITEM_ACCOUNTS = "line_item_accounts"
    ROUNDED_AMOUNT = "rounded_amount"
    RESIDUAL_BOUND = "residual_bound"
    ACCOUNT_INVOICE = "account_invoice"
    INVOICED_AMOUNT = "invoiced_amount"
    ADJUSTED_AMOUNT = "adjusted_amount"
    RATED_TWICE = "rated_twice"
    PRODUCER_EVENTS = "producer_events"
    PRODUCER_SUM = "producer_sum"
    PRODUCER_OFFSETS = "producer_offsets"
    SOURCE_EVENTS = "source_events"
    SOURCE_QUANTITY = "source_quantity"
    INVOICE_NUMBERS = "invoice_numbers"
    EXTERNAL_USAGE = "external_usage"
    EXTERNAL_LINES = "external_lines"
    EXTERNAL_AMOUNT = "external_amount"


EQUATION_SENTENCES: dict[Equation, str] = {
    Equation.OBJECT_LINES: "lines counted in the object = raw events + quarantined lines stored for it",
    Equation.NIGHT_EVENTS: "lines received this night - quarantined lines = events received this night",
    Equation.WINDOW_EVENTS: (
        "events received this night - those before the first window - those in the future - those of other windows "
        "+ those of this window received on other nights = raw events of the window"
    ),
    Equation.EVENT_OUTCOMES: "raw events of the window = billed events + excluded events of every reason",
    Equation.EVENTS_ONCE: "every raw event of the window is billed or excluded exactly once",
    Equation.SKU_QUANTITY: "quantity of the raw events = billed quantity + excluded quantity of every reason",
    Equation.USAGE_QUANTITY: "quantity of the billed events = quantity of the usage",
    Equation.USAGE_EVENT_COUNT: "billed events that the meter counts = events counted in the usage",
    Equation.USAGE_ROWS: "rows of usage = rows whose quantity their billed events make",
    Equation.LINE_ITEM_QUANTITY: "quantity of the period's usage = quantity of its line items",
    Equation.LINE_ITEM_ACCOUNTS: "every account and SKU with usage has line items of the same quantity",
    Equation.ROUNDED_AMOUNT: "exact amounts - rounded amounts = residuals kept on the line items",
    Equation.RESIDUAL_BOUND: "rounding took or gave at most half a minor unit for each line item",
    Equation.ACCOUNT_INVOICE: "line items of the account = total of its invoice",
    Equation.INVOICED_AMOUNT: "line items of the period = invoices of the period",
    Equation.ADJUSTED_AMOUNT: "line items of the account, rated again = what its documents bill, with the adjustment",
    Equation.RATED_TWICE: "SQL rater = reference rater, line by line",
    Equation.PRODUCER_EVENTS: "events that the producer counted = events received of its hours",
    Equation.PRODUCER_SUM: "what the producer added up = the sum over the events received of its hours",
    Equation.PRODUCER_OFFSETS: "offsets from the first to the last = records received",
    Equation.SOURCE_EVENTS: "raw events of the source = its billed events + its excluded events",
    Equation.SOURCE_QUANTITY: "quantity of the source's raw events = its billed quantity + its excluded quantity",
    Equation.INVOICE_NUMBERS: "last number of the series = documents that have a number of it",
    Equation.EXTERNAL_USAGE: "quantity in the external report = quantity of the usage",
    Equation.EXTERNAL_LINES: "quantity in the external report = quantity of the line items",
    Equation.EXTERNAL_AMOUNT: "amount in the external report = amount of the line items",
}

_FAULTS: dict[Equation, tuple[str, str]] = {
    Equation.OBJECT_LINES: ("reconciliation.line_mismatch", "the lake does not match the lines of an object"),
    Equation.NIGHT_EVENTS: ("reconciliation.event_mismatch", "raw_events does not match the lines received this night"),
    Equation.WINDOW_EVENTS: ("reconciliation.event_mismatch", "the window does not match the events received for it"),
    Equation.EVENT_OUTCOMES: ("reconciliation.event_mismatch", "outcomes do not match raw_events"),
    Equation.EVENTS_ONCE: ("reconciliation.event_mismatch", "an event has no outcome, or more than one"),
    Equation.SKU_QUANTITY: ("reconciliation.quantity_mismatch", "outcomes do not match raw_events"),
    Equation.USAGE_QUANTITY: ("reconciliation.quantity_mismatch", "usage does not match usage_events"),
    Equation.USAGE_EVENT_COUNT: ("reconciliation.event_mismatch", "usage does not match usage_events"),
    Equation.USAGE_ROWS: ("reconciliation.quantity_mismatch", "usage does not match usage_events"),
    Equation.LINE_ITEM_QUANTITY: ("reconciliation.quantity_mismatch", "line_items does not match usage"),
    Equation.LINE_ITEM_ACCOUNTS: ("reconciliation.quantity_mismatch", "line_items does not match usage"),
    Equation.ROUNDED_AMOUNT: ("reconciliation.amount_mismatch", "residuals do not match what rounding took or gave"),
    Equation.RESIDUAL_BOUND: ("reconciliation.amount_mismatch", "the residual is more than rounding can make"),
    Equation.ACCOUNT_INVOICE: ("reconciliation.amount_mismatch", "an invoice does not match line_items"),
    Equation.INVOICED_AMOUNT: ("reconciliation.amount_mismatch", "invoices do not match line_items"),
    Equation.ADJUSTED_AMOUNT: ("reconciliation.amount_mismatch", "an adjustment does not settle line_items"),
    Equation.SOURCE_EVENTS: ("reconciliation.event_mismatch", "outcomes do not match the raw events of a source"),
    Equation.SOURCE_QUANTITY: ("reconciliation.quantity_mismatch", "outcomes do not match the quantity of a source"),
    Equation.INVOICE_NUMBERS: ("reconciliation.number_mismatch", "a number of a series has no document"),
    Equation.EXTERNAL_USAGE: ("reconciliation.external_mismatch", "usage does not match an external report"),
    Equation.EXTERNAL_LINES: ("reconciliation.external_mismatch", "line_items does not match an external report"),
    Equation.EXTERNAL_AMOUNT: ("reconciliation.external_mismatch", "line_items does not match an external report"),
}

# About a period; the scope begins with it. Those of a night, and those of a close beside them.
OF_PERIODS = frozenset(
    {
        *(Equation.LINE_ITEM_QUANTITY, Equation.LINE_ITEM_ACCOUNTS, Equation.ROUNDED_AMOUNT, Equation.RESIDUAL_BOUND),
        *(Equation.RATED_TWICE, Equation.EXTERNAL_USAGE, Equation.EXTERNAL_LINES, Equation.EXTERNAL_AMOUNT),
    }
)
OF_NIGHTLY_PERIODS = OF_PERIODS - {Equation.EXTERNAL_LINES, Equation.EXTERNAL_AMOUNT}  # line items are not whole yet
OF_CLOSES = OF_PERIODS | {Equation.ACCOUNT_INVOICE, Equation.INVOICED_AMOUNT, Equation.INVOICE_NUMBERS}
_OF_MONEY = frozenset(
    {
        *(Equation.ROUNDED_AMOUNT, Equation.RESIDUAL_BOUND, Equation.ACCOUNT_INVOICE, Equation.INVOICED_AMOUNT),
        Equation.ADJUSTED_AMOUNT,
    }
)


class Effect(StrEnum):
    """What a control that fails does."""

    STOP = "stop"  # the revision is rejected, or the period is not closed
    HOLD = "hold"  # the account that it names is held, all others go on
    REPORT = "report"  # a break is opened, nothing else


class Verdict(StrEnum):
    """What a control says."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"


def readable(number: Decimal | int) -> str:
    """Return a number as people read it: all its digits, thousands grouped, never an exponent.

    >>> readable(Decimal("1204.500")), readable(Decimal("2.552E-7")), readable(-1204)
    ('1,204.5', '0.0000002552', '-1,204')
    """
    return f"{Decimal(plain_text(Decimal(number))):,f}"


@dataclass(frozen=True, slots=True)
class Control:
    """One equation about one scope in one unit. Refuses floats: a total is exact or it is no evidence."""

    control: Equation
    scope: str
    unit: str
    expected: Decimal
    actual: Decimal
    tolerance: Decimal = Decimal(0)
    tolerance_reason: str = EXACT_REASON
    effect: Effect = Effect.STOP
    account_id: str = ""  # the one that it is about; empty for a total
    difference: BreakClass | None = None  # of what kind it is, if it fails; None where the figures say it

    def __post_init__(self) -> None:
        for name in ("expected", "actual", "tolerance"):
            number = getattr(self, name)
            if type(number) is not Decimal:
                raise TypeError(f"{name} is a Decimal, got {type(number).__name__} {number!r}")
        if self.tolerance < 0:
            raise ValueError(f"a tolerance is not negative, got {self.tolerance}")

    @property
    def delta(self) -> Decimal:
        with exact():
            return self.actual - self.expected

    @property
    def verdict(self) -> Verdict:
        return Verdict.PASS if self.delta.copy_abs() <= self.tolerance else Verdict.FAIL

    @property
    def break_class(self) -> BreakClass | None:
        """Return of what kind the difference is; None for a control that passes."""
        if self.verdict is Verdict.PASS:
            return None
        if self.difference is not None:
            return self.difference
        if self.control is Equation.RATED_TWICE:
            return BreakClass.PRICE
        if self.control in _OF_MONEY:
            return BreakClass.AMOUNT
        return BreakClass.MISSING if self.delta < 0 else BreakClass.EXTRA

    @property
    def sentence(self) -> str:
        """Say what was expected, what was found, by how much it differs and in which direction.

        >>> Control(Equation.USAGE_QUANTITY, "api-calls", "requests", Decimal(1204), Decimal(1203)).sentence
        'expected 1,204 requests, got 1,203 (1 too few, tolerance 0)'
        """
        direction = "too few" if self.delta < 0 else "too many"
        difference = f"{readable(self.delta.copy_abs())} {direction}" if self.delta else "equal"
        return (
            f"expected {readable(self.expected)} {self.unit}, got {readable(self.actual)} "
            f"({difference}, tolerance {readable(self.tolerance)})"
        )


@dataclass(frozen=True, slots=True)
class ObjectLines:
    """One object: lines as counted while it was read, and rows stored for it in the lake."""

    object_id: str
    line_count: int
    raw_event_count: int
    quarantine_count: int


@dataclass(frozen=True, slots=True)
class EventCounts:
    """How the events of a night became the events of a window, and what became of them."""

    night_line_count: int
    night_quarantine_count: int
    night_event_count: int
    before_first_window_event_count: int  # received this night, used before anything was billed: of no window
    future_event_count: int  # received this night, outside this window, used after receipt by more than the tolerance
    other_window_event_count: int  # received this night, of other windows: the rest
    other_night_event_count: int  # of this window, received on other nights
    window_event_count: int
    usage_event_count: int
    excluded_counts: Mapping[str, int]  # by reason
    accounted_once_count: int

    @property
    def excluded_count(self) -> int:
        return sum(self.excluded_counts.values())

    @property
    def outside_window_event_count(self) -> int:
        return self.before_first_window_event_count + self.future_event_count + self.other_window_event_count


@dataclass(frozen=True, slots=True)
class SkuQuantities:
    """One SKU of a window revision. ``unreadable_count``: events whose value is no quantity, so they add none."""

    sku: str
    unit: str
    raw_quantity: Decimal
    excluded_quantities: Mapping[str, Decimal]  # by reason
    billed_quantity: Decimal
    billed_event_count: int
    usage_quantity: Decimal
    usage_event_count: int
    unreadable_count: int = 0
    usage_row_count: int = 0
    tied_row_count: int = 0  # rows of usage that were counted again from their events, and are the same

    @property
    def explained_quantity(self) -> Decimal:
        with exact():
            return sum(self.excluded_quantities.values(), self.billed_quantity)


@dataclass(frozen=True, slots=True)
class PeriodQuantity:
    """Usage and line items of one SKU in the draft of a period."""

    period_id: str
    sku: str
    unit: str
    usage_quantity: Decimal
    line_item_quantity: Decimal


@dataclass(frozen=True, slots=True)
class PeriodAccounts:
    """How many pairs of account and SKU the draft of a period has, and how many of them tie."""

    period_id: str
    pair_count: int
    tied_count: int


@dataclass(frozen=True, slots=True)
class PeriodAmount:
    """The line items of one currency in the draft of a period."""

    period_id: str
    currency: str
    line_item_count: int
    account_count: int
    amount_exact: Decimal
    amount: Decimal
    residual: Decimal


@dataclass(frozen=True, slots=True)
class InvoicedAccount:
    """One account of a closed period: the sum of its line items and the total of its invoice."""

    account_id: str
    currency: str
    line_item_amount: Decimal
    invoice_amount: Decimal


@dataclass(frozen=True, slots=True)
class SourceEvents:
    """The raw events of one source contract in a window, and what became of them."""

    contract: str
    raw_event_count: int
    billed_event_count: int
    excluded_event_count: int


@dataclass(frozen=True, slots=True)
class SourceQuantity:
    """The quantity of one SKU that came through one source contract."""

    contract: str
    sku: str
    unit: str
    raw_quantity: Decimal
    billed_quantity: Decimal
    excluded_quantity: Decimal


@dataclass(frozen=True, slots=True)
class WindowTotals:
    """Every total that the controls of one window revision compare."""

    objects: tuple[ObjectLines, ...]
    events: EventCounts
    skus: tuple[SkuQuantities, ...]
    period_quantities: tuple[PeriodQuantity, ...]
    period_accounts: tuple[PeriodAccounts, ...]
    period_amounts: tuple[PeriodAmount, ...]
    agreements: Mapping[str, Agreement] = field(default_factory=dict)  # of the two raters, by period
    source_events: tuple[SourceEvents, ...] = ()
    source_quantities: tuple[SourceQuantity, ...] = ()
    producers: tuple[ProducerTotal, ...] = ()
    external: tuple[Control, ...] = ()  # of the reports of others; core.external makes them


def object_controls(objects: Iterable[ObjectLines]) -> list[Control]:
    """Return one control per object: no line of it is lost between reading and the lake.

    >>> [c.verdict.value for c in object_controls([ObjectLines("a@1", 3, 2, 1), ObjectLines("b@1", 3, 2, 0)])]
    ['pass', 'fail']
    """
    return [
        Control(
            Equation.OBJECT_LINES,
            scope=lines.object_id,
            unit="lines",
            expected=Decimal(lines.line_count),
            actual=Decimal(lines.raw_event_count + lines.quarantine_count),
        )
        for lines in objects
    ]


def event_controls(counts: EventCounts) -> list[Control]:
    """Return the bridge from the lines of the night to the outcome of every event of the window."""
    bridged = counts.night_event_count - counts.outside_window_event_count + counts.other_night_event_count
    equations = [
        (Equation.NIGHT_EVENTS, counts.night_line_count - counts.night_quarantine_count, counts.night_event_count),
        (Equation.WINDOW_EVENTS, bridged, counts.window_event_count),
        (Equation.EVENT_OUTCOMES, counts.window_event_count, counts.usage_event_count + counts.excluded_count),
        (Equation.EVENTS_ONCE, counts.window_event_count, counts.accounted_once_count),
    ]
    return [
        Control(equation, scope="total", unit="events", expected=Decimal(expected), actual=Decimal(actual))
        for equation, expected, actual in equations
    ]


def source_controls(events: Iterable[SourceEvents], quantities: Iterable[SourceQuantity]) -> list[Control]:
    """Return the controls of conservation for each source: events, and the quantity of each SKU."""
    controls = [
        Control(
            *(Equation.SOURCE_EVENTS, one.contract, "events", Decimal(one.raw_event_count)),
            actual=Decimal(one.billed_event_count + one.excluded_event_count),
        )
        for one in events
    ]
    with exact():
        controls += [
            Control(
                *(Equation.SOURCE_QUANTITY, f"{one.contract}/{one.sku}", one.unit, one.raw_quantity),
                actual=one.billed_quantity + one.excluded_quantity,
            )
            for one in quantities
        ]
    return controls


def producer_controls(totals: Iterable[ProducerTotal]) -> list[Control]:
    """Return what producers counted beside what was collected when the revision was opened.

    Evidence that is missing has stopped the revision by then, or is accepted with a recorded exception.
    """
    equations = {
        ProducerCount.EVENTS: Equation.PRODUCER_EVENTS,
        ProducerCount.SUM: Equation.PRODUCER_SUM,
        ProducerCount.OFFSETS: Equation.PRODUCER_OFFSETS,
    }
    return [
        Control(equations[one.counted], one.scope, one.unit, one.expected, one.actual, effect=Effect.REPORT)
        for one in totals
    ]


def sku_controls(skus: Iterable[SkuQuantities]) -> list[Control]:
    """Return the controls of quantity: raw events against outcomes, billed events against usage."""
    controls = []
    for sku in skus:
        controls += [
            Control(Equation.SKU_QUANTITY, sku.sku, sku.unit, sku.raw_quantity, sku.explained_quantity),
            Control(Equation.USAGE_QUANTITY, sku.sku, sku.unit, sku.billed_quantity, sku.usage_quantity),
            Control(
                Equation.USAGE_EVENT_COUNT,
                sku.sku,
                "events",
                Decimal(sku.billed_event_count),
                Decimal(sku.usage_event_count),
            ),
            Control(Equation.USAGE_ROWS, sku.sku, "rows", Decimal(sku.usage_row_count), Decimal(sku.tied_row_count)),
        ]
    return controls


def period_quantity_controls(quantities: Iterable[PeriodQuantity], accounts: Iterable[PeriodAccounts]) -> list[Control]:
    """Return the controls from usage to line items: per period and SKU, and that each account ties by itself."""
    return [
        Control(
            Equation.LINE_ITEM_QUANTITY,
            f"{quantity.period_id}/{quantity.sku}",
            quantity.unit,
            quantity.usage_quantity,
            quantity.line_item_quantity,
        )
        for quantity in quantities
    ] + [
        Control(
            Equation.LINE_ITEM_ACCOUNTS,
            period.period_id,
            "account SKUs",
            Decimal(period.pair_count),
            Decimal(period.tied_count),
        )
        for period in accounts
    ]


def amount_controls(amounts: Iterable[PeriodAmount]) -> list[Control]:
    """Return the controls of rounding: the residual is kept, and is no more than rounding can make (P6).

    >>> total = PeriodAmount("2026-01", "USD", 2, 1, Decimal("2.009"), Decimal("2.02"), Decimal("-0.011"))
    >>> [(control.control.value, control.verdict.value) for control in amount_controls([total])]
    [('rounded_amount', 'pass'), ('residual_bound', 'fail')]
    """
    controls = []
    for total in amounts:
        scope = f"{total.period_id}/{total.currency}"
        with exact():
            half_minor_unit = Decimal(5).scaleb(-minor_unit_digits(total.currency) - 1)
            rounded_away = total.amount_exact - total.amount
            residual_max = half_minor_unit * total.line_item_count
        controls += [
            Control(Equation.ROUNDED_AMOUNT, scope, total.currency, rounded_away, total.residual),
            Control(
                Equation.RESIDUAL_BOUND,
                scope,
                total.currency,
                Decimal(0),
                total.residual,
                residual_max,
                f"half a minor unit ({plain_text(half_minor_unit)} {total.currency}) for each of "
                f"{readable(total.line_item_count)} rounded line items",
            ),
        ]
    return controls


def agreement_controls(agreements: Mapping[str, Agreement]) -> list[Control]:
    """Return the controls of rating twice (P7): the lines of each period, and each account that is held for it.

    >>> agreed = Agreement(account_count=4, line_count=9, compared_account_count=2, compared_line_count=5,
    ...     disagreements=())
    >>> [(control.verdict.value, control.tolerance_reason) for control in agreement_controls({"2026-01": agreed})]
    [('pass', '2 of 4 accounts were rated twice')]
    """
    controls = []
    for period_id, agreement in sorted(agreements.items()):
        share = f"{readable(agreement.compared_account_count)} of {readable(agreement.account_count)} accounts"
        controls.append(
            Control(
                Equation.RATED_TWICE,
                period_id,
                "lines",
                Decimal(agreement.compared_line_count),
                Decimal(agreement.compared_line_count - len(agreement.disagreements)),
                tolerance_reason=f"{share} were rated twice",
                effect=Effect.HOLD,
            )
        )
        for account_id, lines in agreement.accounts.items():
            reference, sql = amounts_of(lines)
            reason = f"{len(lines)} line{'s'[: len(lines) != 1]} differ; the account is held: {lines[0].sentence}"
            scope = f"{period_id}/{account_id}"
            controls.append(
                Control(
                    *(Equation.RATED_TWICE, scope, lines[0].currency, reference, sql),
                    tolerance_reason=reason,
                    effect=Effect.HOLD,
                    account_id=account_id,
                )
            )
    return controls


def window_controls(totals: WindowTotals) -> list[Control]:
    """Return every control of a window revision, in the order of the dataset's key."""
    controls = [
        *object_controls(totals.objects),
        *event_controls(totals.events),
        *sku_controls(totals.skus),
        *period_quantity_controls(totals.period_quantities, totals.period_accounts),
        *amount_controls(totals.period_amounts),
        *agreement_controls(totals.agreements),
        *source_controls(totals.source_events, totals.source_quantities),
        *producer_controls(totals.producers),
        *totals.external,
    ]
    return sorted(controls, key=lambda control: (control.control, control.scope, control.unit))


def invoice_controls(
    period_id: str, accounts: Sequence[InvoicedAccount], amounts: Mapping[str, Decimal]
) -> list[Control]:
    """Return the controls of a closing period: line items = invoice, for each account and for each currency.

    ``amounts`` is what all line items of a currency add up to, taken by another road. An account whose invoice does not
    match is held; its line items are no part of what is issued, and stand in the total for themselves.

    >>> account = InvoicedAccount("acct-7", "USD", Decimal("1.20"), Decimal("1.2"))
    >>> [control.verdict.value for control in invoice_controls("2026-01", [account], {"USD": Decimal("1.20")})]
    ['pass', 'pass']
    """
    controls = [
        Control(
            *(Equation.ACCOUNT_INVOICE, account.account_id, account.currency),
            *(account.line_item_amount, account.invoice_amount),
            effect=Effect.HOLD,
            account_id=account.account_id,
        )
        for account in accounts
    ]
    for currency in sorted({*amounts, *(account.currency for account in accounts)}):
        of_currency = [control for control in controls if control.unit == currency]
        with exact():
            issued = sum(
                (one.actual if one.verdict is Verdict.PASS else one.expected for one in of_currency), Decimal(0)
            )
        line_item_amount = amounts.get(currency, Decimal(0))
        controls.append(Control(Equation.INVOICED_AMOUNT, period_id, currency, line_item_amount, issued))
    return sorted(controls, key=lambda control: (control.control, control.scope, control.unit))


def number_controls(series: Mapping[str, Sequence[int]]) -> list[Control]:
    """Return one control for each series of numbers: the last number, and how many documents have one of it.

    >>> [control.verdict.value for control in number_controls({"INV": (3, 3), "NOTE": (3, 2)})]
    ['pass', 'fail']
    """
    return [
        Control(Equation.INVOICE_NUMBERS, name, "numbers", Decimal(last), Decimal(count))
        for name, (last, count) in sorted(series.items())
    ]


def adjustment_controls(accounts: Iterable[InvoicedAccount]) -> list[Control]:
    """Return one control per account whose documents are about to settle what it was rated again."""
    controls = [
        Control(
            Equation.ADJUSTED_AMOUNT,
            account.account_id,
            account.currency,
            account.line_item_amount,
            account.invoice_amount,
        )
        for account in accounts
    ]
    return sorted(controls, key=lambda control: (control.control, control.scope, control.unit))


def failed_controls(controls: Iterable[Control]) -> list[Control]:
    """Return the controls whose verdict is fail, in the given order."""
    return [control for control in controls if control.verdict is Verdict.FAIL]


def stopping_controls(controls: Iterable[Control]) -> list[Control]:
    """Return the failed controls that stop a revision or a close, in the given order."""
    return [control for control in failed_controls(controls) if control.effect is Effect.STOP]


def failed_control_sentences(controls: Iterable[Control]) -> tuple[str, ...]:
    """Return one sentence for each control that stops: what an override would override."""
    return tuple(f"{one.control.value}, {one.scope}: {one.sentence}" for one in stopping_controls(controls))


def controls_sentence(controls: Sequence[Control]) -> str:
    """Say in one sentence whether what was reconciled ties.

    >>> controls_sentence([Control(Equation.USAGE_QUANTITY, "api-calls", "requests", Decimal(7), Decimal(7))])
    'reconciled: 1 control passes'
    """
    failed = failed_controls(controls)
    passes = (
        f"{readable(len(controls) - len(failed))} control{'s pass' if len(controls) - len(failed) != 1 else ' passes'}"
    )
    if not failed:
        return f"reconciled: {passes}"
    held = sorted({one.account_id for one in failed if one.effect is Effect.HOLD and one.account_id})
    others = f", {len(held)} account{'s'[: len(held) != 1]} held" if held else ""
    reconciled = "not reconciled" if stopping_controls(controls) else "reconciled"
    return f"{reconciled}: {passes}, {readable(len(failed))} failed{others}"


def differences(
    controls: Iterable[Control], *, window_id: str | None = None, period_id: str | None = None
) -> list[Difference]:
    """Return what the failed controls of a window revision, or of a period, found: what breaks are opened for.

    A control of a window revision that is about a period is a difference of the period.
    """
    found = []
    for control in failed_controls(controls):
        if control.break_class is None:
            continue
        period = period_id or (control.scope.partition("/")[0] if control.control in OF_PERIODS else None)
        found.append(
            Difference(
                *(control.control.value, control.scope, control.unit, control.break_class),
                *(control.expected, control.actual),
                window_id=window_id if period is None else None,
                period_id=period,
                account_id=control.account_id or None,
            )
        )
    return found


def unexplained_event_count(controls: Iterable[Control]) -> int:
    """Return how many events the chain from lines to outcomes leaves unexplained; zero is the promise (P3)."""
    chain = (Equation.NIGHT_EVENTS, Equation.WINDOW_EVENTS, Equation.EVENT_OUTCOMES)
    return int(sum(abs(control.delta) for control in controls if control.control in chain))


def require_reconciled(controls: Iterable[Control], where: str) -> None:
    """Guarantee that every control passes; otherwise raise one ``ReconciliationError`` that shows all that fail.

    Controls that hold single accounts are left to the hold, and those that report to the break.
    """
    failed = stopping_controls(controls)
    if not failed:
        return
    code, fault = _FAULTS[failed[0].control]
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    details = []
    for control in failed:
        details += [f"{where}, {control.control.value}, {control.scope}", control.sentence]
    raise ReconciliationError(
        code,
        fault + others,
        [*details, "nothing was accepted and nothing was issued; the report shows every control"],
    )
