"""What native.json holds: typed records, made from measured panels; read it back with `NativeResults`.

results = NativeResults.model_validate_json(Path("benchmarks/results/native.json").read_bytes())
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from environment import Environment
from intervals import CONFIDENCE, estimate, paired_ratio, round_values
from latency_results import Interval, Record, Seconds
from networks import Weights
from rounds import Panel, Subject

NATIVE = "native"
NOTES = (
    "Latency is that of Predictor.predict_batch with all heads: trunk, heads and vote of preprocessed inputs.",
    "Each engine has a process of its own, all the cores, and the artifact loaded for that batch size alone; engines "
    "take turns in every round, in fresh random order.",
    "Medians and intervals are over rounds, whose value is the median of their calls; the minimum is over all calls.",
    "ratio = latency of the engine / latency of native, paired by round. An aim is met when the median of the ratio to "
    "the fastest engine that it names reaches it.",
    "MACs/s divide effective MACs (kept weights, and products of activations) by the median; engines that do not skip "
    "zeros do more work than that. The peak is a measured matrix product.",
)


class EngineLatency(Record):
    """Latency of one engine, in seconds for a whole batch."""

    engine: str
    rounds: int
    calls: int
    latency: Interval
    minimum: Seconds
    round_seconds: tuple[Seconds, ...]
    """The value of each round, in order; rounds of one row are paired."""
    ratio: Interval | None
    """This latency over that of native; None for native, and where native was not measured."""
    ratio_of_minima: float | None
    """The same of the shortest calls, which other processes disturb least."""
    macs_per_second: float
    peak_share: float


class AimResult(Record):
    """What was asked of native at this batch size, and what it reached."""

    ratio: float
    against: tuple[str, ...]
    rival: str | None
    """The fastest engine of `against`; None unless all of them and native were measured."""
    reached: Interval | None
    reached_by_minima: float | None
    """Ratio of the shortest calls of both."""
    met: bool | None


class NativeRow(Record):
    """One work at one batch size, on every engine."""

    work: str
    network: str
    density: float
    weights: Weights
    heads: int
    tokens: int | None
    batch: int
    dense_macs: int
    """Of the whole batch."""
    effective_macs: int
    artifact_sha256: str
    """Of the artifact's manifest."""
    engines: tuple[EngineLatency, ...]
    aim: AimResult | None

    def engine(self, name: str) -> EngineLatency | None:
        """What was measured on an engine."""
        return next((each for each in self.engines if each.engine == name), None)


class LoadRecord(Record):
    """What it took to load a work for one batch size on one engine, in a fresh process."""

    work: str
    batch: int
    engine: str
    engine_version: str
    seconds: Seconds
    """From the artifact's folder to an engine that answers, without imports."""
    rss_bytes: int | None
    notes: tuple[str, ...]


class LoadAimResult(Record):
    """Loads of a work for batch size 1 on native, each in a fresh process, cold or with compiled code on disk."""

    work: str
    kind: Literal["cold", "warm"]
    seconds: tuple[Seconds, ...]
    median: Seconds
    aim: Seconds
    met: bool


class LoadFailure(Record):
    """A work that an engine could not run; nothing was put in its place."""

    work: str
    batch: int
    engine: str
    message: str


class NativeResults(Record):
    """One run of native.py."""

    benchmark: Literal["native"] = "native"
    smoke: bool
    """True: a run that only shows that the benchmark works; its numbers mean nothing."""
    environment: Environment
    notes: tuple[str, ...] = NOTES
    confidence: float = CONFIDENCE
    peak_macs_per_second: float
    """Best single-precision matrix product (ONNX Runtime) on the same cores, before or after the rounds."""
    seconds: Seconds
    """What the run took."""
    engines_missing: dict[str, str]
    rows: tuple[NativeRow, ...]
    loads: tuple[LoadRecord, ...]
    load_aims: tuple[LoadAimResult, ...]
    failures: tuple[LoadFailure, ...]


def engine_latencies(panel: Panel[Subject], effective_macs: int, peak: float) -> tuple[EngineLatency, ...]:
    """Reckon the latencies of a panel; `effective_macs` are those of the whole batch."""
    native = next((rounds for subject, rounds in panel.calls.items() if subject.engine == NATIVE), None)
    return tuple(
        _engine_latency(subject, rounds, native, effective_macs, peak) for subject, rounds in panel.calls.items()
    )


def _engine_latency(
    subject: Subject, rounds: list[list[float]], native: list[list[float]] | None, effective_macs: int, peak: float
) -> EngineLatency:
    values = round_values(rounds)
    latency = estimate(values)
    compared = native if subject.engine != NATIVE else None
    minimum = min(map(min, rounds))
    return EngineLatency(
        engine=subject.engine,
        rounds=len(rounds),
        calls=sum(map(len, rounds)),
        latency=Interval.of(latency),
        minimum=minimum,
        round_seconds=tuple(float(value) for value in values),
        ratio=None if compared is None else Interval.of(paired_ratio(compared, rounds)),
        ratio_of_minima=None if compared is None else minimum / min(map(min, compared)),
        macs_per_second=effective_macs / latency.median,
        peak_share=effective_macs / latency.median / peak,
    )


def judge(ratio: float, against: tuple[str, ...], engines: Sequence[EngineLatency]) -> AimResult:
    """Compare native with the fastest engine of `against`; undecided unless every one of them was measured."""
    by_name = {each.engine: each for each in engines}
    if not {*against, NATIVE} <= by_name.keys():
        return AimResult(ratio=ratio, against=against, rival=None, reached=None, reached_by_minima=None, met=None)
    rival = min((by_name[name] for name in against), key=lambda each: each.latency.median)
    assert rival.ratio is not None
    return AimResult(
        ratio=ratio, against=against, rival=rival.engine, reached=rival.ratio,
        reached_by_minima=rival.ratio_of_minima, met=rival.ratio.median >= ratio,
    )  # fmt: skip


def judge_load(work: str, kind: Literal["cold", "warm"], seconds: Sequence[float], aim: float) -> LoadAimResult:
    """Compare the median of some loads with the aim."""
    median = float(np.median(seconds))
    return LoadAimResult(work=work, kind=kind, seconds=tuple(seconds), median=median, aim=aim, met=median < aim)
