"""OpenVINO: dense arithmetic in fp32, in int8 as stored, and in bf16 on CPUs that have instructions for it."""

import functools
import itertools
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.cpu import cpu
from runtime.engines.base import Engine, EngineOptions, Tensors
from runtime.engines.coverage import Coverage, Layer, coverage_of
from runtime.errors import EngineError, EngineNotInstalled, UnsupportedModel
from runtime.manifest import Stage


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry: it would report every import. Where that package is missing, it is silent.

    Raises EngineNotInstalled.
    """
    telemetry = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # for an import: there is no such package
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import openvino
    except ImportError as error:
        raise EngineNotInstalled(
            "OpenVINO is not installed, or not for this system: pip install 'neurotrails[openvino]'."
        ) from error
    finally:
        del sys.modules["openvino_telemetry"]
        if telemetry is not None:
            sys.modules["openvino_telemetry"] = telemetry
    return openvino


openvino = _import_openvino()

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""CPU features any of which computes in bf16 natively. OpenVINO emulates bf16 on others: slowly, and for nothing."""

STATIC_BYTES = 64 * 2**20
"""Up to this size of its dense constants a stage is compiled anew for every shape, beyond it once for all shapes.

Measured once, for 15 (newsgroups) and 5 (WRN-28-10) interleaved rounds on two cores that other processes used too, so
roughly. Calls of 0.4 to 20 ms took 1.2 to 1.6 times as long with dynamic shapes; with a batch axis bounded to 1..16
mostly 0.9 to 1.2 times, which may be noise. Calls of 30 to 500 ms took as long either way, and static shapes then cost
the memory of the weights once more for each shape: 1,211 instead of 405 MB for two stages at three batch sizes.
"""


LAYER_TYPES = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
"""Nodes of an execution graph that are counted; products inside fused attention (`Subgraph`) are not told apart."""

ELEMENTS = {"fp32": ("f32",), "bf16": ("bf16",), "int8": ("i8", "u8")}
"""Element types of kernels that are made for a precision of execution."""


def native_bf16(flags: list[str]) -> bool:
    """Whether a CPU with these features, and the OpenVINO on it, compute in bf16 natively."""
    return bool(set(BF16_FLAGS) & set(flags)) and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def _core() -> Any:
    return openvino.Core()


@dataclass(frozen=True)
class Compiled:
    """A stage that can run at one shape: idle requests, which shapes may share; shape and dtype of each output."""

    idle: "SimpleQueue[Any]"
    outputs: dict[str, tuple[tuple[int, ...], "np.dtype[np.generic]"]]


class OpenVinoEngine(Engine):
    """Compiled models with as many requests as streams; a call takes an idle one and computes in place.

    A request reads the caller's arrays and writes into new ones. It keeps none of them alive: a call does.
    """

    name: ClassVar[str] = "openvino"
    version = package_version("openvino")
    precisions: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "fp32": ("fp32", "bf16") if native_bf16(cpu()[1]) else ("fp32",),
        "int8": ("int8",),
    }

    @classmethod
    def execution_precision(cls, artifact: Artifact, options: EngineOptions) -> str:
        """As in the base class; also says why bf16 is not offered."""
        if (
            options.precision == "bf16"
            and artifact.manifest.precision == "fp32"
            and "bf16" not in cls.precisions["fp32"]
        ):
            raise UnsupportedModel(
                f"{cpu()[0]} has none of the CPU features {', '.join(BF16_FLAGS)}: OpenVINO would only emulate "
                "bf16, slowly. Choose fp32."
            )
        return super().execution_precision(artifact, options)

    def _load(self) -> None:
        self._compiled: dict[tuple[str, tuple[int, ...]], Compiled] = {}
        self._streams = self.options.streams
        for stage in self.artifact.manifest.stages:
            self._load_stage(stage)

    def _load_stage(self, stage: Stage) -> None:
        try:
            model = _core().read_model(self.model(stage).SerializeToString())
        except Exception as error:  # RuntimeError, and others of its own
            raise UnsupportedModel(f"OpenVINO does not understand {stage.file}: {error} Use another engine.") from error
        try:
            shared = None if dense_bytes(model) <= STATIC_BYTES else self._compile(model)
            for size, length in itertools.product(self.batch_sizes, self.lengths or (0,)):
                shapes = {name: self._blank(name, size, length).shape for name in stage.inputs}
                fixed = model.clone()
                fixed.reshape({name: list(shape) for name, shape in shapes.items()})
                ports = {name: fixed.output(name) for name in stage.outputs}
                outputs = {n: (tuple(port.shape), port.get_element_type().to_dtype()) for n, port in ports.items()}
                idle = self._compile(fixed) if shared is None else shared
                self._compiled[stage.file, shapes[stage.inputs[0]]] = Compiled(idle, outputs)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile {stage.file}: {error}") from error

    def _compile(self, model: Any) -> "SimpleQueue[Any]":
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": self.options.cores,
            "NUM_STREAMS": self.options.streams,
            "ENABLE_CPU_PINNING": False,  # the engines of a process, and other processes, share the cores
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # nothing is rounded that is not stored so
        }
        compiled = _core().compile_model(model, "CPU", options)
        self._streams = compiled.get_property("NUM_STREAMS")  # not more than cores
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            idle.put(compiled.create_infer_request())
        return idle

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        first = tensors[stage.inputs[0]].shape
        if (compiled := self._compiled.get((stage.file, first))) is None:
            raise EngineError(f"{stage.file} was not compiled for {stage.inputs[0]} of shape {first}.")
        found: dict[str, NDArray[np.generic]] = {}
        request = compiled.idle.get()
        try:
            read = {name: _writeable(tensors[name]) for name in stage.inputs}
            for name, tensor in read.items():
                request.set_tensor(name, openvino.Tensor(tensor, shared_memory=True))
            for name, (shape, dtype) in compiled.outputs.items():
                found[name] = np.empty(shape, dtype)
                request.set_tensor(name, openvino.Tensor(found[name], shared_memory=True))
            request.infer()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed in {stage.file}: {error}") from error
        finally:
            compiled.idle.put(request)
        return found

    def _coverage(self) -> Coverage:
        """Of the execution graphs of every stage at one shape, once they have chosen their kernels."""
        stages: dict[str, Compiled] = {file: compiled for (file, _), compiled in self._compiled.items()}
        layers: list[Layer] = []
        for compiled in stages.values():
            request = compiled.idle.get()
            graph = request.get_compiled_model().get_runtime_model()
            compiled.idle.put(request)
            layers += (layer for node in graph.get_ordered_ops() if (layer := executed_layer(node, self.precision)))
        return coverage_of(layers)

    @property
    def concurrency(self) -> int:
        """Number of streams; OpenVINO makes no more of them than there are cores."""
        return self._streams

    def close(self) -> None:
        """Drop all compiled models and their threads."""
        self._compiled.clear()


def dense_bytes(model: Any) -> int:
    """Size of all constants of an OpenVINO model, in which none is sparse any more."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return sum(math.prod(node.get_output_shape(0)) * node.get_output_element_type(0).size for node in constants)


def executed_layer(node: Any, precision: str) -> Layer | None:
    """A node of an execution graph, if it is a convolution or a matrix product. Sizes that vary count as 1."""
    about = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "primitiveType", "runtimePrecision")}
    if about["layerType"] not in LAYER_TYPES:
        return None
    result, read, weight = (_sizes(port) for port in (node.output(0), node.input(0), node.input(1)))
    if "Convolution" in about["layerType"]:
        products = math.prod(weight[1 if len(weight) == len(result) else 2 :])  # weights of groups have one more axis
    else:
        products = read[-1]
    accelerated = not about["primitiveType"].startswith("ref") and about["runtimePrecision"] in ELEMENTS[precision]
    return Layer(node.get_friendly_name(), math.prod(result) * products, accelerated)


def _sizes(port: Any) -> tuple[int, ...]:
    return tuple(size.get_length() if size.is_static else 1 for size in port.get_partial_shape())


def _writeable(tensor: NDArray[np.generic]) -> NDArray[np.generic]:
    """What OpenVINO can share: it refuses memory that is read-only, although it does not write there."""
    return tensor if tensor.flags.writeable else tensor.copy()
