"""Rating, the reference engine: the usage of one account times its terms makes line items (P6, P7).

The rules of docs/pricing.md in plain decimal arithmetic, one account, segment, charge and line at a time. The SQL
engine computes the same lines for all accounts at once; the two share terms and usage and nothing else, so that an
error in one of them shows.

Usage is rated on the sum of the period: rounding every event or every window gives another bill. Every line is exact
until it is rounded, once, to the minor unit of its currency; what rounding took stays on the line as its residual.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter
from typing import NamedTuple

from pipeline.core.decimals import plain_text
from pipeline.core.errors import PricingError
from pipeline.core.line_item import LineItem, LineKind, line_item_id
from pipeline.core.money import (
    AMOUNT_EXACT_SCALE,
    QUANTITY_SCALE,
    UNIT_PRICE_SCALE,
    exact,
    minor_unit_digits,
    rounding_context,
)
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.price_book import (
    PLAN_SKU,
    AnyCharge,
    Change,
    Discount,
    DynamicCharge,
    FlatFeeCharge,
    GraduatedCharge,
    GraduatedPercentageCharge,
    MatrixCharge,
    PackageCharge,
    PercentageCharge,
    PerUnitCharge,
    StairstepCharge,
    VolumeCharge,
)
from pipeline.core.terms import AccountTerms, AdvanceFees, Segment

# What an account used in two parts of a period adds up to what it used in both; of a maximum it does not.
ADDITIVE_AGGREGATIONS = frozenset({"sum", "count", "time_weighted_sum", "sum_of_maxima"})
ZERO = Decimal(0)
ONE = Decimal(1)
AMOUNT_END = Decimal(10) ** (38 - AMOUNT_EXACT_SCALE)  # the first amount too large for its column
QUANTITY_END = Decimal(10) ** (38 - QUANTITY_SCALE)


class RatedAccount(NamedTuple):
    """The line items of an account in order of id; ``problems`` are sentences about usage that has no price.

    With a problem the lines are not all there is to pay, and nothing may be issued from them.
    """

    lines: list[LineItem]
    problems: list[str]


class Position(NamedTuple):
    """Which units the usage of a segment is: those above ``before``, up to and including ``after``, of ``total``.

    A period of one segment, and each segment that starts again, counts from zero to all that it used. ``fees_paid`` is
    of how many graduated tiers earlier segments paid the flat fee; ``owes_volume_fee`` tells whether that of a volume
    is due in this one.
    """

    before: Decimal
    after: Decimal
    total: Decimal
    fees_paid: int = 0
    owes_volume_fee: bool = True


class Part(NamedTuple):
    """What one tier, cell or package price of a charge comes to, exactly; ``flat_fee`` is part of ``amount``."""

    tier: int
    quantity: Decimal
    unit_price: Decimal  # for `per_units` units
    per_units: Decimal
    flat_fee: Decimal
    amount: Decimal


class Step(NamedTuple):
    """A tier with the bound before it (none before the first), ready to be multiplied."""

    number: int
    above: Decimal | None
    up_to: Decimal | None
    unit_price: Decimal
    per_units: Decimal
    price_of_one: Decimal
    flat_fee: Decimal


class NoPriceError(ValueError):
    """Usage that a charge has no price for; the message ends the sentence of the problem."""


def unpriced(problems: Iterable[str], period_id: str) -> PricingError:
    """Return the one refusal that names all usage of a period that has no price."""
    sentences = sorted(problems)
    return PricingError(
        "pricing.unpriced_usage",
        f"usage of period {period_id} cannot be priced ({len(sentences)} in all)",
        [*sentences, "nothing was rated; mend the price book, the account or the meter, then rate again"],
    )


def rate_account(terms: AccountTerms, usage: Sequence[PeriodUsage], values: Sequence[EventValue] = ()) -> RatedAccount:
    """Return what an account pays for a period, and which of its usage has no price; the order of rows does not matter.

    ``values`` are those of events whose price depends on each of them. Rows of another account raise ``ValueError``.
    """
    account_id = terms.account.account_id
    if any(row.account_id != account_id for row in usage) or any(event.account_id != account_id for event in values):
        raise ValueError(f"there are rows of another account than {account_id}")
    problems: list[str] = []
    lines: list[LineItem] = []
    with exact():
        used = _usage_by_sku(terms, usage, problems)
        sheets = [_rate_segment(terms, segment, used, values, problems) for segment in terms.segments]
        for segment, sheet in zip(terms.segments, sheets, strict=True):
            _add_commitment(terms, segment, sheet, sheets)
            lines += sheet.lines
        for advance in terms.advance_fees:
            lines += _fees_in_advance(terms, advance, problems)
    lines.sort(key=attrgetter("line_item_id"))
    return RatedAccount(lines, problems)


# What was used, by SKU and segment.


@dataclass(frozen=True, slots=True)
class SkuUsage:
    """What an account used of a SKU: rows and quantity by segment, in one unit and counted in one way."""

    sku: str
    unit: str
    is_additive: bool
    rows: Mapping[int, Sequence[PeriodUsage]]
    quantities: Mapping[int, Decimal]


def _usage_by_sku(terms: AccountTerms, usage: Sequence[PeriodUsage], problems: list[str]) -> dict[str, SkuUsage]:
    """Return the usage that can be rated; what is counted in two ways, or is too large, becomes a problem."""
    rows_of: dict[str, list[PeriodUsage]] = {}
    for row in usage:
        rows_of.setdefault(row.sku, []).append(row)
    used = {}
    for sku, rows in rows_of.items():
        sound = rows if len(rows) == 1 else _counted_in_one_way(rows, problems)
        sku_usage = _sku_usage(terms, sku, sound)
        if sum(map(abs, sku_usage.quantities.values())) < QUANTITY_END:
            used[sku] = sku_usage
        else:
            where = _where(max(rows, key=lambda row: abs(row.quantity)))
            problems.append(f"{where}: the usage of the period has more than 29 digits before the point")
    return used


def _counted_in_one_way(rows: list[PeriodUsage], problems: list[str]) -> list[PeriodUsage]:
    """Return the rows that are counted as the first one in order is; the others become problems."""
    rows = sorted(rows, key=attrgetter("aggregation", "unit", "segment", "dimensions"))
    first = rows[0]
    sound = []
    for row in rows:
        if row.aggregation != first.aggregation:
            problems.append(
                f"{_where(row)}: the SKU is aggregated as {row.aggregation} in some windows and as "
                f"{first.aggregation} in others; a period has one aggregation of a SKU: count all its windows with the "
                "new meter (billing backfill), or put the meter back"
            )
        elif row.unit != first.unit:
            problems.append(
                f"{_where(row)}: the SKU is counted in {first.unit} as well; one SKU has one unit within a period: "
                "count all its windows with the new meter (billing backfill), or put the meter back"
            )
        else:
            sound.append(row)
    return sound


def _sku_usage(terms: AccountTerms, sku: str, rows: Sequence[PeriodUsage]) -> SkuUsage:
    """Add up the rows of each segment.

    What is no sum cannot be divided by time: a peak of 10 seats in a segment of half of the days counts as 5 seats.
    """
    of_segment: dict[int, list[PeriodUsage]] = {}
    for row in rows:
        of_segment.setdefault(row.segment, []).append(row)
    additive = rows[0].aggregation in ADDITIVE_AGGREGATIONS
    quantities = {}
    for number, counted in of_segment.items():
        if not 1 <= number <= len(terms.segments):
            raise ValueError(f"there is usage of segment {number}, and the terms have {len(terms.segments)}")
        quantity = counted[0].quantity if len(counted) == 1 else sum((row.quantity for row in counted), ZERO)
        quantities[number] = quantity if additive else _in_share_of_days(terms, number, quantity)
    return SkuUsage(sku, rows[0].unit, additive, of_segment, quantities)


def _in_share_of_days(terms: AccountTerms, number: int, quantity: Decimal) -> Decimal:
    """Return what a quantity that is no sum counts for in a segment: all of it where there is one segment only."""
    if len(terms.segments) == 1:
        return quantity
    return prorated(quantity, terms.share(terms.segments[number - 1].active_days), QUANTITY_SCALE)


def position_of(terms: AccountTerms, segment: Segment, sku: str, used: SkuUsage | None) -> Position:
    """Return which units the usage of a segment is.

    A SKU that nobody used counts on like a sum: what it costs without usage is due once in the period.
    """
    if len(terms.segments) == 1 or not _counts_on(terms, used):
        quantity = ZERO if used is None else used.quantities.get(segment.number, ZERO)
        return Position(ZERO, quantity, quantity)
    return _counted(segment.number, used)._replace(
        fees_paid=_fees_paid_before(terms, segment, sku, used),
        owes_volume_fee=segment.number == _last_with_volume(terms, sku, used),
    )


def _counts_on(terms: AccountTerms, used: SkuUsage | None) -> bool:
    return terms.on_change is Change.SPLIT_COUNTING_ON and (used is None or used.is_additive)


def _counted(number: int, used: SkuUsage | None) -> Position:
    """Return where the usage of a segment is among that of the whole period."""
    quantities = {} if used is None else used.quantities
    before = sum((quantities.get(earlier, ZERO) for earlier in range(1, number)), ZERO)
    return Position(before, before + quantities.get(number, ZERO), sum(quantities.values(), ZERO))


def _fees_paid_before(terms: AccountTerms, segment: Segment, sku: str, used: SkuUsage | None) -> int:
    """Return of how many graduated tiers the segments before this one paid the flat fee.

    A segment pays for the tiers that were entered when it ends, as far as none before it did; one in which usage
    leaves a tier gives its fee back.
    """
    paid = 0
    for earlier in terms.segments[: segment.number - 1]:
        charge = earlier.charges.get(sku)
        if isinstance(charge, GraduatedCharge | GraduatedPercentageCharge) and _is_rated(earlier, used):
            _, priced = without_included(_counted(earlier.number, used), charge.included_units)
            at_start, at_end = _tiers_entered(charge, priced.before), _tiers_entered(charge, priced.after)
            paid = at_end if at_end < at_start else max(paid, at_end)
    return paid


def _last_with_volume(terms: AccountTerms, sku: str, used: SkuUsage | None) -> int:
    """Return the number of the segment that owes the flat fee of a volume: the last with such a charge and a day.

    Where no such segment has a day, it is the last one that has usage.
    """
    priced_so = [
        segment for segment in terms.segments if isinstance(segment.charges.get(sku), VolumeCharge | StairstepCharge)
    ]
    with_days = [segment.number for segment in priced_so if segment.active_days]
    return max(with_days or [segment.number for segment in priced_so if _is_rated(segment, used)], default=0)


def _is_rated(segment: Segment, used: SkuUsage | None) -> bool:
    return segment.active_days > 0 or (used is not None and segment.number in used.rows)


def last_active(terms: AccountTerms) -> int:
    """Return the number of the last segment in which the account is there, which owes what is due once; 0 if in none.

    A segment is without an active day where an account is away, or where prices change twice within a day or on the
    last day of the period.
    """
    return max((segment.number for segment in terms.segments if segment.active_days), default=0)


def prorated(number: Decimal, share: Fraction, decimals: int = UNIT_PRICE_SCALE) -> Decimal:
    """Return a share of a number, the half of its last decimal rounded away from zero.

    >>> prorated(Decimal("-100"), Fraction(1, 3), 2), prorated(Decimal("0.05"), Fraction(1, 2), 2)
    (Decimal('-33.33'), Decimal('0.03'))
    """
    if share == 1:
        return number
    units = abs(Fraction(number) * share * 10**decimals)
    rounded = (2 * units.numerator + units.denominator) // (2 * units.denominator)
    with exact():
        return Decimal(rounded).scaleb(-decimals).copy_sign(number)


# The models: one function each. What they return adds up to the quantity that was used.


def without_included(position: Position, included_units: Decimal) -> tuple[Decimal, Position]:
    """Take off the included units: return how many of them the segment used, and the position among those priced.

    The first ``included_units`` of a period are free. Usage below zero is not included in anything.

    >>> ten = Decimal(10)
    >>> without_included(Position(Decimal(8), Decimal(15), Decimal(15)), ten)[0]
    Decimal('2')
    """
    if not included_units:
        return ZERO, position

    def included(units: Decimal) -> Decimal:
        return min(max(units, ZERO), included_units)

    before, after, total = position.before, position.after, position.total
    priced = position._replace(
        before=before - included(before), after=after - included(after), total=total - included(total)
    )
    return included(after) - included(before), priced


def per_unit(charge: PerUnitCharge, position: Position) -> list[Part]:
    """Every unit costs the unit price."""
    quantity = position.after - position.before
    if not quantity:
        return []
    amount = quantity * _steps(charge)[0].price_of_one
    return [Part(1, quantity, charge.unit_price, charge.per_units, ZERO, amount)]


def graduated(charge: GraduatedCharge | GraduatedPercentageCharge, position: Position) -> list[Part]:
    """Each tier prices the units that fall into it, and adds its flat fee when usage enters it.

    The bound of a tier belongs to it: a tier is entered above the bound before it. The first one is entered by any
    usage, and by none where the charge says so; it takes all usage below zero. When usage goes on in another segment,
    a fee that was paid before is not due again, and is given back when usage leaves the tier.
    """
    steps = _steps(charge)
    before, after = position.before, position.after
    at_start, at_end = _tiers_entered(charge, before), _tiers_entered(charge, after)
    highest = max(before, after)
    _require_tier_for(highest, steps)
    parts = []
    for step in steps:
        if step.above is not None and highest <= step.above:
            break
        quantity = _within(step, after) - _within(step, before)
        due = ZERO
        if position.fees_paid < step.number <= at_end:
            due = step.flat_fee
        elif at_end < step.number <= min(at_start, position.fees_paid):
            due = -step.flat_fee
        if quantity or due:
            amount = quantity * step.price_of_one + due
            parts.append(Part(step.number, quantity, step.unit_price, step.per_units, due, amount))
    return parts


def _within(step: Step, units: Decimal) -> Decimal:
    """Return how far up to ``units`` a tier reaches, within its bounds."""
    if step.above is not None and units < step.above:
        return step.above
    return units if step.up_to is None or units < step.up_to else step.up_to


def _tiers_entered(charge: GraduatedCharge | GraduatedPercentageCharge, units: Decimal) -> int:
    """Return how many tiers so many units enter."""
    if units < 0 or (units == 0 and charge.zero_usage_flat_fee == "skip"):
        return 0
    return sum(step.above is None or units > step.above for step in _steps(charge))


def volume(charge: VolumeCharge | StairstepCharge, position: Position) -> list[Part]:
    """The tier that the whole quantity falls into prices every unit; its flat fee is due once.

    Usage below zero falls into the first tier and owes no flat fee; usage of zero owes it where the charge says so.
    """
    steps, total = _steps(charge), position.total
    _require_tier_for(total, steps)
    step = next(step for step in steps if step.up_to is None or total <= step.up_to)
    owes = total > 0 or (total == 0 and charge.zero_usage_flat_fee == "charge")
    due = step.flat_fee if position.owes_volume_fee and owes else ZERO
    quantity = position.after - position.before
    if not quantity and not due:
        return []
    amount = quantity * step.price_of_one + due
    return [Part(step.number, quantity, step.unit_price, step.per_units, due, amount)]


def _require_tier_for(units: Decimal, steps: Sequence[Step]) -> None:
    last = steps[-1].up_to
    if last is not None and units > last:
        raise NoPriceError(f"{plain_text(units)} units are beyond the last tier, which ends at {plain_text(last)}")


def package(charge: PackageCharge, position: Position) -> list[Part]:
    """Units are sold in packages; one that is not full is charged whole (``up``) or not at all (``down``)."""

    def packages(units: Decimal) -> Decimal:
        full = abs(units) // charge.package_size
        if charge.package_rounding == "up" and full * charge.package_size != abs(units):
            full += 1
        return full.copy_sign(units)

    quantity = position.after - position.before
    bought = packages(position.after) - packages(position.before)
    if not quantity and not bought:
        return []
    amount = bought * charge.package_price
    return [Part(1, quantity, ZERO, charge.package_size, amount, amount)]


def percentage(
    charge: PercentageCharge,
    quantity: Decimal,
    event_count: int,
    values: Sequence[EventValue],
    earlier_values: Sequence[EventValue],
) -> list[Part]:
    """A share of the amount that was summed up, and a fixed fee for each event.

    Where the price depends on each event, each is priced by itself, and ``values`` are the events of the segment.
    """
    rate = charge.percent.scaleb(-2)
    valued_count = sum(event.event_count for event in values)
    if charge.needs_values and (valued_count != event_count or (quantity and not values)):
        raise NoPriceError(
            f"its price depends on the value of each event, and of {event_count} events {valued_count} have one: all "
            "windows of a period are counted with keep_values of its meter (billing backfill)"
        )
    if not quantity and not event_count:
        return []
    if charge.needs_values:
        amount = _price_of_events(charge, values, earlier_values)
    else:
        amount = quantity * rate + event_count * charge.fixed_fee_per_event
    return [Part(1, quantity, rate, ONE, amount - quantity * rate, amount)]


def _price_of_events(
    charge: PercentageCharge, values: Sequence[EventValue], earlier_values: Sequence[EventValue]
) -> Decimal:
    """Return what events cost, one after another in order of time, the smaller value first within a grain.

    The first ``free_events`` cost nothing, or those that lie wholly within the first ``free_amount``; the event that
    crosses it pays on what is above. What an event pays is its percentage and the fixed fee, within the bounds.
    Events of zero and below pay their percentage, no fee and no bound, and use up no allowance.
    """
    rate = charge.percent.scaleb(-2)

    def pays(amount: Decimal) -> Decimal:
        price = amount * rate + charge.fixed_fee_per_event
        if charge.minimum_per_event is not None:
            price = max(price, charge.minimum_per_event)
        return price if charge.maximum_per_event is None else min(price, charge.maximum_per_event)

    earlier = [event for event in earlier_values if event.value > 0]
    free_events = max(charge.free_events - sum(event.event_count for event in earlier), 0)
    free_amount = charge.free_amount - sum((event.value * event.event_count for event in earlier), ZERO)
    total = ZERO
    for event in sorted(values, key=attrgetter("grain_start", "value")):
        value, count = event.value, event.event_count
        if value <= 0:
            total += value * count * rate
            continue
        free = min(count, free_events)
        free_events -= free
        if free_amount > 0:
            free = min(count, int(free_amount // value))
            left = free_amount - free * value
            if free < count:  # this one crosses, or follows, the end of the allowance
                total += pays(value - left)
                count -= 1
            free_amount -= value * event.event_count
        total += (count - free) * pays(value)
    return total


def matrix(charge: MatrixCharge, rows: Iterable[PeriodUsage], counts_for: Callable[[Decimal], Decimal]) -> list[Part]:
    """Each combination of dimension values has its own price; what no cell matches has the default price.

    ``counts_for`` turns the quantity of a cell into what is priced: in a split period a maximum counts for its days.
    """
    quantities: dict[int, Decimal] = {}
    for row in rows:
        number = _cell(charge, row)
        quantities[number] = quantities.get(number, ZERO) + row.quantity
    parts = []
    for number, used in sorted(quantities.items()):
        unit_price = charge.cells[number - 1].unit_price if number else charge.default_unit_price
        quantity = counts_for(used)
        if quantity and unit_price is not None:
            parts.append(Part(number, quantity, unit_price, ONE, ZERO, quantity * unit_price))
    return parts


def _cell(charge: MatrixCharge, row: PeriodUsage) -> int:
    """Return the number of the cell that a row matches, 0 when none does."""
    return _cells(charge).get(_dimension_values(row.dimensions, charge.dimensions), 0)


def _dimension_values(dimensions: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the values of a JSON object as text; one that is missing or null is the empty text."""
    found = json.loads(dimensions, parse_int=str, parse_float=str) if dimensions else {}
    return tuple(_text(found.get(name)) for name in names)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def dynamic(quantity: Decimal) -> list[Part]:
    """The events carry their price: what they sum up to is the amount."""
    return [Part(1, quantity, ONE, ONE, ZERO, quantity)] if quantity else []


def parts_of(
    charge: AnyCharge, terms: AccountTerms, segment: Segment, used: SkuUsage | None, values: Sequence[EventValue]
) -> tuple[Decimal, list[Part]]:
    """Return the included units and the priced parts of a charge of usage in a segment."""
    position = position_of(terms, segment, charge.sku, used)
    quantity = position.after - position.before
    rows = () if used is None else used.rows.get(segment.number, ())
    included, priced = without_included(position, getattr(charge, "included_units", ZERO))
    if isinstance(charge, GraduatedCharge | GraduatedPercentageCharge):
        return included, graduated(charge, priced)
    if isinstance(charge, PerUnitCharge):
        return included, per_unit(charge, priced)
    if isinstance(charge, VolumeCharge | StairstepCharge):
        return included, volume(charge, priced)
    if isinstance(charge, PackageCharge):
        return included, package(charge, priced)
    if isinstance(charge, PercentageCharge):
        of_sku = [event for event in values if event.sku == charge.sku]
        now = [event for event in of_sku if event.segment == segment.number]
        earlier = [event for event in of_sku if event.segment < segment.number] if _counts_on(terms, used) else []
        return ZERO, percentage(charge, quantity, sum(row.event_count for row in rows), now, earlier)
    if isinstance(charge, MatrixCharge):
        is_sum = used is None or used.is_additive
        return ZERO, matrix(
            charge, rows, lambda units: units if is_sum else _in_share_of_days(terms, segment.number, units)
        )
    if isinstance(charge, DynamicCharge):
        return ZERO, dynamic(quantity)
    raise TypeError(f"charge of SKU {charge.sku}: model {charge.model} prices no usage")


# The lines of a segment: charges first, then what the plan takes off or adds.


class Subject(NamedTuple):
    """What a line is about: the charge of a SKU, or the plan as a whole."""

    sku: str
    description: str
    model: str
    tax_category: str

    def described(self, description: str) -> Subject:
        return self._replace(description=description)


def _subject(charge: AnyCharge) -> Subject:
    return Subject(charge.sku, charge.description, charge.model, charge.tax_category)


class Sheet:
    """The lines of one service period as they come about; the one place where an amount is rounded."""

    def __init__(
        self,
        terms: AccountTerms,
        part: Segment | AdvanceFees,
        number: int,
        service_period_id: str,
        end: datetime,
        problems: list[str],
    ) -> None:
        self.lines: list[LineItem] = []
        self.total = ZERO
        self.currency = terms.account.currency
        self.digits = minor_unit_digits(self.currency)
        self.problems = problems
        self._account_id = terms.account.account_id
        self._period_id = terms.period.period_id
        self._service_period_id = service_period_id
        self._number = number
        self._start = part.start
        self._end = end
        self._plan_name = part.plan_name
        self._version = part.priced.version
        self._minor_unit = ONE.scaleb(-self.digits)
        self._rounding = rounding_context(part.priced.book.rounding)

    def rounded(self, amount_exact: Decimal) -> Decimal:
        """Return an amount in whole minor units, as the price book rounds."""
        return self._rounding.quantize(amount_exact, self._minor_unit)

    def add_usage(self, subject: Subject, unit: str, parts: Iterable[Part]) -> Decimal:
        """Add a line for each part of a charge of usage; return the sum of their rounded amounts."""
        line_id = self._line_id(subject)
        subtotal = ZERO
        for part in parts:
            tier = "default" if part.tier == 0 else part.tier
            what = f"{line_id}/{subject.model}/{tier}"
            subtotal += self._add(what, subject, LineKind.USAGE, unit, part, self.rounded(part.amount))
        return subtotal

    def add_included(self, subject: Subject, unit: str, quantity: Decimal) -> None:
        """Add the line of the units that cost nothing."""
        part = Part(0, quantity, ZERO, ONE, ZERO, ZERO)
        self._add(f"{self._line_id(subject)}/included", subject, LineKind.INCLUDED, unit, part, self.rounded(ZERO))

    def add_amount(
        self,
        subject: Subject,
        kind: LineKind,
        amount_exact: Decimal,
        number: int = 0,
        amount: Decimal | None = None,
    ) -> Decimal:
        """Add a line that prices no usage; return its rounded amount, which is ``amount`` where that is given."""
        what = f"{self._line_id(subject)}/{kind.value}" + (f"/{number}" if number else "")
        part = Part(number, ZERO, ZERO, ONE, amount_exact, amount_exact)
        return self._add(what, subject, kind, "", part, self.rounded(amount_exact) if amount is None else amount)

    def _line_id(self, subject: Subject) -> str:
        return line_item_id(self._account_id, subject.sku, self._service_period_id, self._number)

    def _add(self, line_id: str, subject: Subject, kind: LineKind, unit: str, part: Part, amount: Decimal) -> Decimal:
        tier, quantity, unit_price, per_units, flat_fee, amount_exact = part
        if not (-AMOUNT_END < amount_exact < AMOUNT_END and -AMOUNT_END < flat_fee < AMOUNT_END):
            self.problems.append(
                f"account {self._account_id}, SKU {subject.sku}, {plain_text(quantity)} {unit or kind.value}: the "
                f"amount {plain_text(amount_exact)} {self.currency} has more than 17 digits before the point"
            )
        self.total += amount
        self.lines.append(
            LineItem(
                line_id,
                self._account_id,
                self._period_id,
                self._number,
                self._start,
                self._end,
                self._plan_name,
                subject.sku,
                subject.description,
                kind,
                subject.model,
                tier,
                quantity,
                unit,
                unit_price,
                per_units,
                flat_fee,
                self.currency,
                amount_exact,
                amount,
                amount_exact - amount,
                subject.tax_category,
                self._version,
            )
        )
        return amount


def _rate_segment(
    terms: AccountTerms,
    segment: Segment,
    used: Mapping[str, SkuUsage],
    values: Sequence[EventValue],
    problems: list[str],
) -> Sheet:
    """Return the lines of a segment but its commitment; one without an active day and without usage has none."""
    used_here = {sku for sku, sku_usage in used.items() if segment.number in sku_usage.rows}
    unpriced_skus = set()
    for sku in used_here:
        for row in used[sku].rows[segment.number]:
            if why := _why_without_price(row, segment, terms.account.currency):
                unpriced_skus.add(sku)
                problems.append(f"{_where(row)}: {why}")
    sheet = Sheet(terms, segment, segment.number, terms.period.period_id, segment.end, problems)
    subtotals: dict[str, Decimal] = {}
    for sku, charge in segment.charges.items():
        if sku in unpriced_skus:
            continue
        if isinstance(charge, FlatFeeCharge):
            if charge.timing == "arrears" and segment.active_days:
                fee = _fee_in_arrears(terms, segment, charge)
                subtotals[sku] = _add_fee(sheet, charge, fee)
        elif sku in used_here or (segment.active_days and _is_due_unused(charge, terms, used.get(sku))):
            try:
                subtotals[sku] = _add_charge(sheet, terms, segment, charge, used.get(sku), values)
            except NoPriceError as problem:
                rows = used[sku].rows.get(segment.number, ()) if sku in used else ()
                where = _where(rows[0]) if rows else f"account {terms.account.account_id}, SKU {sku}"
                problems.append(f"{where}: {problem}")
    _add_plan_discounts(sheet, terms, segment, subtotals)
    return sheet


def _is_due_unused(charge: AnyCharge, terms: AccountTerms, used: SkuUsage | None) -> bool:
    """Tell whether a charge may cost something in a segment that has no usage of its SKU.

    Of a volume that counts on, the last segment owes the flat fee of what the others used.
    """
    return _costs_without_usage(charge) or (used is not None and _counts_on(terms, used))


def _why_without_price(row: PeriodUsage, segment: Segment, currency: str) -> str | None:
    """Return why a row of usage has no price, if it has none; usage of zero needs none."""
    charge = segment.charges.get(row.sku)
    if not row.quantity:
        return None
    if charge is None:
        return f"plan {segment.plan_name!r} of price book {segment.priced.version} has no charge in {currency}"
    if isinstance(charge, FlatFeeCharge):
        return (
            f"plan {segment.plan_name!r} of price book {segment.priced.version} has a flat fee in {currency}, "
            "which prices no usage"
        )
    if isinstance(charge, DynamicCharge) and row.unit != currency:
        return f"the price of a dynamic charge is the amount that was summed up; expected its unit to be {currency}"
    if isinstance(charge, MatrixCharge) and charge.default_unit_price is None and not _cell(charge, row):
        return f"its charge has no cell for {row.dimensions or 'no dimensions'}, and no default_unit_price"
    return None


def _add_charge(
    sheet: Sheet,
    terms: AccountTerms,
    segment: Segment,
    charge: AnyCharge,
    used: SkuUsage | None,
    values: Sequence[EventValue],
) -> Decimal:
    """Add all lines of a charge of usage: what was used, then discounts, then its maximum or minimum."""
    included, parts = parts_of(charge, terms, segment, used, values)
    subject = _subject(charge)
    unit = "" if used is None else used.unit
    if included:
        sheet.add_included(subject, unit, included)
    subtotal = sheet.add_usage(subject, unit, parts)
    if charge.discounts:
        subtotal += _add_discounts(sheet, subject, charge.discounts, subtotal)
    if segment.active_days and (charge.maximum_amount is not None or charge.minimum_amount is not None):
        subtotal += _add_bounds(sheet, subject, charge, terms.share(segment.active_days), subtotal)
    return subtotal


def _add_discounts(sheet: Sheet, subject: Subject, discounts: Iterable[Discount], subtotal: Decimal) -> Decimal:
    """Take off each discount in the order written, from what those before it left; never below zero."""
    taken = ZERO
    for number, discount in enumerate(discounts, start=1):
        left = subtotal + taken
        if left > 0:
            off = _discount_of(discount, left)
            taken += sheet.add_amount(subject.described(discount.description), LineKind.DISCOUNT, -off, number)
    return taken


def _discount_of(discount: Discount, base: Decimal) -> Decimal:
    """Return what a discount takes off a positive amount."""
    if discount.percent is not None:
        return base * discount.percent.scaleb(-2)
    return base if discount.amount is None else min(discount.amount, base)


def _add_bounds(sheet: Sheet, subject: Subject, charge: AnyCharge, share: Fraction, subtotal: Decimal) -> Decimal:
    """Cap a charge at its maximum, or top it up to its minimum; of a whole period, by the share of its days."""
    if charge.maximum_amount is not None:
        maximum = prorated(charge.maximum_amount, share)
        if subtotal > maximum:
            return sheet.add_amount(subject, LineKind.MAXIMUM, maximum - subtotal)
    if charge.minimum_amount is not None:
        minimum = prorated(charge.minimum_amount, share)
        if subtotal < minimum:
            return sheet.add_amount(subject, LineKind.MINIMUM, minimum - subtotal)
    return ZERO


def _fee_in_arrears(terms: AccountTerms, segment: Segment, charge: FlatFeeCharge) -> Decimal:
    """Return the fee of a segment with an active day: by its days, or whole in the first one that has the fee."""
    if charge.prorated:
        return prorated(charge.amount, terms.share(segment.active_days))
    first = next(one for one in terms.segments if one.active_days and _has_fee_in_arrears(one, charge.sku))
    return charge.amount if segment.number == first.number else ZERO


def _has_fee_in_arrears(segment: Segment, sku: str) -> bool:
    charge = segment.charges.get(sku)
    return isinstance(charge, FlatFeeCharge) and charge.timing == "arrears"


def _add_fee(sheet: Sheet, charge: FlatFeeCharge, fee: Decimal) -> Decimal:
    """Add a flat fee that is not zero, and its discounts."""
    if not fee:
        return ZERO
    subject = _subject(charge)
    subtotal = sheet.add_amount(subject, LineKind.FLAT_FEE, fee)
    return subtotal + _add_discounts(sheet, subject, charge.discounts, subtotal)


def _fees_in_advance(terms: AccountTerms, advance: AdvanceFees, problems: list[str]) -> list[LineItem]:
    """Return the fees that are paid before their service period; the ids of their lines name that period."""
    sheet = Sheet(terms, advance, 1, advance.period.period_id, advance.period.end, problems)
    share = Fraction(advance.active_days, advance.days)
    for charge in advance.charges.values():
        if isinstance(charge, FlatFeeCharge) and charge.timing == "advance" and share:
            _add_fee(sheet, charge, prorated(charge.amount, share) if charge.prorated else charge.amount)
    return sheet.lines


def _add_plan_discounts(sheet: Sheet, terms: AccountTerms, segment: Segment, subtotals: dict[str, Decimal]) -> None:
    """Take off each discount of the plan in the order written, divided between the charges that cost something.

    A percentage is of every segment, an amount is taken off in the last one with an active day. It is rounded once,
    then divided in whole minor units by largest remainder. What rounding took stays on the line that was the first to
    get one more.
    """
    for number, discount in enumerate(segment.plan.discounts, start=1):
        base = sum(subtotals.values(), ZERO)
        if base <= 0 or discount.currency not in (None, sheet.currency):
            continue
        if discount.amount is not None and not _is_last_active(terms, segment):
            continue
        off_exact = _discount_of(discount, base)
        off = sheet.rounded(off_exact)
        shares, first = divided(off, {sku: part for sku, part in subtotals.items() if part > 0}, sheet.digits)
        for sku, share in shares.items():
            if share:
                took = off_exact - off if sku == first else ZERO
                subject = _subject(segment.charges[sku]).described(discount.description)
                subtotals[sku] += sheet.add_amount(
                    subject, LineKind.PLAN_DISCOUNT, -(share + took), number, amount=-share
                )


def divided(amount: Decimal, weights: Mapping[str, Decimal], digits: int) -> tuple[dict[str, Decimal], str]:
    """Divide an amount in proportion to weights, in whole minor units, so that the shares add up to it exactly.

    Each share is rounded down, and the minor units that are left go to the largest remainders, of equal ones to the
    first name. Also return who was first in that order. Amount and weights are whole minor units, and not negative.

    >>> divided(Decimal("0.05"), {"a": Decimal("1.00"), "b": Decimal("1.00")}, 2)
    ({'a': Decimal('0.03'), 'b': Decimal('0.02')}, 'a')
    """
    with exact():
        minor_units = int(amount.scaleb(digits))
        weight_of = {name: int(weight.scaleb(digits)) for name, weight in sorted(weights.items())}
        total = sum(weight_of.values())
        shares = {name: minor_units * weight // total for name, weight in weight_of.items()}
        by_remainder = sorted(weight_of, key=lambda name: (-(minor_units * weight_of[name] % total), name))
        for name in by_remainder[: minor_units - sum(shares.values())]:
            shares[name] += 1
        return {name: Decimal(share).scaleb(-digits) for name, share in shares.items()}, by_remainder[0]


def _add_commitment(terms: AccountTerms, segment: Segment, sheet: Sheet, sheets: Iterable[Sheet]) -> None:
    """Add what is missing to the commitment of the plan, or what usage beyond it costs on top.

    A segment owes its share of days, measured on its own lines. What is not prorated is due once: in the last segment
    with an active day, whole, measured on the lines of all segments, ``sheets``, with what earlier ones were topped up.
    """
    commitment = next((one for one in segment.plan.commitments if one.currency == sheet.currency), None)
    if commitment is None or not segment.active_days:
        return
    if commitment.prorated:
        committed, paid = prorated(commitment.amount, terms.share(segment.active_days)), sheet.total
    elif _is_last_active(terms, segment):
        committed, paid = commitment.amount, sum((one.total for one in sheets), ZERO)
    else:
        return
    subject = Subject(PLAN_SKU + segment.plan_name, commitment.description, "", commitment.tax_category)
    if paid < committed:
        sheet.add_amount(subject, LineKind.COMMITMENT, committed - paid)
    elif paid > committed and commitment.overage_factor > 1:
        sheet.add_amount(subject, LineKind.OVERAGE, (paid - committed) * (commitment.overage_factor - 1))


def _is_last_active(terms: AccountTerms, segment: Segment) -> bool:
    return segment.number == last_active(terms)


def _where(row: PeriodUsage) -> str:
    return f"account {row.account_id}, SKU {row.sku}, {plain_text(row.quantity)} {row.unit}"


# What is the same for every account: worked out once per charge. An entry keeps its charge, so no other has its id.


class RateCard(NamedTuple):
    """What pricing by a charge needs besides the charge itself."""

    charge: AnyCharge
    steps: tuple[Step, ...]
    cells: Mapping[tuple[str, ...], int]
    costs_without_usage: bool


_RATE_CARDS: dict[int, RateCard] = {}
RATE_CARDS_MAX = 100_000


def _rate_card(charge: AnyCharge) -> RateCard:
    card = _RATE_CARDS.get(id(charge))
    if card is None:
        if len(_RATE_CARDS) >= RATE_CARDS_MAX:
            _RATE_CARDS.clear()
        card = _RATE_CARDS[id(charge)] = _new_rate_card(charge)
    return card


def _new_rate_card(charge: AnyCharge) -> RateCard:
    steps: list[Step] = []
    cells: dict[tuple[str, ...], int] = {}
    if isinstance(charge, PerUnitCharge):
        price_of_one = charge.unit_price / charge.per_units
        steps.append(Step(1, None, None, charge.unit_price, charge.per_units, price_of_one, ZERO))
    elif isinstance(charge, GraduatedCharge | VolumeCharge | StairstepCharge):
        for number, tier in enumerate(charge.tiers, start=1):
            above = steps[-1].up_to if steps else None
            price_of_one = tier.unit_price / charge.per_units
            steps.append(
                Step(number, above, tier.up_to, tier.unit_price, charge.per_units, price_of_one, tier.flat_fee)
            )
    elif isinstance(charge, GraduatedPercentageCharge):
        for number, percent_tier in enumerate(charge.tiers, start=1):
            above = steps[-1].up_to if steps else None
            rate = percent_tier.percent.scaleb(-2)
            steps.append(Step(number, above, percent_tier.up_to, rate, ONE, rate, percent_tier.flat_fee))
    elif isinstance(charge, MatrixCharge):
        for number, cell in enumerate(charge.cells, start=1):
            cells[tuple(cell.match[name] for name in charge.dimensions)] = number
    flat_at_zero = bool(steps and steps[0].flat_fee) and getattr(charge, "zero_usage_flat_fee", "skip") == "charge"
    return RateCard(charge, tuple(steps), cells, flat_at_zero or charge.minimum_amount is not None)


def _steps(charge: AnyCharge) -> tuple[Step, ...]:
    return _rate_card(charge).steps


def _cells(charge: MatrixCharge) -> Mapping[tuple[str, ...], int]:
    return _rate_card(charge).cells


def _costs_without_usage(charge: AnyCharge) -> bool:
    """Tell whether usage of zero costs something: the flat fee of the first tier, or a minimum."""
    return _rate_card(charge).costs_without_usage
