"""Scenario `integrity` of serving.py: mixed requests and faults; every request gets its own answer, exactly once.

Both shipped models are served with shedding, each on engines in two worker processes. No time is measured here.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from environment import Environment
from serving_answers import Finding, check_reply
from serving_client import Pool
from serving_expected import Expected, shipped_answers
from serving_faults import DAWDLES, LEAVES, STUCK_SECONDS, WorkerFaults, dawdle, leave
from serving_machine import ServerProcess
from serving_requests import Case, draw_case
from serving_results import Aim, IntegrityScenario
from serving_setup import SEED, Run

WORKERS = 2
"""Processes of each model."""
CONNECTIONS = 48
WAITING_ROWS = 100
"""Most rows of a model that may wait, few enough that some requests are refused."""
LATENCY_TARGET_SECONDS = 0.1
"""So short that heads are shed now and then."""
CANDIDATES = 240
BATCH_SIZES = (1, 4)
FAULTS = ("kill", "kill", "stop")
"""In turn, every so many requests."""
MOST_FAULTS = 12
REQUESTS_PER_FAULT = 250
"""At least so many requests for each fault: a short run has fewer of them."""
SHOWN_PROBLEMS = 10
LEFT_OUT = ("version switches: this server loads its models once, at start-up",)


@dataclass
class Tally:
    """What has come of the requests so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    largest_difference: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def finished(self) -> int:
        """Requests that are over."""
        return self.verdicts.total()

    def add(self, case: Case, finding: Finding) -> None:
        """Note what came of one request."""
        self.codes[finding.code] += 1
        self.verdicts[finding.verdict] += 1
        self.rows += finding.rows
        self.largest_difference = max(self.largest_difference, finding.largest_difference)
        if finding.verdict in ("lost", "wrong", "unexplained") and len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(f"{case.identity} ({case.kind}): {finding.problem}")


def measure_integrity(run: Run) -> IntegrityScenario:
    """Send the mixed requests, with faults, and check every reply."""
    run.show("integrity: predicting all inputs with the bare predictor")
    expected = shipped_answers(
        run.models, run.engine, cpu=run.cores.server, batch_sizes=(1,), count=CANDIDATES, seed=SEED
    )
    run.show("integrity: loading both shipped models in worker processes")
    with ServerProcess(
        run.models, cpus=(run.cores.server, run.cores.load), log=run.log, engine=run.engine,
        batch_sizes=BATCH_SIZES, engine_workers=WORKERS, engine_timeout_seconds=STUCK_SECONDS, min_heads=1,
        latency_target_seconds=LATENCY_TARGET_SECONDS, max_waiting_rows=WAITING_ROWS, max_inputs=8,
    ) as server:  # fmt: skip
        engines = {model["name"]: model["engine"] for model in server.get("/models")[1]["models"]}
        started = time.perf_counter()
        mix = Mix(run, server, expected)
        asyncio.run(mix.send(run.plan.requests))
    return summary(
        run.environment, engines, mix.tally, mix.doubled, sum(len(each.inputs) for each in expected),
        time.perf_counter() - started,
    )  # fmt: skip


class Mix:
    """Clients that send mixed requests to one server, and the faults."""

    def __init__(self, run: Run, server: ServerProcess, expected: Sequence[Expected]) -> None:
        self.tally = Tally()
        self.doubled = 0
        self._run = run
        self._server = server
        self._expected = expected
        self._begun = 0
        self._requests = 0
        self._worker_faults = WorkerFaults(server, len(expected) * WORKERS)

    async def send(self, requests: int) -> None:
        """Send so many requests over all connections, and return when each has had its reply or lost its client."""
        self._requests = requests
        pool = Pool(self._server.port)
        faults = asyncio.create_task(self._inject())
        await asyncio.gather(*(self._client(pool, number) for number in range(CONNECTIONS)))
        await faults
        pool.close()
        self.doubled = pool.stray_bytes
        self.tally.faults += self._worker_faults.done

    async def _client(self, pool: Pool, number: int) -> None:
        generator = np.random.default_rng((SEED, number))
        while self._begun < self._requests:
            self._begun += 1
            case = draw_case(self._expected, generator, f"{os.getpid()}-{self._begun}")
            self.tally.kinds[case.kind] += 1
            await self._one(pool, case, generator)
            if not self.tally.finished % 5000:
                self._run.show(f"integrity: {self.tally.finished} of {self._requests} requests")

    async def _one(self, pool: Pool, case: Case, generator: np.random.Generator) -> None:
        fault = generator.random()
        connection = await pool.take()
        sent = time.perf_counter()
        if fault < LEAVES:
            await leave(connection, case, generator)
            pool.give(connection)
            self.tally.faults["clients that left"] += 1
            self.tally.add(case, Finding("right", "client left"))
            return
        if fault < LEAVES + DAWDLES:
            self.tally.faults["slow clients"] += 1
            reply = await dawdle(connection, case, generator)
        else:
            reply = await connection.ask(case.request)
        pool.give(connection)
        finding = check_reply(case, reply)
        if case.is_poisoned and reply.status == 500:
            self.tally.faults["engine exceptions"] += 1
        if finding.verdict == "failed" and not self._worker_faults.explain(sent, time.perf_counter()):
            finding.verdict = "unexplained"
        self.tally.add(case, finding)

    async def _inject(self) -> None:
        """Kill and stop workers, spread evenly over the requests."""
        count = max(len(FAULTS), min(MOST_FAULTS, self._requests // REQUESTS_PER_FAULT))
        for number in range(count):
            while self.tally.finished < (number + 1) * self._requests / (count + 1):
                await asyncio.sleep(0.02)
            await self._worker_faults.inject(FAULTS[number % len(FAULTS)])


def summary(
    environment: Environment, engines: dict[str, str], tally: Tally, doubled: int, inputs: int, seconds: float
) -> IntegrityScenario:
    """Make the record of a run."""
    counts = {kind: tally.verdicts[kind] for kind in ("lost", "wrong", "unexplained")}
    what = "requests without an answer", "answers of another request, or wrong ones", "errors without a reason"
    return IntegrityScenario(
        environment=environment,
        engines=engines,
        engine_workers=WORKERS,
        requests=tally.finished,
        seconds=seconds,
        inputs=inputs,
        kinds=dict(sorted(tally.kinds.items())),
        statuses=dict(sorted(tally.codes.items())),
        rows_checked=tally.rows,
        faults=dict(sorted(tally.faults.items())),
        left_out=LEFT_OUT,
        doubled=doubled,
        problems=tuple(tally.problems),
        largest_difference=tally.largest_difference,
        aims=(
            *(
                Aim.no_more_than(0, f"{tally.finished} mixed requests: {name}", counts[kind])
                for kind, name in zip(counts, what, strict=True)
            ),
            Aim.no_more_than(0, f"{tally.finished} mixed requests: bytes of a second reply", doubled),
        ),
        **counts,
    )
