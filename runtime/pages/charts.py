"""Charts as inline SVG: lines over two axes, and maps of layers over time.

Same input, same bytes. Lines differ in colour and in dashes, so that nobody needs the colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from runtime.pages.svg import drawing, rectangle, segment, shortened, text

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 12, 40
MOST_POINTS = 400
"""A line of more points is drawn through the means of as many runs of points."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a chart. `look` chooses its colour and dashes; marked points are named by `names`."""

    label: str
    points: Points
    look: int
    marked: bool = False
    joined: bool = True
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows and, where the data shall not decide, from where to where."""

    label: str
    low: float | None = None
    high: float | None = None
    percent: bool = False

    def tick(self, value: float) -> str:
        """Return the text of a tick."""
        if self.percent:
            return f"{round(100 * value, 6):g} %"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 9):g}"


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> str:
        """Return the pixel, as SVG text."""
        position = self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)
        return f"{position:.1f}"


def line_chart(name: str, lines: Sequence[Line], x: Axis, y: Axis) -> Markup:
    """Draw lines over two axes; `name` is what a screen reader says."""
    shown = [(line, thinned(line.points)) for line in lines if line.points]
    xs = [point[0] for _, points in shown for point in points]
    ys = [point[1] for _, points in shown for point in points]
    x_ticks, y_ticks = _ticks(xs, x), _ticks(ys, y)
    across = Scale(*_reach(xs, x, x_ticks, tight=True), LEFT, WIDTH - RIGHT)
    up = Scale(*_reach(ys, y, y_ticks, tight=False), HEIGHT - BOTTOM, TOP)
    parts = [axes(x, y, x_ticks, y_ticks, across, up, HEIGHT - BOTTOM)]
    for line, points in shown:
        places = [(across(a), up(b)) for a, b in points]
        look = line.look % 7
        if line.joined and len(places) > 1:
            path = " ".join(f"{a},{b}" for a, b in places)
            parts.append(Markup('<polyline class="line look{}" points="{}"/>').format(look, path))
        if line.marked or len(places) == 1:
            names = line.names or [f"{x.label} {x.tick(a)}: {y.tick(b)}" for a, b in points]
            parts += [_mark(place, look, f"{line.label}, {n}") for place, n in zip(places, names, strict=True)]
    return drawing(name, WIDTH, HEIGHT, parts)


@dataclass(frozen=True)
class Row:
    """One row of a heat map: fractions over time, and what is written at its end."""

    label: str
    values: Sequence[float]
    """Fractions from 0 to 1."""
    text: str


def heat_map(name: str, rows: Sequence[Row], columns: Sequence[str]) -> Markup:
    """Draw one row for each layer, one column for each time; the colour is the square root of the fraction."""
    pitch, left, right = 17, 150, 62
    width = (WIDTH - left - right) / max(len(columns), 1)
    parts = []
    for number, row in enumerate(rows):
        top, middle = number * pitch, (number + 0.5) * pitch
        parts.append(text("name", 0, middle, shortened(row.label, 24), hint=row.label))
        for start, end in _runs(row.values):
            value = row.values[start]
            when = columns[start] if end - start == 1 else f"{columns[start]} to {columns[end - 1]}"
            hint = f"{row.label}, {when}: {value:.2%}"
            x = left + start * width, left + end * width
            parts.append(rectangle("heat", x[0], top + 1, x[1], top + pitch - 1, hint, opacity=math.sqrt(value)))
        parts.append(text("value", WIDTH, middle, row.text, "end"))
    return drawing(name, WIDTH, len(rows) * pitch + 2, parts)


def thinned(points: Points) -> Points:
    """At most MOST_POINTS points: the means of consecutive ones."""
    if len(points) <= MOST_POINTS:
        return points
    array: NDArray[np.float64] = np.asarray(points, dtype=np.float64)
    means = [piece.mean(axis=0) for piece in np.array_split(array, MOST_POINTS)]
    return [(float(mean[0]), float(mean[1])) for mean in means]


def axes(x: Axis, y: Axis, x_ticks: list[float], y_ticks: list[float], across: Scale, up: Scale, bottom: int) -> Markup:
    """Draw axes with ticks and labels; the x axis lies at the height of `bottom`."""
    left, right = f"{LEFT}", f"{WIDTH - RIGHT}"
    parts = [segment("grid", left, right, up(value), up(value)) for value in y_ticks]
    parts += [text("tick", LEFT - 6, up(value), y.tick(value), "end") for value in y_ticks]
    parts += [text("tick", across(value), bottom + 12, x.tick(value), "middle") for value in x_ticks]
    parts.append(segment("axis", left, right, f"{bottom}", f"{bottom}"))
    parts.append(text("label", (LEFT + WIDTH - RIGHT) / 2, bottom + 29, x.label, "middle"))
    return Markup("").join(parts)


def _mark(place: tuple[str, str], look: int, hint: str) -> Markup:
    return Markup('<circle class="mark look{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
        look, *place, hint
    )


def _ticks(values: Sequence[float], axis: Axis) -> list[float]:
    """Round numbers about five apart that cover the values."""
    finite = [value for value in values if math.isfinite(value)]
    low = axis.low if axis.low is not None else min(finite, default=0.0)
    high = axis.high if axis.high is not None else max(finite, default=1.0)
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - (margin if axis.low is None else 0), high + (margin if axis.high is None else 0)
        if high <= low:
            high = low + 1
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _reach(values: Sequence[float], axis: Axis, ticks: list[float], *, tight: bool) -> tuple[float, float]:
    """From where to where an axis goes. A tight one ends with its values and loses the ticks beyond them."""
    if tight and len(set(values)) > 1:
        low = axis.low if axis.low is not None else min(values)
        high = axis.high if axis.high is not None else max(values)
        ticks[:] = [tick for tick in ticks if low - 1e-12 <= tick <= high + 1e-12]
        return low, high
    return ticks[0], ticks[-1]


def _runs(values: Sequence[float]) -> list[tuple[int, int]]:
    """Where equal neighbours begin and end."""
    starts = [index for index in range(len(values)) if index == 0 or values[index] != values[index - 1]]
    return list(zip(starts, [*starts[1:], len(values)], strict=True))
