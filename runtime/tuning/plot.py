"""The picture of a tuning: latency against batch size, one line for each setup, as one SVG file that needs nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from runtime.pages.svg import segment, text
from runtime.tuning.records import Setup, Speed, Trial, Tuning

WIDTH, LEFT, RIGHT, TOP, PLOT_HEIGHT = 860, 64, 320, 64, 330
LEGEND_PITCH = 20
COLOURS = ("#0b6e4f", "#c2410c", "#1d4ed8", "#7c3aed", "#a16207")
"""One for each engine."""
DASHES = ("", "7 4", "2 3", "9 3 2 3", "14 4", "1 6")
"""One for each setup of an engine: nobody needs the colours."""
SHIFT = 3
"""Pixels between the points of setups at one batch size."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2937 }
.title { font-size: 15px; font-weight: 600 }
.faint { fill: #6b7280 }
.grid { stroke: #e5e7eb } .axis { stroke: #6b7280 }
.target { stroke: #b91c1c; stroke-width: 1.5; stroke-dasharray: 6 3 }
.chosen { font-weight: 600 }
.line { fill: none; stroke-width: 2 }
"""


def plot(tuning: Tuning) -> str:
    """Draw a tuning: median latency as a line, up to the 99th percentile as a whisker, the target, the choice."""
    shown = [trial for trial in tuning.trials if trial.speeds]
    speeds = [speed for trial in shown for speed in trial.speeds]
    across = _Across(tuning.batch_sizes)
    targets = [] if tuning.target_p99_seconds is None else [tuning.target_p99_seconds]
    up = _Up([speed.p50_seconds for speed in speeds] + [speed.p99_seconds for speed in speeds] + targets)
    height = TOP + max(PLOT_HEIGHT + 56, LEGEND_PITCH * (len(shown) + 4))
    title = f"{tuning.artifact} {tuning.artifact_version} on {tuning.cpu}, {tuning.cores} cores"
    parts = [text("title", 16, 22, title), text("faint", 16, 43, _subtitle(tuning))]
    parts += _grid(across, up, tuning.batch_sizes)
    for target in targets:
        parts.append(segment("target", LEFT, WIDTH - RIGHT, f"{up(target):.1f}", f"{up(target):.1f}"))
    looks = _looks([trial.setup for trial in shown])
    parts += [part for trial in shown for part in _line(trial, looks[trial.setup], across, up)]
    chosen = tuning.chosen
    place = across(chosen.rows) + looks[chosen.setup].shift, up(tuning.speed(chosen).p50_seconds)
    parts.append(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="9" fill="none" stroke="#111827" stroke-width="2"/>').format(*place)
    )
    parts += _legend(tuning, shown, looks)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" '
        'aria-label="{2}"><style>{3}</style><rect width="100%" height="100%" fill="#fff"/>{4}</svg>\n'
    ).format(WIDTH, height, title, Markup(STYLE), Markup("\n").join(parts))


class _Across:
    """Pixel of a batch size: logarithmic, with room at both ends."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._low, self._high = math.log(min(sizes)), math.log(max(sizes))

    def __call__(self, rows: int) -> float:
        left, right = LEFT + 28, WIDTH - RIGHT - 28
        if self._low == self._high:
            return (left + right) / 2
        return left + (math.log(rows) - self._low) / (self._high - self._low) * (right - left)


class _Up:
    """Pixel of seconds: logarithmic, from the round number below the least to the one above the greatest."""

    def __init__(self, seconds: Sequence[float]) -> None:
        positive = [value for value in seconds if value > 0]
        first, last = _step_below(min(positive)), _step_below(max(positive)) + 1
        self.ticks = [_step(index) for index in range(first, last + 1)]

    def __call__(self, seconds: float) -> float:
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        share = (math.log(max(seconds, self.ticks[0])) - low) / (high - low)
        return TOP + PLOT_HEIGHT * (1 - share)


def _step(index: int) -> float:
    """Number `index` of ..., 1, 2, 5, 10, 20, ... seconds."""
    return float((1, 2, 5)[index % 3] * 10.0 ** (index // 3))


def _step_below(value: float) -> int:
    index = 3 * math.floor(math.log10(value)) + 3
    while _step(index) > value:
        index -= 1
    return index


def _subtitle(tuning: Tuning) -> str:
    texts = f" of {tuning.tokens} tokens" if tuning.tokens else ""
    return f"time of a call{texts}: line to the median, whisker to the 99th percentile; the circle is what was chosen"


def _grid(across: _Across, up: _Up, sizes: Sequence[int]) -> list[Markup]:
    parts = [segment("grid", LEFT, WIDTH - RIGHT, f"{up(tick):.1f}", f"{up(tick):.1f}") for tick in up.ticks]
    parts += [text("faint", LEFT - 8, f"{up(tick):.1f}", f"{tick * 1e3:g} ms", "end") for tick in up.ticks]
    parts.append(segment("axis", LEFT, WIDTH - RIGHT, TOP + PLOT_HEIGHT, TOP + PLOT_HEIGHT))
    parts += [text("faint", f"{across(rows):.1f}", TOP + PLOT_HEIGHT + 15, str(rows), "middle") for rows in sizes]
    parts.append(text("faint", (LEFT + WIDTH - RIGHT) / 2, TOP + PLOT_HEIGHT + 36, "rows in a call", "middle"))
    return parts


@dataclass(frozen=True)
class _Look:
    colour: str
    dashes: str
    shift: float
    """Pixels to the right, so that whiskers lie beside each other."""


def _looks(setups: Sequence[Setup]) -> dict[Setup, _Look]:
    engines = list(dict.fromkeys(setup.engine for setup in setups))
    looks = {}
    for place, setup in enumerate(setups):
        number = [other for other in setups if other.engine == setup.engine].index(setup)
        colour = COLOURS[engines.index(setup.engine) % len(COLOURS)]
        shift = SHIFT * (place - (len(setups) - 1) / 2)
        looks[setup] = _Look(colour, DASHES[number % len(DASHES)], shift)
    return looks


def _line(trial: Trial, look: _Look, across: _Across, up: _Up) -> list[Markup]:
    colour, dashes = look.colour, look.dashes
    places = [
        (across(speed.rows) + look.shift, up(speed.p50_seconds), up(speed.p99_seconds), speed) for speed in trial.speeds
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
    parts = [
        Markup('<polyline class="line" points="{}" stroke="{}" stroke-dasharray="{}"/>').format(path, colour, dashes)
    ]
    whisker = Markup('<path d="M{0:.1f} {1:.1f}V{2:.1f}M{3:.1f} {2:.1f}h6" stroke="{4}" fill="none" opacity="0.5"/>')
    mark = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.5" fill="{}" stroke="{}"><title>{}</title></circle>')
    for x, middle, high, speed in places:
        parts.append(whisker.format(x, middle, high, x - 3, colour))
        parts.append(mark.format(x, middle, colour if speed.finished else "#fff", colour, _hint(trial.setup, speed)))
    return parts


def _hint(setup: Setup, speed: Speed) -> str:
    return (
        f"{setup}, {speed.rows} rows: median {speed.p50_seconds * 1e3:.3g} ms, p99 {speed.p99_seconds * 1e3:.3g} ms, "
        f"{speed.rows_per_second:,.0f} rows/s"
    )


def _legend(tuning: Tuning, shown: Sequence[Trial], looks: dict[Setup, _Look]) -> list[Markup]:
    left = WIDTH - RIGHT + 24
    parts = []
    for number, trial in enumerate(shown):
        y = TOP + 10 + LEGEND_PITCH * number
        look = looks[trial.setup]
        parts.append(
            Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" stroke="{}" stroke-dasharray="{}" stroke-width="2"/>').format(
                left, left + 34, y, y, look.colour, look.dashes
            )
        )
        kind = "chosen" if trial.setup == tuning.chosen.setup else ""
        parts.append(text(kind, left + 42, y, str(trial.setup)))
    below = TOP + 10 + LEGEND_PITCH * len(shown)
    if tuning.target_p99_seconds is not None:
        parts.append(segment("target", left, left + 34, below, below))
        parts.append(
            text("", left + 42, below, f"target for the 99th percentile, {tuning.target_p99_seconds * 1e3:g} ms")
        )
        below += LEGEND_PITCH
    parts.append(text("faint", left, below + 8, "hollow: lost early and was measured no further"))
    return parts
