"""What cpu_latency.json holds: typed records, made from measured panels; read it back with `LatencyResults`.

results = LatencyResults.model_validate_json(Path("benchmarks/results/cpu_latency.json").read_bytes())
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from environment import Environment
from intervals import CONFIDENCE, Estimate, estimate, paired_ratio, round_values
from rounds import Kind, Panel, Subject

NOTES = (
    "Latency is that of Predictor.predict_batch: trunk, heads and vote of preprocessed inputs, without HTTP.",
    "Dense networks have live random weights: their speed is genuine, their answers mean nothing.",
    "Medians and intervals are over rounds, whose value is the median of their calls; p95 and min are over all calls.",
    "speedup = latency of the dense full ensemble / latency of the subject on the same engine, paired by round.",
    "MACs/s divide effective MACs (kept weights, all of them in a dense network; products of activations) by the "
    "median; engines that do not skip zeros do more work than that. The peak is a measured matrix product.",
)

Seconds = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Record):
    """A median with its bootstrap interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, value: Estimate) -> "Interval":
        """Make a record of an estimate."""
        return cls(median=value.median, low=value.low, high=value.high)


class LoadResult(Record):
    """What it took to load one artifact on one engine."""

    network: str
    kind: Kind
    engine: str
    engine_version: str
    precision: str
    load_seconds: Seconds
    """Reading, compiling for all batch sizes, warming up."""
    rss_bytes: int | None
    notes: tuple[str, ...]


class Failure(Record):
    """An artifact that an engine could not run; nothing was put in its place."""

    network: str
    kind: Kind
    engine: str
    message: str


class NetworkResult(Record):
    """A network that was measured, with its dense counterpart."""

    name: str
    heads: int
    density: float
    weights: dict[Kind, str]
    """Trained or live random."""
    tokens: int | None
    """Tokens of each text; None for images."""
    artifact_sha256: str
    """Of the sparse artifact's manifest."""


class SubjectResult(Record):
    """Latency of one subject, in seconds for a whole batch."""

    network: str
    engine: str
    batch: int
    kind: Kind
    heads: int
    label: str
    rounds: int
    calls: int
    latency: Interval
    p95: Seconds
    minimum: Seconds
    quantiles: dict[str, Seconds]
    """Of all calls: q00, q05, q25, q50, q75, q95, q100."""
    round_seconds: tuple[Seconds, ...]
    """The value of each round, in order; rounds of one panel are paired."""
    speedup: Interval | None
    """Against the dense full ensemble on the same engine; None where that could not be measured."""
    dense_macs: int
    """Of the whole batch."""
    effective_macs: int
    macs_per_second: float
    peak_share: float
    """`macs_per_second` as a fraction of the measured peak."""


class LatencyResults(Record):
    """One run of cpu_latency.py."""

    benchmark: Literal["cpu_latency"] = "cpu_latency"
    smoke: bool
    """True: a run that only shows that the benchmark works; its numbers mean nothing."""
    environment: Environment
    notes: tuple[str, ...] = NOTES
    confidence: float = CONFIDENCE
    peak_macs_per_second: float
    """Best single-precision matrix product (ONNX Runtime) on the same cores, before or after the rounds."""
    budget_seconds: float
    preparation_seconds: Seconds
    measuring_seconds: Seconds
    networks: tuple[NetworkResult, ...]
    engines_missing: dict[str, str]
    """Engines that are not installed, with what to do about it."""
    loads: tuple[LoadResult, ...]
    failures: tuple[Failure, ...]
    subjects: tuple[SubjectResult, ...]


def subject_results(
    panels: Sequence[Panel[Subject]], macs: Callable[[Subject], tuple[int, int]], peak: float
) -> tuple[SubjectResult, ...]:
    """Reckon the results of all panels; `macs` gives (dense, effective) of one row."""
    results = []
    for panel in panels:
        baselines = {subject.engine: rounds for subject, rounds in panel.calls.items() if subject.is_baseline}
        for subject, rounds in panel.calls.items():
            baseline = baselines.get(subject.engine)
            results.append(_subject_result(subject, rounds, baseline, macs(subject), peak))
    return tuple(results)


def _subject_result(
    subject: Subject,
    rounds: list[list[float]],
    baseline: list[list[float]] | None,
    macs: tuple[int, int],
    peak: float,
) -> SubjectResult:
    calls = np.concatenate([np.asarray(each) for each in rounds])
    values = round_values(rounds)
    latency = estimate(values)
    dense, effective = (subject.batch * count for count in macs)
    rate = effective / latency.median
    points = (0, 5, 25, 50, 75, 95, 100)
    return SubjectResult(
        network=subject.network,
        engine=subject.engine,
        batch=subject.batch,
        kind=subject.kind,
        heads=subject.heads,
        label=subject.label,
        rounds=len(rounds),
        calls=len(calls),
        latency=Interval.of(latency),
        p95=float(np.quantile(calls, 0.95)),
        minimum=float(calls.min()),
        quantiles={f"q{point:02d}": float(np.quantile(calls, point / 100)) for point in points},
        round_seconds=tuple(float(value) for value in values),
        speedup=None if baseline is None else Interval.of(paired_ratio(rounds, baseline)),
        dense_macs=dense,
        effective_macs=effective,
        macs_per_second=rate,
        peak_share=rate / peak,
    )
