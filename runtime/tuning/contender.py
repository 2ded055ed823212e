"""One process for each setup that is tried.

Engines keep threads that spin after a call, pools of threads that no other size can be given, and settings of the
processor: in one process they would disturb each other. And one that crashes or hangs takes nothing else with it.
"""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from runtime.artifact import Artifact
from runtime.costs import CostSurface, measure_costs, sample_inputs
from runtime.engines import engine_class
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import EngineError, NeurotrailsError
from runtime.parity import RULES, heads_parity
from runtime.preprocess import Batch
from runtime.tuning.records import Setup
from runtime.verify import at_length, read_reference
from runtime.vote import pool

VISIT_SECONDS = 0.05
"""A visit repeats short calls for about this long."""
SETTLE_SECONDS = 0.03
"""Wait before each visit: threads of engines were seen to spin 10 to 30 ms after a call."""
LONG_CALL_SECONDS = 0.25
"""From here on a call is so long that a cold start no longer matters: it needs no warm-up."""
LOAD_TIMEOUT_SECONDS = 600.0
ANSWER_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Loaded:
    """What a setup says of itself once it is loaded."""

    version: str
    agreement: float
    """Share of the reference inputs that get the same label as from the original network."""


@dataclass(frozen=True)
class Visit:
    """Calls that were made in one go, with as many at a time as the setup has streams."""

    seconds: tuple[float, ...]
    """Of each call."""
    rows_per_second: float


class Contender:
    """The parent's end of the process of one setup. Every failure of the process is an EngineError that says why."""

    def __init__(self, setup: Setup, folder: Path, batch_sizes: tuple[int, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # forked threads and locks would be in an undefined state
        self.setup = setup
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setup, folder, batch_sizes), daemon=True)
        self._process.start()
        theirs.close()

    def load(self, lengths: tuple[int, ...] | None) -> Loaded:
        """Load the artifact, for texts of these lengths (None: all), and compare its logits with the reference.

        Raises EngineError where the engine cannot, or where its logits are not those of the artifact.
        """
        loaded: Loaded = self._ask(LOAD_TIMEOUT_SECONDS, "load", lengths)
        return loaded

    def visit(self, rows: int) -> Visit:
        """Make some calls with batches of `rows`, all heads."""
        visit: Visit = self._ask(ANSWER_TIMEOUT_SECONDS, "visit", rows)
        return visit

    def costs(self, budget_seconds: float) -> tuple[CostSurface, ...]:
        """Measure the trunk and each head, for each token length that was loaded (images: once)."""
        costs: tuple[CostSurface, ...] = self._ask(ANSWER_TIMEOUT_SECONDS + budget_seconds, "costs", budget_seconds)
        return costs

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _ask(self, timeout_seconds: float, request: str, *arguments: Any) -> Any:
        try:
            self._connection.send((request, arguments))
            if not self._connection.poll(timeout_seconds):
                raise EngineError(f"no answer to {request!r} within {timeout_seconds:.0f} s")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=10)
            raise EngineError(f"its process ended during {request!r} (exit {self._process.exitcode})") from error
        if isinstance(answer, _Failure):
            raise EngineError(answer.message)
        return answer


@dataclass(frozen=True)
class _Failure:
    message: str


def _serve(connection: Connection, setup: Setup, folder: Path, batch_sizes: tuple[int, ...]) -> None:
    """Answer requests until the parent closes the pipe."""
    runner = _Runner(setup, folder, batch_sizes)
    while True:
        try:
            request, arguments = connection.recv()
            connection.send(getattr(runner, request)(*arguments))
        except (EOFError, OSError, KeyboardInterrupt):
            return
        except NeurotrailsError as error:
            connection.send(_Failure(str(error)))
        except Exception as error:  # engines raise errors of many kinds; all are reported
            connection.send(_Failure(f"{type(error).__name__}: {error}"))


class _Runner:
    """The engine's end: loads and calls it."""

    def __init__(self, setup: Setup, folder: Path, batch_sizes: tuple[int, ...]) -> None:
        self._setup, self._folder, self._batch_sizes = setup, folder, batch_sizes
        self._threads = ThreadPoolExecutor(setup.streams)
        self._engine: Engine | None = None
        self._inputs: dict[int, Batch] = {}
        self._short: dict[int, bool] = {}

    def load(self, lengths: tuple[int, ...] | None) -> Loaded:
        setup = self._setup
        options = EngineOptions(
            cores=setup.cores,
            precision=setup.precision,
            batch_sizes=self._batch_sizes,
            lengths=lengths,
            streams=setup.streams,
        )
        self._engine = engine_class(setup.engine)(Artifact.open(self._folder), options)
        return Loaded(self._engine.version, _agreement(self._engine))

    def visit(self, rows: int) -> Visit:
        if rows not in self._inputs:
            self._prime(rows)
        time.sleep(SETTLE_SECONDS)
        if self._short[rows]:
            self._together(rows, seconds=0.0)
        spans = self._together(rows, seconds=VISIT_SECONDS)
        elapsed = max(end for _, end in spans) - min(start for start, _ in spans)
        return Visit(tuple(end - start for start, end in spans), rows * len(spans) / elapsed)

    def costs(self, budget_seconds: float) -> tuple[CostSurface, ...]:
        engine = self._loaded()
        lengths = engine.lengths or (0,)
        return tuple(measure_costs(engine, budget_seconds=budget_seconds / len(lengths), tokens=n) for n in lengths)

    def _prime(self, rows: int) -> None:
        """Make the inputs of a batch and the first, cold call, which tells whether calls are short."""
        engine = self._loaded()
        self._inputs[rows] = sample_inputs(engine, rows, max(engine.lengths, default=0))
        [(start, end)] = self._calls(rows, seconds=0.0)
        self._short[rows] = end - start < LONG_CALL_SECONDS

    def _together(self, rows: int, seconds: float) -> list[tuple[float, float]]:
        """When each call began and ended, of as many threads as the engine can serve at a time."""
        lists = self._threads.map(lambda _: self._calls(rows, seconds), range(self._loaded().concurrency))
        return list(chain.from_iterable(lists))

    def _calls(self, rows: int, seconds: float) -> list[tuple[float, float]]:
        """Call again and again until so many seconds have passed; at least once."""
        engine, inputs = self._loaded(), self._inputs[rows]
        heads = len(engine.artifact.manifest.heads)
        spans: list[tuple[float, float]] = []
        end = began = time.perf_counter()
        while not spans or end - began < seconds:
            start = time.perf_counter()
            engine.logits(inputs, heads)
            end = time.perf_counter()
            spans.append((start, end))
        return spans

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise EngineError("nothing is loaded yet")
        return self._engine


def _agreement(engine: Engine) -> float:
    """Share of the reference inputs whose vote names the same label as that of the original network.

    Raises EngineError where the logits break the parity rule of the precision.
    """
    manifest = engine.artifact.manifest
    inputs, expected = read_reference(engine.artifact)
    if engine.lengths:
        inputs, rows = at_length(engine.artifact, inputs, max(engine.lengths))
        expected = [logits[rows] for logits in expected]
    if engine.precision in RULES:
        for index, parity in heads_parity(engine, inputs, expected):
            if not parity.holds:
                raise EngineError(
                    f"head {index} gives other logits than it should: off by {parity.worst:.3g} where "
                    f"{parity.allowed:.3g} is allowed"
                )
    found = engine.logits(inputs, len(manifest.heads))
    votes = [pool(np.stack(logits), manifest.vote).argmax(axis=-1) for logits in (expected, found)]
    return float((votes[0] == votes[1]).mean())
