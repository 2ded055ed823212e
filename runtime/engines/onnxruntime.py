"""ONNX Runtime: dense arithmetic, runs everywhere; the reference that other engines are checked against."""

import threading
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

    def _load(self) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self.options.cores == 1:
            options.intra_op_num_threads = 1  # computes in the calling thread
        elif _shared_pool(self.options.cores):
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = self.options.cores
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.notes = (f"the process-wide thread pool has {_pool_cores} cores; sessions have pools of their own",)
        self._sessions = {}
        for stage in self.artifact.manifest.stages:
            path = self.artifact.path(stage.file)
            try:
                self._sessions[stage.file] = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # its exceptions share no base class
                raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        outputs = self._sessions[stage.file].run(stage.outputs, tensors)
        return dict(zip(stage.outputs, outputs, strict=True))


def _shared_pool(cores: int) -> bool:
    """Make the process-wide pool on first use; say whether it has `cores` threads. It can never be resized."""
    global _pool_cores
    with _pool_lock:
        if _pool_cores is None:
            ort.set_global_thread_pool_sizes(cores, 1)
            _pool_cores = cores
        return _pool_cores == cores
