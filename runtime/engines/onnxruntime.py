"""ONNX Runtime: dense arithmetic, runs everywhere; the reference that other engines are checked against."""

import json
import math
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.engines.base import Engine, Tensors
from runtime.engines.coverage import Coverage, Layer, coverage_of
from runtime.errors import EngineError
from runtime.manifest import Stage

ort.disable_telemetry_events()

FLOAT_LAYERS = ("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
"""Operators of ONNX Runtime that compute layers in floating point."""

_pool_lock = threading.Lock()
_pool_cores: int | None = None


@dataclass(frozen=True)
class Threads:
    """How the sessions of a process compute on several cores."""

    shared: bool
    """One pool for all of them; False: each session has its own."""
    spinning: Literal["always", "running", "never"]
    """When idle threads wait busily: some milliseconds after a call too, only while a call runs, or not at all.

    The shared pool always spins while a call runs.
    """


class OnnxRuntimeEngine(Engine):
    """One session per stage, on threads as `threads` says."""

    name: ClassVar[str] = "onnxruntime"
    version = str(ort.__version__)
    threads: ClassVar[Threads] = Threads(shared=False, spinning="never")
    """What loses least where it loses most: benchmarks/engine_threads.py. Threads that wait busily take the cores from
    those that compute, of the next session too; threads that sleep cost some microseconds for each operator.
    """
    precisions: ClassVar[Mapping[str, tuple[str, ...]]] = {"fp32": ("fp32",), "int8": ("int8",)}

    def _load(self) -> None:
        self._sessions = {}
        self._layers: list[Layer] = []
        with tempfile.TemporaryDirectory(prefix="neurotrails-") as folder:
            for stage in self.artifact.manifest.stages:
                profile = None if self.precision == "fp32" else f"{folder}/{stage.file}"
                content = self.model(stage).SerializeToString()
                session, pool = open_session(content, self.options.cores, profile=profile, threads=self.threads)
                self._sessions[stage.file] = session
                if profile is not None:
                    longest = max(self.lengths, default=0)
                    self._run(stage, {name: self._blank(name, 1, longest) for name in stage.inputs})
                    self._layers += layers_of(Path(session.end_profiling()), stage)
        if self.threads.shared and pool not in (None, self.options.cores):
            self.notes = (f"computes on the {pool} cores of the process-wide pool, which cannot be resized",)

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        outputs = self._sessions[stage.file].run(stage.outputs, tensors)
        return dict(zip(stage.outputs, outputs, strict=True))

    def _coverage(self) -> Coverage:
        """In fp32 all: it has fast kernels for every convolution and matrix product. In int8 what a profile shows."""
        return coverage_of(self._layers)


def layers_of(profile: Path, stage: Stage) -> list[Layer]:
    """What one call of a stage on one row ran in floating point, by the profile of that call; the rest ran in int8."""
    slow = []
    for event in json.loads(profile.read_text()):
        about = event.get("args", {})
        if about.get("op_name") not in FLOAT_LAYERS:
            continue
        read, result = (
            [shape for tensor in about[f"{which}_type_shape"] for kind, shape in tensor.items() if kind == "float"]
            for which in ("input", "output")
        )
        products = math.prod(read[1][1:]) if "Conv" in about["op_name"] else read[0][-1]
        if products > 1:  # else a batch norm, which it runs as a convolution of single values
            name = event["name"].removesuffix("_kernel_time")
            slow.append(Layer(name, math.prod(result[0]) * products, accelerated=False))
    total = stage.dense_macs + stage.activation_macs
    rest = max(0, total - sum(layer.macs for layer in slow))
    return [*slow, Layer(stage.file, rest, accelerated=True)]


def open_session(
    model: Path | bytes,
    cores: int,
    *,
    profile: str | None = None,
    threads: Threads = OnnxRuntimeEngine.threads,
    optimized: bool = True,
) -> tuple[ort.InferenceSession, int | None]:
    """Load an ONNX file, or its bytes; also return the size of the pool it computes on, None for the calling thread.

    `profile` is the beginning of a path, for a profile of all calls until `end_profiling`. Not `optimized`, every
    operator is computed as it stands in the graph. Raises EngineError.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    pool = _shared_pool(cores) if threads.shared else cores
    if threads.spinning == "never":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif threads.spinning == "running":
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if pool is None or not threads.shared:
        options.intra_op_num_threads = pool or 1  # 1 computes in the calling thread
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
