"""What crossover.json holds, and where sparse execution begins to pay: typed records, made from measured panels.

results = CrossoverResults.model_validate_json(Path("benchmarks/results/crossover.json").read_bytes())
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from environment import Environment
from intervals import CONFIDENCE, estimate, paired_ratio, round_values
from latency_results import Interval, Record, Seconds
from rounds import Panel

Form = Literal["sparse", "dense"]
Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
"""In the order in which they change answers: each one allows what stands before it, too."""
NOTES = (
    "Latency is that of Predictor.predict_batch with all heads: trunk, heads and vote of preprocessed inputs.",
    "Sparse executions skip zeros and are measured at every density; dense ones do the same work whatever the density, "
    "and are measured on the same network with all its weights. All weights are random and live.",
    "Each engine has a process of its own and all the cores; every round visits all executions of a network at a batch "
    "size once, in fresh random order, so that ratios are paired by round.",
    "A crossing is the density below which an execution is faster than the fastest dense one that is allowed, "
    "interpolated between the neighbouring densities on logarithmic scales.",
)


@dataclass(frozen=True)
class Execution:
    """One way to compute a network: an engine, what it computes in, and whether zeros are skipped."""

    engine: str
    precision: Precision
    form: Form

    @property
    def stored(self) -> Literal["fp32", "int8"]:
        """Precision of the artifact that it reads: bfloat16 is a way to compute a float32 one."""
        return "int8" if self.precision == "int8" else "fp32"

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Point:
    """What is timed: an execution of one network at one density; 1.0 for dense executions."""

    execution: Execution
    density: float


class Latency(Record):
    """Latency of one execution at one density, in seconds for a whole batch."""

    engine: str
    precision: Precision
    form: Form
    density: float
    """Of the weights that masks cover; 1.0 for dense executions."""
    rounds: int
    calls: int
    latency: Interval
    minimum: Seconds
    speedup: dict[Precision, Interval]
    """Sparse executions: latency of the fastest dense one that computes in this precision or in one with more bits,
    over this one, paired by round. Empty for dense ones."""

    @property
    def execution(self) -> Execution:
        """What was measured."""
        return Execution(self.engine, self.precision, self.form)


class Crossing(Record):
    """Where a sparse execution begins to beat the fastest dense one that may compute in `against` or more bits."""

    engine: str
    precision: Precision
    against: Precision
    rival: str
    """The fastest such dense execution."""
    density: float | None
    """Interpolated; None where the sparse one is slower even at the lowest density that was measured."""
    open_end: bool
    """True: it is faster at all densities that were measured, so `density`, the highest of them, is a lower bound."""


class CrossoverPanel(Record):
    """One network at one batch size."""

    network: str
    heads: int
    tokens: int | None
    batch: int
    latencies: tuple[Latency, ...]
    crossings: tuple[Crossing, ...]

    def of(self, execution: Execution) -> tuple[Latency, ...]:
        """What was measured of an execution, by rising density."""
        found = [latency for latency in self.latencies if latency.execution == execution]
        return tuple(sorted(found, key=lambda latency: latency.density))


class CrossoverFailure(Record):
    """What an engine could not run; nothing was put in its place."""

    network: str
    batch: int
    engine: str
    precision: Precision
    density: float
    message: str


class CrossoverResults(Record):
    """One run of crossover.py."""

    benchmark: Literal["crossover"] = "crossover"
    smoke: bool
    """True: a run that only shows that the benchmark works; its numbers mean nothing."""
    environment: Environment
    notes: tuple[str, ...] = NOTES
    confidence: float = CONFIDENCE
    seconds: Seconds
    """What the run took."""
    engines_missing: dict[str, str]
    panels: tuple[CrossoverPanel, ...]
    failures: tuple[CrossoverFailure, ...]


def allowed(precision: Precision) -> tuple[Precision, ...]:
    """Precisions that a user accepts who accepts `precision`."""
    return PRECISIONS[: PRECISIONS.index(precision) + 1]


def judge(network: str, heads: int, tokens: int | None, batch: int, panel: Panel[Point]) -> CrossoverPanel:
    """Turn the measured rounds of one network at one batch size into latencies, speed-ups and crossings.

    Sparse executions are compared up to each precision in which some dense one was measured.
    """
    dense = {point: rounds for point, rounds in panel.calls.items() if point.execution.form == "dense"}
    measured = {point.execution.precision for point in dense}
    rivals: dict[Precision, Point] = {}
    for precision in PRECISIONS:
        if precision in measured:
            usable = [point for point in dense if point.execution.precision in allowed(precision)]
            rivals[precision] = min(usable, key=lambda point: estimate(round_values(dense[point])).median)
    latencies = []
    for point, rounds in panel.calls.items():
        speedup = {
            precision: Interval.of(paired_ratio(rounds, dense[rival]))
            for precision, rival in rivals.items()
            if point.execution.form == "sparse" and point.execution.precision in allowed(precision)
        }
        latencies.append(
            Latency(
                engine=point.execution.engine, precision=point.execution.precision, form=point.execution.form,
                density=point.density, rounds=len(rounds), calls=sum(map(len, rounds)),
                latency=Interval.of(estimate(round_values(rounds))), minimum=min(map(min, rounds)), speedup=speedup,
            )
        )  # fmt: skip
    crossings = []
    sparse = dict.fromkeys(each.execution for each in latencies if each.form == "sparse")
    for execution in sparse:
        for precision, rival in rivals.items():
            if execution.precision in allowed(precision):
                ratios = [
                    (each.density, each.speedup[precision].median) for each in latencies if each.execution == execution
                ]
                density, open_end = crossing(ratios)
                crossings.append(
                    Crossing(
                        engine=execution.engine, precision=execution.precision, against=precision,
                        rival=rival.execution.label, density=density, open_end=open_end,
                    )
                )  # fmt: skip
    return CrossoverPanel(
        network=network, heads=heads, tokens=tokens, batch=batch, latencies=tuple(latencies),
        crossings=tuple(crossings),
    )  # fmt: skip


def crossing(ratios: Iterable[tuple[float, float]]) -> tuple[float | None, bool]:
    """Where speed-ups by density fall to 1, coming from the lowest density, and whether they never do.

    None if the first one is below 1 already. Between two densities log(ratio) is taken as linear in log(density).
    """
    ordered = sorted(ratios)
    if not ordered or ordered[0][1] < 1:
        return None, False
    for (low, above), (high, below) in pairwise(ordered):
        if below < 1:
            share = math.log(above) / (math.log(above) - math.log(below))
            return low * (high / low) ** share, False
    return ordered[-1][0], True
