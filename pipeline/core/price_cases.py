"""Rating cases: usage, a charge, and the amount that somebody expects, one JSON object per line.

The expected amounts come from elsewhere: a vendor's price page, another billing system, an invoice that was checked by
hand. A case is rated like an account of its own (``inputs_of``), so that both engines rate the same cases. Numbers are
decimal texts or JSON numbers, which are read with the digits that were written.

    {"id": "bronze-250", "charge": {"model": "package", "package_size": "100", "package_price": "5"},
     "usage": {"quantity": "250"}, "currency": "USD", "expected": {"amount": "15.00"}}

A ``charge`` leaves out what pricing does not need (sku, description, currency), and its last tier may have an end.
Instead of a charge, ``plan`` and ``sku`` name one of a price book.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from pipeline.core.account import Account
from pipeline.core.contract import StrictModel
from pipeline.core.decimals import ExactDecimal, Quantity, plain_text
from pipeline.core.errors import InputError
from pipeline.core.line_item import LineItem
from pipeline.core.manifest import sha256_hex
from pipeline.core.money import Money, RoundingMode, exact, minor_unit_digits
from pipeline.core.period_usage import EventValue, PeriodUsage
from pipeline.core.price_book import CHARGE, AnyCharge, Change, DynamicCharge, FlatFeeCharge, Plan, PriceBook
from pipeline.core.project import PricedBook
from pipeline.core.rating import rate_account
from pipeline.core.terms import AccountTerms, AdvanceFees, Segment
from pipeline.core.window import billing_period

CASE_PERIOD = billing_period("2026-01", "UTC")
NEXT_PERIOD = billing_period("2026-02", "UTC")


def _iso_currency(currency: object) -> object:
    if isinstance(currency, str):
        minor_unit_digits(currency)
    return currency


def _rounding_alone(policy: object) -> object:
    return {"rounding": policy} if isinstance(policy, str) else policy


class CaseUsage(StrictModel):
    """What is used: a quantity, or the values of events in order of time, which add up to it."""

    quantity: Quantity | None = None
    dimensions: dict[str, str | bool | int | ExactDecimal | None] = Field(default_factory=dict)
    event_count: Annotated[int, Field(ge=0)] | None = None
    values: tuple[Quantity, ...] = ()

    @model_validator(mode="after")
    def _one_sum(self) -> Self:
        if not self.values:
            if self.quantity is None:
                raise ValueError("usage has a quantity, or the values of its events")
            return self
        with exact():
            added_up = sum(self.values, Decimal(0))
        if self.quantity not in (None, added_up):
            raise ValueError(f"quantity is {self.quantity:f}, and the values add up to {added_up:f}")
        if self.event_count not in (None, len(self.values)):
            raise ValueError(f"event_count is {self.event_count}, and there are {len(self.values)} values")
        return self


class CasePolicy(StrictModel):
    """How a price book rounds, and what is rounded: each line, or the total of the exact amounts; None allows both."""

    rounding: RoundingMode | None = None
    rounded: Literal["lines", "total"] | None = None


class Expected(StrictModel):
    """The amount before or after rounding, or both; of several lines the sum (after rounding: see ``rounded``)."""

    amount_exact: ExactDecimal | None = None
    amount: ExactDecimal | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.amount_exact is None and self.amount is None:
            raise ValueError("expected has an amount_exact, an amount, or both")
        return self


class _CaseLine(StrictModel):
    """One line of a file of cases; ``source`` and ``rounding`` are remarks on where the amount comes from."""

    id: Annotated[str, Field(min_length=1)]
    charge: dict[str, Any] | None = None
    plan: Annotated[str, Field(min_length=1)] | None = None
    sku: Annotated[str, Field(min_length=1)] | None = None
    usage: CaseUsage
    currency: Annotated[str, BeforeValidator(_iso_currency)]
    policy: Annotated[CasePolicy, BeforeValidator(_rounding_alone)] = CasePolicy()
    expected: Expected
    source: str = ""
    rounding: str = ""

    @model_validator(mode="after")
    def _one_charge(self) -> Self:
        named = (self.plan is not None, self.sku is not None)
        if named != ((False, False) if self.charge is not None else (True, True)):
            raise ValueError("a case has either a charge, or the plan and sku of a charge of the price book")
        return self


@dataclass(frozen=True, slots=True)
class PriceCase:
    """One case; ``charge`` is None until ``of_book`` finds the one that ``plan`` and ``sku`` name.

    ``number`` counts the lines of the file from 1, ``rounding`` is None where the book decides. ``rounded`` says what
    the expected amount is: the sum of rounded "lines", the rounded "total" of exact amounts, or (None) either.
    """

    file: str
    number: int
    case_id: str
    currency: str
    charge: AnyCharge | None
    plan: str | None
    sku: str | None
    usage: CaseUsage
    rounding: RoundingMode | None
    rounded: Literal["lines", "total"] | None
    expected: Expected
    version: str

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.number}, case {self.case_id}"


class CaseInputs(NamedTuple):
    """A case as an account of its own, for either engine."""

    terms: AccountTerms
    usage: tuple[PeriodUsage, ...]
    values: tuple[EventValue, ...]


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """What an engine made of a case; ``amount`` is the sum of the rounded lines."""

    case: PriceCase
    amount_exact: Decimal
    amount: Decimal
    problems: tuple[str, ...]

    @property
    def rounded_total(self) -> Decimal:
        """Return the sum of the exact amounts, rounded once."""
        total = Money(self.amount_exact, self.case.currency)
        return total.round_to_minor_unit(_rounding_of(self.case)).amount

    def differences(self) -> Iterator[str]:
        """Yield, as sentences, each expected amount that is not the actual one; usage without a price is one too."""
        for problem in self.problems:
            yield f"{self.case.where}: {problem}"
        if self.problems:
            return
        expected = self.case.expected
        if expected.amount_exact is not None and expected.amount_exact != self.amount_exact:
            yield self._difference("amount_exact", expected.amount_exact, self._shown(self.amount_exact))
        if expected.amount is not None and expected.amount not in self._amounts().values():
            shown = [f"{self._shown(amount)} (rounded {what})" for what, amount in self._amounts().items()]
            same = self.amount == self.rounded_total
            yield self._difference("amount", expected.amount, self._shown(self.amount) if same else " or ".join(shown))

    def _amounts(self) -> dict[str, Decimal]:
        """Return the amounts that are right, by what is rounded."""
        amounts = {"lines": self.amount, "total": self.rounded_total}
        return amounts if self.case.rounded is None else {self.case.rounded: amounts[self.case.rounded]}

    def _difference(self, key: str, expected: Decimal, actual: str) -> str:
        return f"{self.case.where}: {key}: expected {self._shown(expected)}, actual {actual}"

    def _shown(self, amount: Decimal) -> str:
        return f"{plain_text(amount)} {self.case.currency}"

    @property
    def passed(self) -> bool:
        return not any(self.differences())


def parse_cases(text: str, file: str) -> list[PriceCase]:
    """Return the cases of a file; each line that is not one is named with key and reason, in one ``InputError``."""
    cases: list[PriceCase] = []
    problems: list[str] = []
    first_of: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            case = _parse_case(line, file, number)
        except ValidationError as error:
            problems += [f"{file}, line {number}, {_sentence(_CaseLine, d, d['loc'])}" for d in error.errors()]
        except (ValueError, RecursionError) as error:
            problems += [f"{file}, line {number}, {sentence}" for sentence in error.args]
        else:
            first = first_of.setdefault(case.case_id, number)
            if first != number:
                problems.append(f"{file}, line {number}, id: found {case.case_id!r}, which is the id of line {first}")
            cases.append(case)
    if not cases and not problems:
        problems.append(f"{file}: found no case, accepted one JSON object per line")
    if problems:
        raise InputError("price_cases.invalid", f"{file} cannot be read ({len(problems)} problems)", problems)
    return cases


def _parse_case(line: str, file: str, number: int) -> PriceCase:
    try:
        found = json.loads(line, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"column {error.colno}: found no JSON ({error.msg}), accepted one object per line") from None
    if not isinstance(found, dict):
        raise ValueError(f"the line: found {line.strip()[:40]}, accepted a JSON object")
    checked = _CaseLine.model_validate(found)
    charge = None if checked.charge is None else _parse_charge(checked)
    return PriceCase(
        file,
        number,
        checked.id,
        checked.currency,
        charge,
        checked.plan,
        checked.sku,
        checked.usage,
        checked.policy.rounding,
        checked.policy.rounded,
        checked.expected,
        f"case-{number}@{sha256_hex(line.strip().encode())[:12]}",
    )


def _parse_charge(checked: _CaseLine) -> AnyCharge:
    given = {"sku": "case", "description": checked.id, "currency": checked.currency, **(checked.charge or {})}
    try:
        charge = CHARGE.validate_python(given)
    except ValidationError as error:
        model = next((model for model in get_args(AnyCharge) if given.get("model") in _tags(model)), None)
        if model is None:
            tags = ", ".join(tag for model in get_args(AnyCharge) for tag in _tags(model))
            raise ValueError(f"charge.model: found {given.get('model')!r}, accepted {tags}") from None
        # The place of an error in a charge begins with its model.
        places = [details["loc"] for details in error.errors()]
        raise ValueError(
            *(
                f"charge.{_sentence(model, details, details['loc'][1:])}"
                for details in error.errors()
                if not _is_echo(details, places)
            )
        ) from None
    if charge.currency != checked.currency:
        raise ValueError(f"charge.currency: found {charge.currency}, accepted {checked.currency} as in currency")
    return charge


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    return get_args(model.model_fields["model"].annotation)


def _is_echo(details: ErrorDetails, places: Iterable[tuple[int | str, ...]]) -> bool:
    """Tell whether a list is only called too short because its entries have errors of their own."""
    length = len(details["loc"])
    return details["type"] == "too_short" and any(
        len(place) > length and place[:length] == details["loc"] for place in places
    )


def _sentence(model: type[BaseModel], details: ErrorDetails, place: Sequence[int | str]) -> str:
    """Return key, found and accepted; entries of lists count from #1."""
    key = ".".join(f"#{part + 1}" if isinstance(part, int) else part for part in place) or "the object"
    match details["type"]:
        case "missing":
            return f"{key}: found nothing, accepted a value (the key is required)"
        case "extra_forbidden":
            around = _model_at(model, place[:-1])
            accepted = "" if around is None else f", accepted {', '.join(sorted(around.model_fields))}"
            return f"{key}: found an unknown key{accepted}"
        case "too_short":
            return f"{key}: found {len(details['input'])}, accepted {details['ctx']['min_length']} or more"
        case "value_error":
            return f"{key}: {details['ctx']['error']}"
        case _:
            message = details["msg"].removeprefix("Input should be ")
            return f"{key}: found {str(details['input'])[:60]!r}, accepted {message[:1].lower()}{message[1:]}"


def _model_at(model: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the model of the object at a place below a model, if it is a plain one."""
    around: Any = model
    for part in place:
        if isinstance(part, str):
            annotation = around.model_fields[part].annotation
            around = next((one for one in (annotation, *get_args(annotation)) if hasattr(one, "model_fields")), None)
    return around  # type: ignore[no-any-return]


def of_book(cases: Iterable[PriceCase], book: PriceBook) -> list[PriceCase]:
    """Return the cases with the charges of a price book that they name; ``InputError`` names those it does not have."""
    found: list[PriceCase] = []
    problems: list[str] = []
    for case in cases:
        if case.plan is None or case.sku is None:
            found.append(case)
        elif case.plan not in book.plans:
            problems.append(f"{case.where}: plan: found {case.plan!r}, accepted {', '.join(sorted(book.plans))}")
        elif (charge := book.plans[case.plan].charge(case.sku, case.currency)) is None:
            problems.append(f"{case.where}: sku: plan {case.plan!r} has no charge of {case.sku!r} in {case.currency}")
        else:
            found.append(replace(case, charge=charge, rounding=case.rounding or book.rounding))
    if problems:
        raise InputError("price_cases.invalid", f"price book {book.name} does not have what cases name", problems)
    return found


def inputs_of(case: PriceCase) -> CaseInputs:
    """Return the case as the terms and usage of an account, ``case-<number>``, that was there for a whole month."""
    if case.charge is None:
        raise ValueError(f"{case.where}: names a charge of a price book; see of_book")
    charge, account_id = case.charge, f"case-{case.number}"
    plan = Plan(charges=(charge,))
    book = PriceBook.model_construct(
        name=f"case-{case.number}",
        author="case",
        effective_from=date(2026, 1, 1),
        rounding=_rounding_of(case),
        plans={account_id: plan},
    )
    priced, charges = PricedBook(book, case.version), {charge.sku: charge}
    days = (CASE_PERIOD.end - CASE_PERIOD.start).days
    segment = Segment(1, CASE_PERIOD.start, CASE_PERIOD.end, days, account_id, plan, priced, charges)
    advance: tuple[AdvanceFees, ...] = ()
    if isinstance(charge, FlatFeeCharge) and charge.timing == "advance":
        next_days = (NEXT_PERIOD.end - NEXT_PERIOD.start).days
        advance = (
            AdvanceFees(NEXT_PERIOD, NEXT_PERIOD.start, next_days, next_days, account_id, plan, priced, charges),
        )
    account = Account(account_id, case.case_id, case.currency, "UTC", account_id)
    terms = AccountTerms(account, CASE_PERIOD, days, Change.NEXT_PERIOD, (segment,), advance)
    return CaseInputs(terms, (_usage_row(case, charge, account_id),), tuple(_values(case, charge, account_id)))


def _rounding_of(case: PriceCase) -> RoundingMode:
    return case.rounding or RoundingMode.HALF_UP


def _usage_row(case: PriceCase, charge: AnyCharge, account_id: str) -> PeriodUsage:
    used = case.usage
    with exact():
        quantity = sum(used.values, Decimal(0)) if used.quantity is None else used.quantity
    event_count = len(used.values) if used.event_count is None else used.event_count
    unit = case.currency if isinstance(charge, DynamicCharge) else "units"
    dimensions = {name: _text(value) for name, value in sorted(used.dimensions.items())}
    text = json.dumps(dimensions, ensure_ascii=False, separators=(",", ":")) if dimensions else ""
    return PeriodUsage(account_id, charge.sku, 1, text, "sum", unit, quantity, event_count)


def _values(case: PriceCase, charge: AnyCharge, account_id: str) -> Iterator[EventValue]:
    """Yield each value in a grain of its own, so that the order of the case is the order of time."""
    for index, value in enumerate(case.usage.values):
        yield EventValue(account_id, charge.sku, 1, CASE_PERIOD.start + timedelta(seconds=index), value, 1)


def outcome_of(case: PriceCase, lines: Iterable[LineItem], problems: Iterable[str] = ()) -> CaseOutcome:
    """Return what lines come to that an engine made of ``inputs_of(case)``."""
    amount_exact = amount = Decimal(0)
    with exact():
        for line in lines:
            amount_exact += line.amount_exact
            amount += line.amount
    return CaseOutcome(case, amount_exact, amount, tuple(problems))


def rate_case(case: PriceCase) -> CaseOutcome:
    """Rate a case with the reference engine.

    >>> line = '{"id": "a", "currency": "USD", "charge": {"model": "per_unit", "unit_price": 0.5}'
    >>> [case] = parse_cases(line + ', "usage": {"quantity": 3}, "expected": {"amount": 1.5}}', "cases.jsonl")
    >>> rate_case(case).passed
    True
    """
    terms, usage, values = inputs_of(case)
    rated = rate_account(terms, usage, values)
    return outcome_of(case, rated.lines, rated.problems)


def _text(value: str | bool | int | Decimal | None) -> str:
    """Return a dimension as the text that a matrix compares."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"a value: found {name}, accepted a number")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"{next(key for key in keys if keys.count(key) > 1)}: found twice in one object, accepted once"
        )
    return found
