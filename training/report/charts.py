"""Charts as inline SVG. Colours are classes of the page's style sheet, so charts follow light and dark mode.

Same input, same bytes; all text is escaped. Lines differ in colour and in dashes, so that nobody needs the colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.report.findings import Bins

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
    parts = [_axes(x, y, x_ticks, y_ticks, across, up, HEIGHT - BOTTOM)]
    for line, points in shown:
        places = [(across(a), up(b)) for a, b in points]
        look = line.look % 7
        if line.joined and len(places) > 1:
            path = " ".join(f"{a},{b}" for a, b in places)
            parts.append(Markup('<polyline class="line look{}" points="{}"/>').format(look, path))
        if line.marked or len(places) == 1:
            names = line.names or [f"{x.label} {x.tick(a)}: {y.tick(b)}" for a, b in points]
            parts += [_mark(place, look, f"{line.label}, {n}") for place, n in zip(places, names, strict=True)]
    return _svg(name, HEIGHT, parts)


def reliability_chart(name: str, bins: Bins) -> Markup:
    """Draw accuracy against confidence as bars with the diagonal, and below them how many rows each bin holds."""
    height, floor = 330, 330 - BOTTOM
    across, up = Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, 210, TOP)
    most = max(int(bins.rows.max()), 1)
    count = Scale(0, most, floor, 235)
    x, y = Axis("confidence of the vote", percent=True), Axis("accuracy", percent=True)
    parts = [_axes(x, y, [0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.25, 0.5, 0.75, 1], across, up, floor)]
    for index in np.flatnonzero(bins.rows):
        rows, low, high = bins.rows[index], bins.edges[index], bins.edges[index + 1]
        confidence, accuracy = bins.confidence[index], bins.accuracy[index]
        hint = f"Confidence {low:.1%} to {high:.1%}: {rows:,} rows, mean {confidence:.1%}, accuracy {accuracy:.1%}"
        left, right = float(across(low)) + 1, float(across(high)) - 1
        parts.append(_rectangle("bar", left, float(up(accuracy)), right, float(up(0)), hint))
        parts.append(_rectangle("rows", left, float(count(rows)), right, float(count(0)), hint))
        parts.append(_line("gap", across(low), across(high), up(confidence), up(confidence)))
    parts.append(_line("diagonal", across(0), across(1), up(0), up(1)))
    parts += [_text("tick", LEFT - 6, count(value), f"{value:,}", "end") for value in (0, most)]
    parts.append(_text("label", LEFT + 4, 240, "rows"))
    return _svg(name, height, parts)


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
        parts.append(_text("name", 0, middle, _shortened(row.label, 24), hint=row.label))
        for start, end in _runs(row.values):
            value = row.values[start]
            when = columns[start] if end - start == 1 else f"{columns[start]} to {columns[end - 1]}"
            hint = f"{row.label}, {when}: {value:.2%}"
            x = left + start * width, left + end * width
            parts.append(_rectangle("heat", x[0], top + 1, x[1], top + pitch - 1, hint, opacity=math.sqrt(value)))
        parts.append(_text("value", WIDTH, middle, row.text, "end"))
    return _svg(name, len(rows) * pitch + 2, parts)


def thinned(points: Points) -> Points:
    """At most MOST_POINTS points: the means of consecutive ones."""
    if len(points) <= MOST_POINTS:
        return points
    array: NDArray[np.float64] = np.asarray(points, dtype=np.float64)
    means = [piece.mean(axis=0) for piece in np.array_split(array, MOST_POINTS)]
    return [(float(mean[0]), float(mean[1])) for mean in means]


def _axes(
    x: Axis, y: Axis, x_ticks: list[float], y_ticks: list[float], across: Scale, up: Scale, bottom: int
) -> Markup:
    left, right = f"{LEFT}", f"{WIDTH - RIGHT}"
    parts = [_line("grid", left, right, up(value), up(value)) for value in y_ticks]
    parts += [_text("tick", LEFT - 6, up(value), y.tick(value), "end") for value in y_ticks]
    parts += [_text("tick", across(value), bottom + 12, x.tick(value), "middle") for value in x_ticks]
    parts.append(_line("axis", left, right, f"{bottom}", f"{bottom}"))
    parts.append(_text("label", (LEFT + WIDTH - RIGHT) / 2, bottom + 29, x.label, "middle"))
    return Markup("").join(parts)


def _text(kind: str, x: float | str, y: float | str, text: str, anchor: str = "start", hint: str = "") -> Markup:
    title = Markup("<title>{}</title>").format(hint) if hint else ""
    return Markup('<text class="{}" x="{}" y="{}" dy="0.32em" text-anchor="{}">{}{}</text>').format(
        kind, x, y, anchor, text, title
    )


def _line(kind: str, x1: str, x2: str, y1: str, y2: str) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, x1, x2, y1, y2)


def _rectangle(
    kind: str, left: float, top: float, right: float, bottom: float, hint: str, opacity: float | None = None
) -> Markup:
    faint = "" if opacity is None else Markup(' fill-opacity="{:.3f}"').format(opacity)
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"{}><title>{}</title></rect>'
    ).format(kind, left, top, right - left, max(bottom - top, 0.8), faint, hint)


def _mark(place: tuple[str, str], look: int, hint: str) -> Markup:
    return Markup('<circle class="mark look{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
        look, *place, hint
    )


def _svg(name: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        name, WIDTH, height, Markup("").join(parts)
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


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"
