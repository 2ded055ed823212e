"""The engine interface: what the predictor and the server know of a runtime. Numpy in, numpy out."""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from runtime.artifact import Artifact
from runtime.engines.coverage import Coverage
from runtime.errors import EngineError, EngineNotInstalled, NeurotrailsError, UnsupportedModel
from runtime.graph_sizes import load_with_limits
from runtime.manifest import Stage, TextPreprocessing
from runtime.resident import resident_bytes
from runtime.split import split

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to load an engine. Sizes are those compiled at load; any number of rows can be run afterwards."""

    cores: int
    precision: str | None = None
    """Precision to execute in, one that the engine offers for the artifact; None: the one the artifact is stored in."""
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    lengths: tuple[int, ...] | None = None
    """Token lengths to compile, for text; None: all the lengths of the artifact."""
    streams: int = 1
    """Calls that may compute at the same time."""
    accept_deepsparse_licence: bool = False
    """Allow `auto` to choose DeepSparse, whose community licence covers evaluation only."""

    def __post_init__(self) -> None:
        if self.cores < 1 or self.streams < 1:
            raise EngineError(f"cores and streams must be at least 1, not {self.cores} and {self.streams}.")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise EngineError(f"batch_sizes must be positive, not {self.batch_sizes}.")


@dataclass(frozen=True)
class Features:
    """What the trunk passes to the heads: named tensors, batch axis first, read only by the engine that made them."""

    tensors: Tensors

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.tensors.values())))

    def take(self, rows: NDArray[np.intp]) -> "Features":
        """Keep only `rows`, in that order."""
        return Features({name: tensor[rows] for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself once it is loaded."""

    name: str
    version: str
    precision: str
    """Precision of execution."""
    cores: int
    batch_sizes: tuple[int, ...]
    concurrency: int
    load_seconds: float
    """From the artifact to an engine that answers: reading, checking, compiling, warming up; without imports."""
    compile_seconds: float
    """The part of it in which the engine turned graphs into what it executes."""
    memory_bytes: int | None
    """Growth of the resident memory of the process while loading, with whatever else was loaded or freed meanwhile."""
    coverage: Coverage | None
    """Share of the work in accelerated kernels; None where the engine cannot tell."""
    notes: tuple[str, ...] = ()
    """Licence notes and warnings that a user should see."""


class Engine(ABC):
    """An artifact, loaded and compiled. Thread-safe; releases the GIL while computing; never touches the network.

    Subclasses load everything in `_load` and run one stage at one compiled shape in `_run`; splitting and padding of
    other batch sizes is done here, by the cost of each size as measured at warm-up. So is the check of the graphs: all
    of them have passed it before `_load` is called, whether it reads the files or takes `model(stage)`.
    """

    name: ClassVar[str]
    version: str
    precisions: ClassVar[Mapping[str, tuple[str, ...]]] = {"fp32": ("fp32",)}
    """Precision an artifact is stored in -> those this engine can execute it in."""
    one_program: ClassVar[bool] = False
    """Whether `logits` is faster than the trunk and the heads one by one."""
    parallel_calls: ClassVar[bool] = True
    """Whether several calls can compute at the same time; if not, `streams` says nothing to this engine."""
    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, options: EngineOptions) -> None:
        before = resident_bytes()
        started = time.perf_counter()
        manifest = artifact.manifest
        self.artifact = artifact
        self.options = options
        self.precision = self.execution_precision(artifact, options)
        self.batch_sizes = tuple(sorted(set(options.batch_sizes)))
        self._trunk = manifest.trunk
        self._heads = manifest.heads
        self._models, self._id_limits = load_with_limits(artifact)
        compiling = time.perf_counter()
        try:
            self._load()
            self._models.clear()  # warming up needs none of them, and they are as large as the weights
            self.compile_seconds = time.perf_counter() - compiling
            self._costs = {stage.file: self._warm_up(stage) for stage in manifest.stages}
        except NeurotrailsError:
            raise
        except Exception as error:  # of what the engine wraps: a graph can be valid and yet more than it can take
            raise EngineError(
                f"{self.name} cannot load or run {manifest.name}: {error!r}. Try another engine."
            ) from error
        finally:
            self._models.clear()
        self.load_seconds = time.perf_counter() - started
        after = resident_bytes()
        self.memory_bytes = None if before is None or after is None else after - before
        self.coverage = self._coverage()
        if self.coverage is not None and self.coverage.note is not None:
            self.notes = (*self.notes, self.coverage.note)

    @classmethod
    def execution_precision(cls, artifact: Artifact, options: EngineOptions) -> str:
        """Precision in which this engine would execute the artifact.

        Raises UnsupportedModel if it cannot, which says what the installed engines offer.
        """
        stored = artifact.manifest.precision
        asked = options.precision or stored
        if asked not in cls.precisions.get(stored, ()):
            raise UnsupportedModel(
                f"{artifact.manifest.name} is stored as {stored}, which {cls.name} does not execute in {asked}. "
                f"Choose one of: {_offers(stored)}; or export the artifact in another precision."
            )
        return asked

    def trunk(self, inputs: Tensors) -> Features:
        """Run the trunk over model inputs, any number of rows; the features also carry the inputs that heads read."""
        for name, rows in self._id_limits.items():
            ids = inputs[name]
            if ids.size and (ids.min() < 0 or ids.max() >= rows):
                raise EngineError(f"{name} holds {ids.min()} to {ids.max()}; token ids go from 0 to {rows - 1}.")
        features: dict[str, NDArray[np.generic]] = {}
        needed = {name for head in self._heads for name in head.inputs}
        features.update({name: tensor for name, tensor in inputs.items() if name in needed})
        if self._trunk is not None:
            features.update(self._run_rows(self._trunk, inputs))
        return Features(features)

    def head(self, index: int, features: Features) -> NDArray[np.float32]:
        """Run head `index` (in voting order): float32 logits [rows, classes]."""
        stage = self._heads[index]
        return self._run_rows(stage, features.tensors)[stage.outputs[0]].astype(np.float32, copy=False)

    def logits(self, inputs: Tensors, heads: int) -> list[NDArray[np.float32]]:
        """Run the trunk and the first `heads` heads: float32 logits [rows, classes] of each, in voting order."""
        features = self.trunk(inputs)
        return [self.head(index, features) for index in range(heads)]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of rows, in ascending order, whose costs tell those of all others: others are split into these."""
        return self.batch_sizes

    @property
    def concurrency(self) -> int:
        """Number of calls that can usefully compute at the same time."""
        return self.options.streams if self.parallel_calls else 1

    @property
    def replaced(self) -> int:
        """Worker processes that had to be replaced; without such processes 0."""
        return 0

    def info(self) -> EngineInfo:
        """Describe this engine."""
        return EngineInfo(
            self.name, self.version, self.precision, self.options.cores, self.batch_sizes, self.concurrency,
            self.load_seconds, self.compile_seconds, self.memory_bytes, self.coverage, self.notes,
        )  # fmt: skip

    def cheaper(self, stage: Stage, rows: int, fewer: int) -> bool:
        """Whether running `fewer` rows of a stage is really cheaper than running `rows`, by measured cost."""
        return self._cost(stage, fewer) < 0.95 * self._cost(stage, rows)

    def close(self) -> None:  # noqa: B027 - most engines have nothing to release
        """Release threads and memory. The engine must not be used afterwards."""

    def model(self, stage: Stage) -> ModelProto:
        """The graph of a stage, checked; only for `_load`, after which the graphs are dropped."""
        return self._models[stage.file]

    @abstractmethod
    def _load(self) -> None:
        """Load and compile all stages for `self.batch_sizes` and, for text, `self.lengths`."""

    @abstractmethod
    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run one stage at exactly one of the compiled shapes."""

    def _coverage(self) -> Coverage | None:
        """Share of the work in accelerated kernels, once the engine is warm; None where it cannot tell."""
        return None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths in use; empty unless the artifact reads text."""
        preprocessing = self.artifact.manifest.preprocessing
        if not isinstance(preprocessing, TextPreprocessing):
            return ()
        return tuple(sorted(self.options.lengths or preprocessing.lengths))

    def _run_rows(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        tensors = {name: np.ascontiguousarray(tensors[name]) for name in stage.inputs}
        rows = len(next(iter(tensors.values())))
        if rows in self.batch_sizes:
            return self._run(stage, tensors)
        pieces, start = [], 0
        for size in self._split(stage, rows):
            piece = {name: tensor[start : start + size] for name, tensor in tensors.items()}
            here = min(size, rows - start)
            out = self._run(stage, piece if here == size else {name: _pad(t, size) for name, t in piece.items()})
            pieces.append({name: tensor[:here] for name, tensor in out.items()})
            start += here
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in stage.outputs}

    def _split(self, stage: Stage, rows: int) -> list[int]:
        """Compiled sizes that together hold `rows` at the lowest measured cost; the last one may be padded."""
        return split(rows, self._costs[stage.file])

    def _cost(self, stage: Stage, rows: int) -> float:
        return sum(self._costs[stage.file][size] for size in self._split(stage, rows))

    def _warm_up(self, stage: Stage) -> dict[int, float]:
        """Run a stage once at every shape, then time the longest: seconds by batch size."""
        costs = {}
        for size, length in itertools.product(self.batch_sizes, self.lengths or (0,)):
            self._run(stage, {name: self._blank(name, size, length) for name in stage.inputs})
            costs[size] = self._least_seconds(stage, size, length, runs=3)
        return costs

    def _least_seconds(self, stage: Stage, rows: int, tokens: int, *, runs: int) -> float:
        tensors = {name: self._blank(name, rows, tokens) for name in stage.inputs}
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            self._run(stage, tensors)
            times.append(time.perf_counter() - started)
        return min(times)

    def _blank(self, name: str, rows: int, tokens: int) -> NDArray[np.generic]:
        manifest = self.artifact.manifest
        spec = next(spec for spec in (*manifest.inputs, *manifest.features) if spec.name == name)
        symbols = {"batch": rows, "tokens": tokens}
        shape = [symbols[size] if isinstance(size, str) else size for size in spec.shape]
        return np.ones(shape, dtype=spec.dtype)


def _offers(stored: str) -> str:
    """Which installed engines execute artifacts of a precision, and in which: `native in fp32, ...`."""
    from runtime.engines import installed_engines  # the table of engines stands above this interface

    offers = [
        f"{name} in {' or '.join(found.precisions[stored])}"
        for name, found in installed_engines().items()
        if not isinstance(found, EngineNotInstalled) and stored in found.precisions
    ]
    return ", ".join(offers) or "no engine that is installed"


def _pad(tensor: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    """Repeat the last row until there are `rows`."""
    return np.concatenate([tensor, np.repeat(tensor[-1:], rows - len(tensor), axis=0)])
