"""Scenario `overload` of serving.py: goodput, refusals, memory and recovery at more load than can be answered.

Every offered load is a multiple of the capacity, which is what the bare predictor reaches with all heads.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serving_bare import BarePredictor
from serving_load import Sample, arrivals, heads_used, open_loop, statuses, tapered_rate
from serving_machine import ServerProcess, ServingBenchmarkError
from serving_results import Aim, Latencies, LoadPoint, Memory, OverloadScenario
from serving_setup import SEED, Run, live_images, posts, require_same_engine
from serving_speed import best_rate

NORMAL = 0.4
"""Load before and after the overload."""
OVERLOAD = 3.0
STEPS = (NORMAL, 0.8, 1.0, 1.5)
"""Loads without shedding, besides the overload."""
SHEDDING_STEPS = (0.8, 1.5, 2.0, OVERLOAD)
DEADLINE_BATCHES = 3
"""The deadline of all requests: so many times what the largest batch takes with all heads. What waits when the load
drops, which is as much as the deadline allows, must be computed before the latency is normal again."""

GOODPUT = 0.9
"""Aim: least part of the peak goodput under overload; with shedding, of the peak times the ratio of costs."""
REFUSAL_SECONDS = 0.05
"""Aim: most that half of the refusals may take."""
GROWTH = 0.02
"""Aim: most by which resident memory may grow during the overload, as a part of it."""
RECOVERY_SECONDS = 5.0
"""Aim: most until the latency is normal again."""
BIN_SECONDS = 1.0
NORMAL_FACTOR = 1.5
"""Latency is normal again when two medians of BIN_SECONDS in turn are below the normal one times this."""
MEMORY_INTERVAL_SECONDS = 0.25


def measure_overload(run: Run) -> OverloadScenario:
    """Offer more and more load to a server that sheds nothing, then to one that may shed all heads but one."""
    plan, models = run.plan, run.live_models()
    images = live_images(plan)
    run.show(f"overload: loading {plan.live}")
    with BarePredictor(models / plan.live, run.engine, cpu=run.cores.server, batch_sizes=plan.batch_sizes) as bare:
        best = best_rate(bare, images, plan.batch_sizes, None)
        one_head = best_rate(bare, images, plan.batch_sizes, 1)
        largest = max(plan.batch_sizes)
        batch_seconds = float(np.median(bare.measure(images, batch=largest, calls=3)))
    capacity = min(best.per_second, plan.most_per_second)
    deadline = max(0.2, math.ceil(10 * DEADLINE_BATCHES * batch_seconds) / 10)
    load = _Load(run, posts(images, f"?timeout_ms={1000 * deadline:g}", "image/jpeg"), capacity, deadline)
    with _server(run) as server:
        require_same_engine(server, bare.info)
        steps = [load.point(server, factor, shedding=False) for factor in STEPS]
        overload, memory, after = load.overload(server)
    with _server(run, min_heads=1) as server:
        shed = [load.point(server, factor, shedding=True) for factor in SHEDDING_STEPS]
    points = [*steps, overload]
    normal = steps[STEPS.index(NORMAL)].answered
    if normal is None:
        raise ServingBenchmarkError(f"The server answered nothing at {NORMAL:g} times its capacity.")
    recovery = recovery_seconds(after, normal.p50, plan.recovery_seconds)
    ratio = one_head.per_second / best.per_second
    return OverloadScenario(
        subject=run.subject(plan.live, bare.info),
        deadline_seconds=deadline,
        capacity=capacity,
        cost_ratio=ratio,
        points=(*points, *shed),
        memory=memory,
        normal_p50=normal.p50,
        recovery_seconds=recovery,
        aims=_aims(plan.live, points, shed, memory, recovery, ratio),
    )


def _server(run: Run, **settings: int) -> ServerProcess:
    return ServerProcess(
        run.live_models(), cpus=(run.cores.server,), log=run.log, engine=run.engine, batch_sizes=run.plan.batch_sizes,
        **settings,
    )  # fmt: skip


def _aims(
    network: str,
    points: Sequence[LoadPoint],
    shed: Sequence[LoadPoint],
    memory: Memory,
    recovery: float | None,
    ratio: float,
) -> tuple[Aim, ...]:
    overload = points[-1]
    peak = max(point.goodput for point in points)
    if not peak:
        raise ServingBenchmarkError(f"The server answered no request of {network} in time, whatever the load.")
    at = f"{network}, {OVERLOAD:g} x capacity"
    refused = None if overload.refused is None else overload.refused.p50
    drop = f"from {OVERLOAD:g} x to {NORMAL:g} x capacity"
    shedding = f"shedding down to 1 head: goodput, of its peak without shedding times the ratio of costs ({ratio:.2f})"
    return (
        Aim.at_least(GOODPUT, f"{at}: goodput, of its peak", overload.goodput / peak),
        Aim.no_more_than(REFUSAL_SECONDS, f"{at}: median time of a refusal", refused, unit="s"),
        Aim.no_more_than(GROWTH, f"{at}: growth of resident memory in {memory.seconds:.0f} s", memory.growth),
        Aim.no_more_than(
            RECOVERY_SECONDS, f"{network}, {drop}: time until the median latency is normal", recovery, unit="s"
        ),
        Aim.at_least(GOODPUT, f"{at}, {shedding}", shed[-1].goodput / peak / ratio),
    )


@dataclass(frozen=True)
class _Load:
    """Requests with a deadline, offered at multiples of a capacity."""

    run: Run
    requests: list[bytes]
    capacity: float
    deadline: float

    def point(self, server: ServerProcess, factor: float, *, shedding: bool) -> LoadPoint:
        """Offer one load for a while."""
        self.run.show(f"overload: {factor:g} x capacity{', shedding' if shedding else ''}")
        end = self.run.plan.settle_seconds + self.run.plan.point_seconds
        generator = np.random.default_rng((SEED, round(100 * factor)))
        due = arrivals(factor * self.capacity, end, generator)
        samples = asyncio.run(open_loop(server.port, self.requests, due))
        return self._judge(samples, factor, end, shedding=shedding)

    def overload(self, server: ServerProcess) -> tuple[LoadPoint, Memory, list[Sample]]:
        """Offer far too much for long, then little; returns what came of it, and the samples after the drop.

        The times of these samples are seconds since the drop.
        """
        plan = self.run.plan
        self.run.show(f"overload: {OVERLOAD:g} x capacity, then {NORMAL:g} x")
        end = plan.settle_seconds + plan.overload_seconds
        generator = np.random.default_rng((SEED, round(100 * OVERLOAD)))
        due = arrivals(OVERLOAD * self.capacity, end, generator)
        later = arrivals(NORMAL * self.capacity, plan.recovery_seconds, generator)
        sizes: list[tuple[float, int]] = []

        async def offer() -> list[Sample]:
            watch = asyncio.create_task(_watch(server.resident_bytes, sizes, end))
            samples = await open_loop(server.port, self.requests, [*due, *(end + second for second in later)])
            await watch
            return samples

        samples = asyncio.run(offer())
        during = [sample for sample in samples if sample.due < end]
        after = [
            Sample(sample.due - end, sample.finished - end, sample.reply) for sample in samples if sample.due >= end
        ]
        memory = memory_growth([size for size in sizes if size[0] >= plan.settle_seconds])
        return self._judge(during, OVERLOAD, end, shedding=False), memory, after

    def _judge(self, samples: Sequence[Sample], factor: float, end: float, *, shedding: bool) -> LoadPoint:
        """Goodput after things have settled, and the latencies of requests that were due then."""
        begin = self.run.plan.settle_seconds
        answered = [sample for sample in samples if sample.reply.status == 200]
        good = [sample.finished for sample in answered if sample.seconds <= self.deadline]
        settled = [sample for sample in samples if sample.due >= begin]
        used = heads_used(settled)
        return LoadPoint(
            shedding=shedding,
            factor=factor,
            offered=len(samples) / end,
            goodput=tapered_rate(good, begin, end),
            statuses=statuses(samples),
            answered=Latencies.of([sample.seconds for sample in settled if sample.reply.status == 200]),
            refused=Latencies.of([sample.seconds for sample in settled if sample.reply.status == 429]),
            mean_heads=float(np.mean(used)) if used else None,
        )


async def _watch(resident: Callable[[], int], sizes: list[tuple[float, int]], end: float) -> None:
    """Note the resident bytes at some times until `end`."""
    started = time.perf_counter()
    while (now := time.perf_counter() - started) < end:
        sizes.append((now, resident()))
        await asyncio.sleep(MEMORY_INTERVAL_SECONDS)


def memory_growth(sizes: Sequence[tuple[float, int]]) -> Memory:
    """Slope of (seconds, bytes), which a few odd samples do not move. Raises ValueError for fewer than 2."""
    if len(sizes) < 2:
        raise ValueError(f"a slope needs at least 2 samples, not {len(sizes)}")
    slopes = [(after - before) / (late - early) for (early, before), (late, after) in itertools.combinations(sizes, 2)]
    slope = float(np.median(slopes))
    (begin, start), (end, last) = sizes[0], sizes[-1]
    seconds = end - begin
    return Memory(
        seconds=seconds, start_bytes=start, end_bytes=last, slope_bytes_per_second=slope,
        growth=slope * seconds / start,
    )  # fmt: skip


def recovery_seconds(samples: Sequence[Sample], normal_p50: float, seconds: float) -> float | None:
    """When requests that came after a drop of the load were all answered in normal time again; None: never."""
    normal = [
        bool(these) and all(sample.reply.status == 200 for sample in these)
        and float(np.median([sample.seconds for sample in these])) <= NORMAL_FACTOR * normal_p50
        for start in np.arange(0, seconds, BIN_SECONDS)
        for these in [[sample for sample in samples if start <= sample.due < start + BIN_SECONDS]]
    ]  # fmt: skip
    for number, (one, following) in enumerate(itertools.pairwise(normal)):
        if one and following:
            return float(number * BIN_SECONDS)
    return None
