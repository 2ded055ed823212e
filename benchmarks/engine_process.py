"""One process per engine: engines keep threads that spin after a call and would disturb each other in one process.

    with EngineProcess("onnxruntime", cores=2) as engine:
        engine.load("resnet50/sparse", folder, batch_sizes=(1, 16), tokens=None)
        engine.prime("resnet50/sparse", batch=1, heads=3)
        seconds = engine.measure("resnet50/sparse", batch=1, heads=3)

The parent asks for one thing at a time, so that subjects interleave across engines and never run at once.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from runtime.artifact import Artifact
from runtime.engines import engine_class, load_engine
from runtime.engines.base import EngineInfo, EngineOptions
from runtime.errors import EngineError, NeurotrailsError
from runtime.manifest import TextPreprocessing
from runtime.predictor import Predictor, Wish
from runtime.preprocess import Batch
from runtime.resident import resident_bytes

VISIT_SECONDS = 0.05
"""A visit repeats short calls for about this long."""
MAX_CALLS = 50
LONG_CALL_SECONDS = 0.25
"""From here on a call is so long that a cold start no longer matters: it needs no warm-up and is made once."""


SETTLE_SECONDS = 0.03
"""Wait before each visit: threads of both ONNX Runtime and DeepSparse were seen to spin 10 to 30 ms after a call."""


@dataclass(frozen=True)
class Loaded:
    """What loading an artifact took."""

    info: EngineInfo
    seconds: float
    """From the artifact's folder to an engine that answers: reading, checking, compiling, warming up; no imports."""
    rss_bytes: int | None
    """Growth of the resident memory of the process, where the system tells."""


@dataclass(frozen=True)
class VisitPlan:
    """How a subject is visited in each round; fixed before the first round, so that it favours no fast or slow call."""

    warmups: int
    calls: int


def plan_visit(seconds: float) -> VisitPlan:
    """Plan visits to a subject whose warm call takes `seconds`."""
    if seconds >= LONG_CALL_SECONDS:
        return VisitPlan(warmups=0, calls=1)
    return VisitPlan(warmups=1, calls=min(MAX_CALLS, max(1, round(VISIT_SECONDS / max(seconds, 1e-9)))))


class EngineProcess:
    """The parent's end. Every call blocks until the engine's process has answered; a context manager."""

    def __init__(
        self, engine: str, *, cores: int, cache: Path | None = None, setup: Callable[[], None] | None = None
    ) -> None:
        """Start the process, which first calls `setup`, if any: something that can be pickled.

        `cache`: folder for what engines keep between processes; None: that of the user.
        """
        context = multiprocessing.get_context("spawn")  # forked threads and locks would be in an undefined state
        self.engine = engine
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, engine, cores, cache, setup), daemon=True)
        self._process.start()
        theirs.close()

    def load(
        self,
        key: str,
        folder: Path,
        *,
        batch_sizes: tuple[int, ...],
        tokens: int | None,
        precision: str | None = None,
    ) -> Loaded:
        """Load an artifact under `key`, compiled for the batch sizes and, for text, one token length.

        `precision` is what the engine computes in; None: what the artifact is stored in. Raises NeurotrailsError when
        the engine cannot.
        """
        loaded: Loaded = self._ask("load", key, folder, batch_sizes, tokens, precision)
        return loaded

    def prime(self, key: str, *, batch: int, heads: int) -> VisitPlan:
        """Make the first, uncounted calls of a subject and fix how it will be visited."""
        plan: VisitPlan = self._ask("prime", key, batch, heads)
        return plan

    def measure(self, key: str, *, batch: int, heads: int) -> list[float]:
        """Visit a subject that was primed: seconds of each counted call."""
        seconds: list[float] = self._ask("measure", key, batch, heads)
        return seconds

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()  # the process ends when it reads the end of the pipe
        self._process.join(timeout=10)
        if self._process.is_alive():
            self.kill()
        self._process.close()

    def _ask(self, request: str, *arguments: Any) -> Any:
        try:
            self._connection.send((request, arguments))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=10)
            raise EngineError(
                f"The process of {self.engine} ended during {request} of {arguments[0]} "
                f"(exit {self._process.exitcode}). "
                "Leave this engine out with --engines, or give the machine more memory."
            ) from error
        if isinstance(answer, _Failure):
            raise EngineError(f"{self.engine}: {answer.message}")
        return answer


@dataclass(frozen=True)
class _Failure:
    message: str


def _serve(
    connection: Connection, engine: str, cores: int, cache: Path | None, setup: Callable[[], None] | None
) -> None:
    """Answer requests until the parent closes the pipe."""
    if engine == "onnxruntime":
        _compute_alone()
    if setup is not None:
        setup()
    if cache is not None:
        os.environ["NEUROTRAILS_CACHE"] = str(cache)
    loaded = _LoadedArtifacts(engine, cores)
    while True:
        try:
            request, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            connection.send(getattr(loaded, request)(*arguments))
        except KeyboardInterrupt:
            return
        except NeurotrailsError as error:
            connection.send(_Failure(str(error)))
        except Exception:
            connection.send(_Failure(traceback.format_exc()))


def _compute_alone() -> None:
    """Let ONNX Runtime's threads wait as is fastest on a machine of its own (engine_threads.py), which they have here.

    In a server, beside the event loop and other models, they sleep.
    """
    from runtime.engines.onnxruntime import OnnxRuntimeEngine, Threads

    OnnxRuntimeEngine.threads = Threads(shared=True, spinning="running")


class _LoadedArtifacts:
    """The engine's end: artifacts by key, their inputs by batch size, the plans of primed subjects."""

    def __init__(self, engine: str, cores: int) -> None:
        self.engine = engine
        self.cores = cores
        self._predictors: dict[str, Predictor] = {}
        self._inputs: dict[tuple[str, int], Batch] = {}
        self._plans: dict[tuple[str, int, int], VisitPlan] = {}

    def load(
        self, key: str, folder: Path, batch_sizes: tuple[int, ...], tokens: int | None, precision: str | None
    ) -> Loaded:
        engine_class(self.engine)
        before = resident_bytes()
        started = time.perf_counter()
        artifact = Artifact.open(folder)
        options = EngineOptions(
            cores=self.cores,
            precision=precision,
            batch_sizes=batch_sizes,
            lengths=None if tokens is None else (tokens,),
        )
        engine = load_engine(artifact, self.engine, options)
        seconds = time.perf_counter() - started
        after = resident_bytes()
        self._predictors[key] = Predictor(artifact, engine)
        for batch in batch_sizes:
            self._inputs[key, batch] = synthetic_batch(artifact, batch, tokens)
        return Loaded(engine.info(), seconds, None if before is None or after is None else after - before)

    def prime(self, key: str, batch: int, heads: int) -> VisitPlan:
        seconds = self._call(key, batch, heads)
        if seconds < LONG_CALL_SECONDS:  # the first call was cold, which matters only to short ones
            seconds = self._call(key, batch, heads)
        self._plans[key, batch, heads] = plan_visit(seconds)
        return self._plans[key, batch, heads]

    def measure(self, key: str, batch: int, heads: int) -> list[float]:
        plan = self._plans[key, batch, heads]
        time.sleep(SETTLE_SECONDS)
        for _ in range(plan.warmups):
            self._call(key, batch, heads)
        return [self._call(key, batch, heads) for _ in range(plan.calls)]

    def _call(self, key: str, batch: int, heads: int) -> float:
        predictor, inputs = self._predictors[key], self._inputs[key, batch]
        started = time.perf_counter()
        predictor.predict_batch(inputs, Wish(heads=heads))
        return time.perf_counter() - started


def synthetic_batch(artifact: Artifact, rows: int, tokens: int | None) -> Batch:
    """Preprocessed inputs: the artifact's reference images, or texts of exactly `tokens` of its reference tokens.

    Repeats the reference rows where there are fewer than `rows`.
    """
    reference = {
        name.removeprefix("input."): array for name, array in artifact.reference().items() if name.startswith("input.")
    }
    if isinstance(artifact.manifest.preprocessing, TextPreprocessing):
        ids = reference["input_ids"][reference["attention_mask"] == 1]
        filled = np.resize(ids, (rows, tokens or artifact.manifest.preprocessing.lengths[-1]))
        return {"input_ids": filled, "attention_mask": np.ones_like(filled)}
    return {name: array[np.arange(rows) % len(array)] for name, array in reference.items()}
