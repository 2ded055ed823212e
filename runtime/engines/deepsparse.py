"""DeepSparse: skips zeros, but closed, end-of-life (1.8.0, Python <= 3.11) and licensed for evaluation only."""

import functools
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.engines.base import Engine, Tensors
from runtime.engines.coverage import Coverage
from runtime.engines.integer import integer_form
from runtime.errors import EngineError, EngineNotInstalled, UnsupportedModel
from runtime.graph import without_unused
from runtime.manifest import Stage
from runtime.memory import memory_limits

os.environ["NM_DISABLE_ANALYTICS"] = "True"  # read at import: DeepSparse would phone home

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is unmaintained and warns of its own deprecated calls
        import deepsparse
except ImportError as error:
    raise EngineNotInstalled(
        "DeepSparse is not installed. On Linux with Python 3.11: pip install 'neurotrails[deepsparse]'. "
        "Elsewhere use another engine, such as onnxruntime."
    ) from error

LICENCE_NOTE = (
    "DeepSparse Community is licensed for evaluation in development and test, not for production use, "
    "and is no longer maintained."
)


BYTES_PER_WEIGHT = 6
"""Memory for each weight, zeros included, and each shape that is compiled.

Measured: 433 MB for ResNet-50 with 3 heads, of 74.2 million weights at density 0.05; at density 0.1 some 170 MB a head.
"""

MANY_SHAPES = 12
"""More than that and loading takes minutes and memory for little: batches between two sizes are padded or split."""


class DeepSparseEngine(Engine):
    """One compiled engine per stage, batch size and token length. All engines of the process share their threads."""

    name: ClassVar[str] = "deepsparse"
    version = str(deepsparse.__version__)
    precisions: ClassVar[Mapping[str, tuple[str, ...]]] = {"fp32": ("fp32",), "int8": ("int8",)}
    notes: tuple[str, ...] = (LICENCE_NOTE,)

    def _load(self) -> None:
        self._require_memory()
        self._context = _shared_context(self.options.cores, min(self.options.streams, self.options.cores))
        self._engines: dict[tuple[str, tuple[int, ...]], Any] = {}
        self._operators = {stage.file: len(self.model(stage).graph.node) for stage in self.artifact.manifest.stages}
        for stage in self.artifact.manifest.stages:
            for size in self.batch_sizes:
                for length in self.lengths or (0,):
                    shapes = [self._blank(name, size, length).shape for name in stage.inputs]
                    self._engines[stage.file, shapes[0]] = self._compile(stage, size, shapes)

    def _require_memory(self) -> None:
        """Refuse what would not fit, before it takes minutes to compile; note what is merely large."""
        shapes = len(self.batch_sizes) * max(1, len(self.lengths))
        each = self.artifact.manifest.sparsity.weights * BYTES_PER_WEIGHT
        tightest = next(iter(memory_limits()), None)
        what = f"{shapes} shapes ({len(self.batch_sizes)} batch sizes"
        what += f" x {len(self.lengths)} lengths)" if self.lengths else ")"
        if tightest is not None and shapes * each > tightest.bytes:
            raise EngineError(
                f"DeepSparse compiles {self.artifact.manifest.name} for {what}, each of about {each / 1e6:,.0f} MB; "
                f"there are {tightest.bytes / 1e6:,.0f} MB ({tightest.source}). Choose fewer batch sizes."
            )
        if shapes > MANY_SHAPES:
            self.notes = (*self.notes, f"compiled for {what}, each of about {each / 1e6:,.0f} MB: fewer would do")

    @property
    def concurrency(self) -> int:
        """Number of streams that share the cores; DeepSparse makes no more of them than there are cores."""
        return int(self._context.num_streams)

    def _compile(self, stage: Stage, size: int, shapes: list[tuple[int, ...]]) -> Any:
        """Compile one stage at static shapes. Other than that DeepSparse falls back to a slow path, and says it only
        on stderr: that is refused. It writes the shapes into the file that it is given, so it is given a copy; without
        operators that nothing reads, as some of them make it end the process.
        """
        path = str(self.artifact.path(stage.file))
        sizes = [list(shape) for shape in shapes]
        model = self.model(stage)
        content = (without_unused(model) if self.precision == "fp32" else integer_form(model)).SerializeToString()
        try:
            with tempfile.TemporaryDirectory(prefix="neurotrails-") as folder:
                copy = f"{folder}/{stage.file}"
                Path(copy).write_bytes(content)
                engine, said = _with_stderr(
                    lambda: deepsparse.MultiModelEngine(copy, size, self._context, input_shapes=sizes)
                )
        except Exception as error:  # it raises bare RuntimeError and others
            raise EngineError(f"DeepSparse cannot compile {path}: {error}") from error
        if "optimized runtime disabled" in said.lower():
            raise UnsupportedModel(f"DeepSparse would run {path} on its slow path: {said.strip()} Use another engine.")
        return engine

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        inputs = [tensors[name] for name in stage.inputs]
        outputs = self._engines[stage.file, inputs[0].shape].run(inputs)
        return dict(zip(stage.outputs, outputs, strict=True))

    def _coverage(self) -> Coverage:
        """DeepSparse tells only which share of a graph's operators its optimized runtime supports."""
        shares = {stage: engine.fraction_of_supported_ops for (stage, _), engine in self._engines.items()}
        counted = [(share, self._operators[stage]) for stage, share in shares.items()]
        share = sum(share * count for share, count in counted) / sum(count for _, count in counted)
        return Coverage(share, "operators", tuple(stage for stage, share in shares.items() if share < 1))

    def close(self) -> None:
        """Drop all compiled engines."""
        self._engines.clear()


@functools.cache
def _shared_context(cores: int, streams: int) -> Any:
    """Make the threads that all engines with these options run on; with threads of their own they would fight."""
    return deepsparse.Context(num_cores=cores, num_streams=streams)


_stderr_lock = threading.Lock()


def _with_stderr(action: Callable[[], Any]) -> tuple[Any, str]:
    """Run `action` and return its result with what native code wrote to stderr meanwhile, which is passed on."""
    with _stderr_lock, tempfile.TemporaryFile() as capture:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(capture.fileno(), 2)
        try:
            result = action()
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            capture.seek(0)
            said = capture.read()
            os.write(2, said)
    return result, said.decode(errors="replace")
