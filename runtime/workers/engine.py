"""The engine in worker processes.

engine = load_workers(artifact, "native", EngineOptions(cores=4), workers=2)
engine.head(0, engine.trunk(inputs))
"""

import fcntl
import os
import sys
import time
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines.base import Engine, EngineInfo, EngineOptions, Features, Tensors
from runtime.errors import EngineError
from runtime.manifest import Stage
from runtime.workers.pool import Pool
from runtime.workers.process import Worker
from runtime.workers.slices import Slice, allowed_cpus, slices
from runtime.workers.wire import Call, Load, Ready

CALL_TIMEOUT_SECONDS = 60.0
LOAD_TIMEOUT_SECONDS = 600.0


def load_workers(
    artifact: Artifact,
    name: str,
    options: EngineOptions,
    *,
    workers: int,
    call_timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    load_timeout_seconds: float = LOAD_TIMEOUT_SECONDS,
) -> Engine:
    """Load `artifact` with engine `name` (or `auto`) in `workers` processes that share `options.cores` evenly.

    `options.streams` counts for each worker. A call that takes longer than `call_timeout_seconds` ends its worker.
    Raises EngineError, and what loading the engine in this process would raise.
    """
    return WorkerEngine(
        artifact,
        name,
        options,
        slices(options.cores, workers, allowed_cpus()),
        call_timeout_seconds=call_timeout_seconds,
        load_timeout_seconds=load_timeout_seconds,
    )


class _Lease:
    """Features that a worker keeps, until nothing here refers to them any more."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.number = worker.hold()
        weakref.finalize(self, worker.release, self.number).atexit = False


@dataclass(frozen=True)
class RemoteFeatures(Features):
    """Features that have stayed in the worker that made them."""

    tensors: Tensors = field(default_factory=dict, init=False)
    lease: _Lease
    count: int
    taken: tuple[int, ...] | None = None
    """Rows of what the trunk gave; None: all."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.count if self.taken is None else len(self.taken)

    def take(self, rows: NDArray[np.intp]) -> "RemoteFeatures":
        """Keep only `rows`, in that order."""
        taken = range(self.count) if self.taken is None else self.taken
        return replace(self, taken=tuple(taken[row] for row in rows.tolist()))


class WorkerEngine(Engine):
    """An engine in several processes. Each call runs in one of them, all heads of a prediction where its trunk ran.

    When a worker ends, its calls raise WorkerDied, and WorkerStuck where it was killed because of them; another one is
    started, and meanwhile the rest take the calls that wait. Nothing is tried twice: an input that breaks a worker
    would break the next one, too.
    """

    def __init__(
        self,
        artifact: Artifact,
        name: str,
        options: EngineOptions,
        parts: list[Slice],
        *,
        call_timeout_seconds: float,
        load_timeout_seconds: float,
    ) -> None:
        started = time.perf_counter()
        _require_linux()
        self.artifact = artifact
        self.options = options
        self._timeout_seconds = call_timeout_seconds
        self._constants = os.memfd_create("neurotrails-constants", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._pool = Pool(
            artifact.manifest.name, parts, lanes=options.streams, load_timeout_seconds=load_timeout_seconds
        )
        self._finalizer = weakref.finalize(self, _close, self._pool, self._constants)
        try:
            ready = self._open(name, len(parts))
        except BaseException:
            self.close()
            raise
        info = ready.info
        # Attributes of the class in other engines, where they are known before anything is loaded.
        self.name = info.name  # type: ignore[misc]
        self.one_program = ready.one_program  # type: ignore[misc]
        self.version, self.precision, self.notes = info.version, info.precision, info.notes
        self.batch_sizes = info.batch_sizes
        self._sizes, self._costs = ready.sizes, ready.costs
        self.compile_seconds, self.memory_bytes, self.coverage = info.compile_seconds, info.memory_bytes, info.coverage
        self._info = info
        self._concurrency = len(parts) * info.concurrency
        self.load_seconds = time.perf_counter() - started
        if len({part.cores for part in parts}) > 1:
            cores = ", ".join(str(part.cores) for part in parts)
            self.notes += (f"{options.cores} cores over {len(parts)} workers come out unevenly: {cores}",)

    def _open(self, name: str, workers: int) -> Ready:
        """Load the first worker alone: it says which engine `auto` is, and fills the constants that all share.

        Then the others side by side, as each has cores of its own.
        """
        load = Load(
            folder=str(self.artifact.folder.absolute()),
            sha256=self.artifact.sha256,
            engine=name,
            options=self.options,
            lanes=(),
            constants=self._constants,
            index=None,
        )
        first = self._pool.open([0], load)
        # No worker can change what the others compute with, whatever happens to it.
        fcntl.fcntl(self._constants, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        same = replace(self.options, precision=first.info.precision)  # `auto` may have had another one in mind
        rest = load.model_copy(update={"engine": first.info.name, "options": same, "index": first.index})
        self._pool.open(range(workers), rest)
        self._pool.keep()
        return first

    def trunk(self, inputs: Tensors) -> Features:
        """As in the base class; the features stay in the worker."""
        with self._pool.lane() as (worker, lane):
            lease = _Lease(worker)
            call = Call(do="trunk", features=lease.number)
            reply, _ = worker.ask(lane, call, inputs, self._timeout_seconds)
        return RemoteFeatures(lease=lease, count=reply.rows)

    def head(self, index: int, features: Features) -> NDArray[np.float32]:
        """As in the base class, in the worker that holds the features. Raises WorkerDied if it has ended."""
        if not isinstance(features, RemoteFeatures):
            raise EngineError("These features come from another engine; a head needs those of its own trunk.")
        with self._pool.lane(features.lease.worker) as (worker, lane):
            call = Call(do="head", features=features.lease.number, rows=features.taken, index=index)
            _, (logits,) = worker.ask(lane, call, {}, self._timeout_seconds)
        return logits.astype(np.float32, copy=False)

    def logits(self, inputs: Tensors, heads: int) -> list[NDArray[np.float32]]:
        """As in the base class, in one call."""
        with self._pool.lane() as (worker, lane):
            _, logits = worker.ask(lane, Call(do="logits", heads=heads), inputs, self._timeout_seconds)
        return [one.astype(np.float32, copy=False) for one in logits]

    @property
    def sizes(self) -> tuple[int, ...]:
        """As the workers say."""
        return self._sizes

    @property
    def concurrency(self) -> int:
        """Calls that all workers together can usefully compute at the same time."""
        return self._concurrency

    @property
    def replaced(self) -> int:
        """Workers that have ended since they had loaded, and for which others were started."""
        return self._pool.replaced

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return [worker.pid for worker in self._pool.workers]

    def info(self) -> EngineInfo:
        """Describe the engine as its first worker does, with the cores and the concurrency of all."""
        return replace(
            self._info,
            cores=self.options.cores,
            concurrency=self.concurrency,
            load_seconds=self.load_seconds,
            notes=self.notes,
        )

    def close(self) -> None:
        """End the workers. The engine must not be used afterwards."""
        self._finalizer()

    def _load(self) -> None:
        raise NotImplementedError("the workers load")

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        raise NotImplementedError("the workers run whole calls")


def _require_linux() -> None:
    if not sys.platform.startswith("linux"):
        raise EngineError(f"Worker processes need Linux, not {sys.platform}. Let the engine compute in threads.")


def _close(pool: Pool, constants: int) -> None:
    pool.close()
    os.close(constants)
