"""Scenarios `latency` and `saturation` of serving.py: what HTTP and the server cost beside the bare predictor."""

import asyncio
import math
import time

import numpy as np

from intervals import estimate
from latency_results import Interval
from serving_bare import BarePredictor
from serving_client import Connection
from serving_load import closed_loop, tapered_rate
from serving_machine import ServerProcess, ServingBenchmarkError
from serving_results import Aim, BareRate, Latencies, LatencyScenario, SaturationScenario
from serving_setup import SEED, Run, example_images, live_images, posts, require_same_engine

ADDED_SECONDS = 1.5e-3
"""Aim: most that the server may add to a single request."""
SHARE = 0.9
"""Aim: least part of the bare predictor's throughput."""
WARM_UPS = 10
SWEEP_SECONDS = 1.5
"""Time for each batch size when the best one is looked for; at least 3 calls."""


def measure_latency(run: Run) -> LatencyScenario:
    """Ask for fashion-mnist images one by one over HTTP, and predict them with the bare predictor, in turns."""
    plan, artifact = run.plan, run.models / "fashion-mnist"
    images = example_images()
    requests = posts(images, "", "image/png")
    generator = np.random.default_rng(SEED)
    bare_rounds: list[list[float]] = []
    http_rounds: list[list[float]] = []
    run.show("latency: loading fashion-mnist")
    with (
        BarePredictor(artifact, run.engine, cpu=run.cores.server, batch_sizes=plan.batch_sizes) as bare,
        ServerProcess(
            run.folder_with(artifact), cpus=(run.cores.server,), log=run.log, engine=run.engine,
            batch_sizes=plan.batch_sizes,
        ) as server,
    ):  # fmt: skip
        require_same_engine(server, bare.info)
        run.show("latency: measuring")
        for _ in range(plan.latency_rounds + 1):  # the first round warms up
            for subject in generator.permutation(2):
                if subject:
                    bare.measure(images, batch=1, calls=WARM_UPS)
                    bare_rounds.append(bare.measure(images, batch=1, calls=plan.latency_calls))
                else:
                    http_rounds.append(asyncio.run(_one_by_one(server.port, requests, plan.latency_calls)))
    bare_rounds, http_rounds = bare_rounds[1:], http_rounds[1:]
    added = estimate(np.median(http_rounds, axis=1) - np.median(bare_rounds, axis=1))
    http, alone = Latencies.of(np.ravel(http_rounds).tolist()), Latencies.of(np.ravel(bare_rounds).tolist())
    assert http is not None
    assert alone is not None
    return LatencyScenario(
        subject=run.subject("fashion-mnist", bare.info),
        rounds=plan.latency_rounds,
        bare=alone,
        http=http,
        added=Interval.of(added),
        aims=(
            Aim.no_more_than(
                ADDED_SECONDS,
                "fashion-mnist, one request at a time: p50 over HTTP minus p50 of the bare predictor",
                added.median,
                unit="s",
            ),
        ),
    )


async def _one_by_one(port: int, requests: list[bytes], calls: int) -> list[float]:
    """Seconds of requests on one connection, each sent when the one before is answered."""
    connection = await Connection.open(port)
    seconds = []
    for call in range(WARM_UPS + calls):
        started = time.perf_counter()
        reply = await connection.ask(requests[call % len(requests)])
        seconds.append(time.perf_counter() - started)
        if reply.status != 200:
            raise ServingBenchmarkError(f"A request to an idle server got status {reply.status}: {reply.body[:200]!r}")
    connection.close()
    return seconds[WARM_UPS:]


def best_rate(bare: BarePredictor, images: list[bytes], sizes: tuple[int, ...], heads: int | None) -> BareRate:
    """Throughput of the bare predictor at the batch size where it is best."""
    return max(bare_rates(bare, images, sizes, heads), key=lambda rate: rate.per_second)


def bare_rates(
    bare: BarePredictor, images: list[bytes], sizes: tuple[int, ...], heads: int | None
) -> tuple[BareRate, ...]:
    """Throughput of the bare predictor at each batch size."""
    rates = []
    for batch in sizes:
        [first] = bare.measure(images, batch=batch, calls=1, heads=heads)
        calls = max(3, min(200, math.ceil(SWEEP_SECONDS / first)))
        seconds = bare.measure(images, batch=batch, calls=calls, heads=heads)
        rates.append(BareRate(batch=batch, per_second=batch * calls / sum(seconds)))
    return tuple(rates)


def measure_saturation(run: Run) -> SaturationScenario:
    """Serve the live network at as many connections as keep it busy, in turns with the bare predictor."""
    plan, models = run.plan, run.live_models()
    images = live_images(plan)
    requests = posts(images, "", "image/jpeg")
    connections = 3 * max(plan.batch_sizes)
    bare_rounds: list[float] = []
    server_rounds: list[float] = []
    run.show(f"saturation: loading {plan.live}")
    with (
        BarePredictor(
            models / plan.live, run.engine, cpu=run.cores.server, batch_sizes=plan.batch_sizes
        ) as bare,
        ServerProcess(
            models, cpus=(run.cores.server,), log=run.log, engine=run.engine, batch_sizes=plan.batch_sizes
        ) as server,
    ):  # fmt: skip
        require_same_engine(server, bare.info)
        run.show("saturation: looking for the best batch size")
        rates = bare_rates(bare, images, plan.batch_sizes, None)
        best = max(rates, key=lambda rate: rate.per_second)
        calls = max(2, math.ceil(plan.saturation_seconds * best.per_second / best.batch))
        for number in range(plan.saturation_rounds):
            run.show(f"saturation: round {number + 1} of {plan.saturation_rounds}")
            seconds = bare.measure(images, batch=best.batch, calls=calls)
            bare_rounds.append(best.batch * calls / sum(seconds))
            server_rounds.append(_saturate(server.port, requests, connections, plan.saturation_seconds))
    share = estimate(np.divide(server_rounds, bare_rounds))
    return SaturationScenario(
        subject=run.subject(plan.live, bare.info),
        connections=connections,
        bare_rates=rates,
        best_batch=best.batch,
        bare=Interval.of(estimate(bare_rounds)),
        server=Interval.of(estimate(server_rounds)),
        share=Interval.of(share),
        aims=(
            Aim.at_least(SHARE, f"{plan.live}, saturated: part of the bare predictor's best throughput", share.median),
        ),
    )


def _saturate(port: int, requests: list[bytes], connections: int, seconds: float) -> float:
    """Rows per second while all connections are busy."""
    samples = asyncio.run(closed_loop(port, requests, connections=connections, seconds=seconds))
    bad = [sample.reply for sample in samples if sample.reply.status != 200]
    if bad:
        raise ServingBenchmarkError(f"A saturated server replied {bad[0].status}: {bad[0].body[:200]!r}")
    full = samples[min(connections, len(samples) - 1)].finished  # until then, lines were filling up
    return tapered_rate([sample.finished for sample in samples], full, seconds)
