"""Exact decimals from text: what counts as a number for billing, and the column it must fit.

Floats are refused by type everywhere: TOML is read with ``parse_float=Decimal``, JSON numbers arrive as the
digits the producer wrote.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pipeline.core.money import QUANTITY_SCALE, UNIT_PRICE_SCALE


def _refuse_inexact(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise ValueError(f"expected an exact decimal, got {type(value).__name__} {value!r}")
    return value


ExactDecimal = Annotated[Decimal, BeforeValidator(_refuse_inexact), Field(allow_inf_nan=False)]
Quantity = Annotated[ExactDecimal, Field(max_digits=38, decimal_places=QUANTITY_SCALE)]
FlatAmount = Annotated[ExactDecimal, Field(max_digits=26, decimal_places=UNIT_PRICE_SCALE)]
# A share of one hundred: as a factor it has two decimals more, so that it is an exact unit price.
Percent = Annotated[ExactDecimal, Field(max_digits=14, decimal_places=UNIT_PRICE_SCALE - 2)]
Factor = Annotated[ExactDecimal, Field(max_digits=8, decimal_places=4)]


def plain_text(number: Decimal) -> str:
    """Return the digits of a decimal without exponent and without trailing zeros, so equal values have one text.

    >>> plain_text(Decimal("1.50")), plain_text(Decimal("1e-7")), plain_text(Decimal("1E+3")), plain_text(Decimal("-0"))
    ('1.5', '0.0000001', '1000', '0')
    """
    if number == 0:
        return "0"
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def fits(number: Decimal, digits: int, scale: int) -> bool:
    """Tell whether a decimal fits ``DECIMAL(digits, scale)`` without losing a digit.

    >>> fits(Decimal("0.0000000001"), 38, 9), fits(Decimal("1.000000000000"), 38, 9)
    (False, True)
    """
    if not number.is_finite():
        return False
    _, digit_tuple, exponent = number.as_tuple()
    if not any(digit_tuple):
        return True
    trailing_zeros = next(index for index, digit in enumerate(reversed(digit_tuple)) if digit)
    decimals = max(0, -(int(exponent) + trailing_zeros))
    return decimals <= scale and number.adjusted() + 1 <= digits - scale
