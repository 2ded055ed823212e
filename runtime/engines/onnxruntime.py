"""ONNX Runtime: dense arithmetic, runs everywhere; the reference that other engines are checked against."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.engines.base import Engine, Tensors
from runtime.errors import EngineError
from runtime.manifest import Stage

ort.disable_telemetry_events()

_pool_lock = threading.Lock()
_pool_cores: int | None = None


class OnnxRuntimeEngine(Engine):
    """One session per stage. All sessions of the process share one thread pool: separate pools would fight."""

    name: ClassVar[str] = "onnxruntime"
    version = str(ort.__version__)
    precisions: ClassVar[Mapping[str, tuple[str, ...]]] = {"fp32": ("fp32",), "int8": ("int8",)}

    def _load(self) -> None:
        self._sessions = {}
        for stage in self.artifact.manifest.stages:
            self._sessions[stage.file], pool = open_session(self.artifact.path(stage.file), self.options.cores)
        if pool not in (None, self.options.cores):
            self.notes = (f"computes on the {pool} cores of the process-wide pool, which cannot be resized",)

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        outputs = self._sessions[stage.file].run(stage.outputs, tensors)
        return dict(zip(stage.outputs, outputs, strict=True))


def open_session(model: Path | bytes, cores: int) -> tuple[ort.InferenceSession, int | None]:
    """Load an ONNX file, or its bytes; also return the size of the pool it computes on, None for the calling thread.

    Raises EngineError.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    pool = _shared_pool(cores)
    if pool is None:
        options.intra_op_num_threads = 1  # computes in the calling thread
    else:
        options.use_per_session_threads = False  # once there is a shared pool, every session must use it
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0), pool
    except Exception as error:  # its exceptions share no base class
        what = model if isinstance(model, Path) else "the graph"
        raise EngineError(f"ONNX Runtime cannot load {what}: {error}") from error


def _shared_pool(cores: int) -> int | None:
    """Size of the process-wide pool, which the first engine with more than one core makes; None before that."""
    global _pool_cores
    with _pool_lock:
        if _pool_cores is None and cores > 1:
            ort.set_global_thread_pool_sizes(cores, 1)
            _pool_cores = cores
        return _pool_cores
