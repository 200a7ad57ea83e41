"""The charts of the report, with every coordinate computed: a template writes them down as SVG and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from pipeline.core.money import exact


class StepKind(StrEnum):
    """What a step of a waterfall does: states how many there are, takes some away, or adds some."""

    LEVEL = "level"
    TAKEN = "taken"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a waterfall; ``level`` is what is left after it, ``link`` the table with the rows behind it."""

    name: str
    sentence: str
    kind: StepKind
    count: int | Decimal
    level: int | Decimal
    link: str = ""

    @property
    def change(self) -> int | Decimal | None:
        """The signed change, or None of a level."""
        if self.kind is StepKind.LEVEL:
            return None
        return -self.count if self.kind is StepKind.TAKEN else self.count


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the chart in whole user units, with the text beside it and the line that leads to the next bar."""

    step: Step
    label_y: int
    text_y: int
    y: int
    x: int
    width: int
    text_x: int
    link_x: int
    link_y: int


@dataclass(frozen=True, slots=True)
class Chart:
    """A waterfall chart. ``axis_start`` is not zero when zero would hide the steps.

    ``left`` is the first coordinate: names longer than the room left of the axis get more of it.
    """

    title: str
    unit: str
    is_narrow: bool
    left: int
    width: int
    height: int
    bar_height: int
    axis_start: int | Decimal
    axis_x: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class TrendBar:
    """One window of a trend."""

    x: int
    y: int
    height: int
    title: str
    is_last: bool


@dataclass(frozen=True, slots=True)
class TrendChart:
    """A small chart of one figure over the last windows, the newest on the right, from zero up."""

    title: str
    caption: str
    width: int
    height: int
    bar_width: int
    bars: tuple[TrendBar, ...]


def charts(title: str, unit: str, steps: Sequence[Step]) -> tuple[Chart, Chart]:
    """Return the chart of a waterfall twice: for a wide page, and for a narrow one with the names above the bars."""
    wide = chart(title, unit, steps, 960, labels_above=False)
    return wide, chart(title, unit, steps, 350, labels_above=True)


def chart(title: str, unit: str, steps: Sequence[Step], width: int, *, labels_above: bool) -> Chart:
    """Return the chart of a waterfall: one bar for each step, in whole units, with room for names and numbers.

    When every level is far from zero the axis starts nearer to them, so that a small step can be seen.
    """
    label_width = 0 if labels_above else 210
    number_width = max(84, 8 * max(len(f"{step.count:,f}") for step in steps) + 16)
    row_height, bar_height, top = (46, 16, 22) if labels_above else (30, 16, 7)
    plot_x, plot_width = label_width, width - label_width - number_width
    levels = [step.level for step in steps]
    highest = max(max(step.level, step.level + step.count * (step.kind is StepKind.TAKEN)) for step in steps)
    lowest = min([*levels, *(step.level - step.count for step in steps if step.kind is StepKind.ADDED)])
    axis_start = _axis_start(lowest, highest)
    with exact():
        span = highest - axis_start or 1

    def position(level: int | Decimal) -> int:
        with exact():
            return plot_x + int((level - axis_start) * plot_width // span)

    bars = []
    for number, step in enumerate(steps):
        before = step.level if step.change is None else step.level - step.change
        ends = sorted((position(max(axis_start, 0) if step.change is None else before), position(step.level)))
        bar_width = max(ends[1] - ends[0], 2 if step.count else 0)
        y = number * row_height + top
        bars.append(
            Bar(
                step,
                label_y=number * row_height + 15,
                text_y=y + bar_height - 4,
                y=y,
                x=ends[0],
                width=bar_width,
                text_x=ends[0] + bar_width + 6,
                link_x=position(step.level),
                link_y=y + row_height,
            )
        )
    longest = max(len(step.name) for step in steps)
    left = 0 if labels_above else -max(0, 8 * longest - label_width)
    height = len(steps) * row_height + 4
    return Chart(title, unit, labels_above, left, width - left, height, bar_height, axis_start, plot_x, tuple(bars))


def _axis_start(lowest: int | Decimal, highest: int | Decimal) -> int:
    """Return zero, or a round number below the lowest level when the steps are less than a third of the highest.

    Below zero the axis starts at the lowest.
    """
    if lowest < 0:
        return int(lowest) - 1
    spread = int(highest - lowest)
    if lowest == 0 or spread * 3 >= highest:
        return 0
    unit = int("1".ljust(len(str(max(spread, 1))), "0"))
    return max((int(lowest) - max(spread, unit)) // unit * unit, 0)


def trend_chart(title: str, values: Sequence[tuple[str, int]], width: int = 300, height: int = 64) -> TrendChart:
    """Return a bar for each window, the last of them marked; the highest fills the height."""
    highest = max((value for _, value in values), default=0) or 1
    step = width // max(len(values), 10)
    bars = [
        TrendBar(
            x=width - (len(values) - number) * step,
            y=height - max(value * height // highest, 1 if value else 0),
            height=max(value * height // highest, 1 if value else 0),
            title=f"{window_id}: {value:,}",
            is_last=number == len(values) - 1,
        )
        for number, (window_id, value) in enumerate(values)
    ]
    most = max(values, key=lambda one: one[1], default=("", 0))
    caption = f"last {values[-1][1]:,}, most {most[1]:,} on {most[0]}" if values else "none"
    return TrendChart(title, caption, width, height, max(step - 2, 1), tuple(bars))
