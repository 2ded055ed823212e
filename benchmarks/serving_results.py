"""What serving.json holds: a typed record for each scenario of serving.py; read it back with `ServingResults`.

results = ServingResults.model_validate_json(Path("benchmarks/results/serving.json").read_bytes())
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field

from environment import Environment
from latency_results import Interval, Record
from serving_machine import Cores

NOTES = (
    "The server with its engine is a process on one core, the load generator runs on another one; the bare predictor "
    "is a process on the server's core, and measured in turns with the server, never at the same time.",
    "The bare predictor takes the same undecoded inputs and returns the objects of the same replies, without HTTP.",
    "Loads are open: Poisson arrivals, and latency counts from when a request was due. Capacity and saturation use a "
    "closed loop with more connections than fit into the largest batches.",
    "Goodput counts replies 200 whose latency is within the deadline, which requests name as timeout_ms.",
)

Seconds = Annotated[float, Field(ge=0)]


class Aim(Record):
    """Something that was to be reached."""

    what: str
    reached: float | None
    """None: it never came, such as a recovery or a refusal."""
    limit: float
    at_most: bool
    """The limit is an upper one."""
    unit: str
    met: bool

    @classmethod
    def at_least(cls, limit: float, what: str, reached: float | None, *, unit: str = "") -> Self:
        """Judge what must not be lower than `limit`."""
        met = reached is not None and reached >= limit
        return cls(what=what, reached=reached, limit=limit, at_most=False, unit=unit, met=met)

    @classmethod
    def no_more_than(cls, limit: float, what: str, reached: float | None, *, unit: str = "") -> Self:
        """Judge what must not be higher than `limit`."""
        met = reached is not None and reached <= limit
        return cls(what=what, reached=reached, limit=limit, at_most=True, unit=unit, met=met)


class Latencies(Record):
    """Quantiles of some latencies."""

    count: int
    p50: Seconds
    p95: Seconds
    p99: Seconds

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latencies | None":
        """Make a record; None without latencies."""
        if not len(seconds):
            return None
        p50, p95, p99 = (float(value) for value in np.quantile(seconds, (0.5, 0.95, 0.99)))
        return cls(count=len(seconds), p50=p50, p95=p95, p99=p99)


class Subject(Record):
    """What a scenario ran, and where."""

    environment: Environment
    cores: Cores
    network: str
    engine: str
    engine_version: str
    precision: str


class LatencyScenario(Record):
    """One request at a time: what HTTP and the server add to the bare predictor."""

    subject: Subject
    rounds: int
    bare: Latencies
    http: Latencies
    added: Interval
    """Median over rounds of the difference of medians, in seconds."""
    aims: tuple[Aim, ...]


class BareRate(Record):
    """Throughput of the bare predictor at one batch size."""

    batch: int
    per_second: float


class SaturationScenario(Record):
    """As much as the server can do, against as much as the bare predictor can."""

    subject: Subject
    connections: int
    bare_rates: tuple[BareRate, ...]
    best_batch: int
    bare: Interval
    """Rows per second at the best batch size, over the rounds."""
    server: Interval
    """Rows per second, over the rounds."""
    share: Interval
    """server / bare, paired by round."""
    aims: tuple[Aim, ...]


class LoadPoint(Record):
    """One offered load and what came of it."""

    shedding: bool
    factor: float
    """Offered load as a multiple of the capacity with all heads."""
    offered: float
    """Requests per second that were sent."""
    goodput: float
    """Replies 200 within the deadline, per second."""
    statuses: dict[int, int]
    """0: no reply."""
    answered: Latencies | None
    """Of replies 200."""
    refused: Latencies | None
    """Of replies 429."""
    mean_heads: float | None
    """Heads that voted, mean over the rows that were predicted."""


class Memory(Record):
    """Resident memory of the server during a long overload."""

    seconds: Seconds
    start_bytes: int
    end_bytes: int
    slope_bytes_per_second: float
    """Median of the slopes between all pairs of samples (Theil 1950, Sen 1968)."""
    growth: float
    """slope * seconds / start."""


class OverloadScenario(Record):
    """More load than can be answered."""

    subject: Subject
    deadline_seconds: Seconds
    capacity: float
    """Rows per second of the bare predictor with all heads, at its best batch size."""
    cost_ratio: float
    """Cost of a row with all heads by that with one, of the bare predictor."""
    points: tuple[LoadPoint, ...]
    memory: Memory
    normal_p50: Seconds
    """Median latency at the load to which the overload drops, before it."""
    recovery_seconds: float | None
    """From the drop until the median latency was normal again; None: it was not by the end."""
    aims: tuple[Aim, ...]


class IntegrityScenario(Record):
    """Mixed requests with faults: whether each gets its own answer, once."""

    environment: Environment
    engines: dict[str, str]
    """By model."""
    engine_workers: int
    requests: int
    seconds: Seconds
    inputs: int
    """Different inputs, every two of which have answers that the check tells apart."""
    kinds: dict[str, int]
    """Requests by protocol and form."""
    statuses: dict[str, int]
    """Replies by status, with the code of errors."""
    rows_checked: int
    faults: dict[str, int]
    """Faults that were injected, by kind."""
    lost: int
    """Requests whose client waited and that got no reply."""
    doubled: int
    """Bytes that belonged to no reply that was due."""
    wrong: int
    """Replies 200 with another answer than the precomputed one."""
    unexplained: int
    """Error replies without a reason: neither a fault, nor load, nor a short timeout."""
    problems: tuple[str, ...]
    """The first few of them."""
    largest_difference: float
    """Of any probability from the precomputed one."""
    aims: tuple[Aim, ...]


class ServingResults(Record):
    """Runs of serving.py; a run replaces the scenarios that it measured."""

    benchmark: Literal["serving"] = "serving"
    smoke: bool
    """True: runs that only show that the benchmark works; their numbers mean nothing."""
    notes: tuple[str, ...] = NOTES
    latency: LatencyScenario | None = None
    saturation: SaturationScenario | None = None
    overload: OverloadScenario | None = None
    integrity: IntegrityScenario | None = None

    @property
    def aims(self) -> tuple[Aim, ...]:
        """All aims, in the order of the scenarios."""
        scenarios = (self.latency, self.saturation, self.overload, self.integrity)
        return tuple(aim for scenario in scenarios if scenario is not None for aim in scenario.aims)
