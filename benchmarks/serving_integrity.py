"""Scenario `integrity` of serving.py: mixed requests and faults; every request gets its own answer, exactly once.

Both shipped models are served with shedding, each on engines in two worker processes; of one there are two versions
that take turns. No time is measured here.
"""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from environment import Environment
from server.serving_file import Entry, write_serving
from serving_answers import Finding, check_reply
from serving_client import Pool
from serving_expected import Expected, shipped_answers, write_versions
from serving_faults import DAWDLES, LEAVES, STUCK_SECONDS, VersionSwitches, WorkerFaults, dawdle, leave
from serving_machine import ServerProcess
from serving_requests import MOST_ROWS, Case, draw_case
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
FAULTS = ("switch", "kill", "stop")
"""In turn, every so many requests."""
MOST_FAULTS = 15
REQUESTS_PER_FAULT = 500
"""At least so many requests for each fault: a short run has fewer of them."""
SHOWN_PROBLEMS = 10
SWITCHED = "fashion-mnist"
"""The model whose versions are switched."""
POLL_SECONDS = 0.2
"""Time between the server's looks at what it is to serve."""


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
    models, file = run.workspace / "versions", run.workspace / "serving.yaml"
    write_versions(run.models, models)
    expected = shipped_answers(models, run.engine, cpu=run.cores.server, count=CANDIDATES, seed=SEED)
    first = {each.name: Entry(version=next(iter(each.votes))) for each in expected}
    write_serving(file, first)
    run.show("integrity: loading both shipped models in worker processes")
    with ServerProcess(
        models, cpus=(run.cores.server, run.cores.load), log=run.log, serving_file=str(file), engine=run.engine,
        poll_seconds=POLL_SECONDS, batch_sizes=BATCH_SIZES, engine_workers=WORKERS,
        engine_timeout_seconds=STUCK_SECONDS, min_heads=1, latency_target_seconds=LATENCY_TARGET_SECONDS,
        max_waiting_rows=WAITING_ROWS, max_inputs=MOST_ROWS, log_requests=False,
    ) as server:  # fmt: skip
        engines = {model["name"]: model["engine"] for model in server.get("/models")[1]["models"]}
        started = time.perf_counter()
        versions = VersionSwitches(server, file, {each.name: tuple(each.votes) for each in expected})
        mix = Mix(run, server, expected, versions)
        asyncio.run(mix.send(run.plan.requests))
        seconds = time.perf_counter() - started
    return summary(
        run.environment, engines, mix.tally, mix.doubled, sum(len(each.inputs) for each in expected), seconds
    )


class Mix:
    """Clients that send mixed requests to one server, and the faults."""

    def __init__(
        self, run: Run, server: ServerProcess, expected: tuple[Expected, Expected], versions: VersionSwitches
    ) -> None:
        self.tally = Tally()
        self.doubled = 0
        """Bytes of replies that were not due."""
        self._run = run
        self._server = server
        self._expected = expected
        self._begun = 0
        self._requests = 0
        self._versions = versions
        self._worker_faults = WorkerFaults(server, len(expected) * WORKERS)
        self._all_faults = asyncio.Event()

    async def send(self, requests: int) -> None:
        """Send at least so many requests, until all faults have been; each gets its reply or loses its client."""
        self._requests = requests
        pool = Pool(self._server.port)
        faults = asyncio.create_task(self._inject())
        await asyncio.gather(*(self._client(pool, number) for number in range(CONNECTIONS)))
        await faults
        pool.close()
        self.doubled = pool.stray_bytes
        self.tally.faults += self._worker_faults.done
        self.tally.faults["version switches"] = self._versions.done

    async def _client(self, pool: Pool, number: int) -> None:
        generator = np.random.default_rng((SEED, number))
        while self._begun < self._requests or not self._all_faults.is_set():
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
        finished = time.perf_counter()
        if finding.verdict == "failed" and not self._worker_faults.explain(sent, finished):
            finding.verdict = "unexplained"
        if finding.version and not self._versions.allow(case.expected.name, finding.version, sent, finished):
            finding.verdict, finding.problem = "wrong", f"version {finding.version}, which is not served"
        self.tally.add(case, finding)

    async def _inject(self) -> None:
        """Switch versions, kill and stop workers, spread evenly over the requests."""
        count = max(len(FAULTS), min(MOST_FAULTS, self._requests // REQUESTS_PER_FAULT))
        try:
            for number in range(count):
                while self.tally.finished < (number + 1) * self._requests / (count + 1):
                    await asyncio.sleep(0.02)
                match FAULTS[number % len(FAULTS)]:
                    case "switch":
                        await self._versions.switch(SWITCHED)
                    case kind:
                        await self._worker_faults.inject(kind)
        finally:
            self._all_faults.set()


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
