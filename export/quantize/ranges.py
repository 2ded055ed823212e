"""The calibrator: which range each activation takes on genuine rows, and how much of it 256 steps should cover.

Two passes over the rows: the first finds the extremes of each tensor, the second counts its values in BINS bins between
them. The default method, `mse`, clips where the mean squared error of quantizing that histogram is least: a few large
values would otherwise widen the steps of all others. `minmax` clips nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.quantize.execution import GraphRunner, Graphs, Tensors
from runtime.manifest import RangeMethod

BINS = 2048
STEPS = 255
"""Steps of uint8: its 256 values less one."""
CANDIDATES = np.linspace(1.0, 0.2, 81)
"""Fractions of an extreme that `mse` tries as the end of the range."""


@dataclass(frozen=True)
class Range:
    """The range of real values that uint8 stands for; 0 is always one of them, so zeros and padding are exact."""

    low: float
    high: float

    @property
    def scale(self) -> np.float32:
        """Size of a step."""
        step = np.float32((max(self.high, 0.0) - min(self.low, 0.0)) / STEPS)
        return step if step > 0 else np.float32(1)

    @property
    def zero_point(self) -> np.uint8:
        """The value of uint8 that stands for 0."""
        return np.uint8(np.clip(np.rint(-min(self.low, 0.0) / float(self.scale)), 0, STEPS))


@dataclass
class Histogram:
    """Counts of a tensor's values in BINS bins of equal width from `low` to `high`."""

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        middles: NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2
        return middles


def collect_ranges(
    graphs: Graphs,
    watched: Mapping[str, Sequence[str]],
    batches: Callable[[], Iterable[Tensors]],
    *,
    method: RangeMethod = "mse",
    cores: int = 1,
) -> dict[str, dict[str, Range]]:
    """Ranges of the tensors `watched`, by stage file and name; `batches` starts the same rows again on each call."""
    runner = GraphRunner(graphs, cores=cores, watched=watched)
    found: dict[tuple[str, str], Histogram] = {}
    for inputs in batches():
        for file, name, values in runner.observe(inputs):
            extremes = float(values.min()), float(values.max())
            known = found.get((file, name))
            low, high = extremes if known is None else (min(known.low, extremes[0]), max(known.high, extremes[1]))
            found[file, name] = Histogram(low, high, np.zeros(BINS, dtype=np.int64))
    if method == "mse":
        for inputs in batches():
            for file, name, values in runner.observe(inputs):
                own = found[file, name]
                own.counts += np.histogram(values, bins=BINS, range=(own.low, own.high))[0]
    choose = least_error if method == "mse" else widest
    return {file: {name: choose(found[file, name]) for name in names} for file, names in watched.items()}


def widest(histogram: Histogram) -> Range:
    """The range that clips nothing."""
    return Range(histogram.low, histogram.high)


def least_error(histogram: Histogram) -> Range:
    """The range with the least mean squared error: one end is moved, then the other, until neither moves.

    Among equals the wider one. Ends that are 0 or beyond it stay.
    """
    ends = [min(histogram.low, 0.0), max(histogram.high, 0.0)]
    error = quantization_error(histogram, Range(*ends))
    moved = True
    while moved:
        moved = False
        for side, extreme in enumerate((min(histogram.low, 0.0), max(histogram.high, 0.0))):
            for fraction in CANDIDATES:
                tried = [*ends]
                tried[side] = float(extreme * fraction)
                found = quantization_error(histogram, Range(*tried))
                if found < error:
                    ends, error, moved = tried, found, True
    return Range(*ends)


def quantization_error(histogram: Histogram, chosen: Range) -> float:
    """Sum over the histogram of the squared difference that quantizing with a range makes."""
    values = histogram.centres
    scale, zero_point = float(chosen.scale), int(chosen.zero_point)
    steps = np.clip(np.rint(values / scale) + zero_point, 0, STEPS) - zero_point
    return float((histogram.counts * (values - steps * scale) ** 2).sum())
