"""The native engine: plans every stage of an artifact at every shape at load, then only computes."""

import platform
from importlib.metadata import version as package_version
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

try:
    from runtime.engines.native.compile import instruction_sets, library
except ImportError as error:
    from runtime.errors import EngineNotInstalled

    raise EngineNotInstalled("The native engine needs llvmlite: pip install 'llvmlite==0.50.*'.") from error

from runtime.engines.base import Engine, Tensors
from runtime.engines.native.execute import Executor
from runtime.engines.native.fuse import fuse
from runtime.engines.native.graph import Network, constants_of, require_known, understand
from runtime.engines.native.kernels.schedule import FUTEX
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.plan import Plan
from runtime.engines.native.planner import Packed
from runtime.engines.native.planning import plan_network
from runtime.errors import EngineNotInstalled, UnsupportedModel
from runtime.manifest import Stage

Key = tuple[str, int, int]
"""File of the stage, rows, tokens (0 for images)."""


class NativeEngine(Engine):
    """Generated code that skips the zeros of the weights. Calls are serialized; all cores work on each."""

    name: ClassVar[str] = "native"
    version = package_version("neurotrails")
    instruction_set: ClassVar[str | None] = None
    """Name of the instruction set to use; None: the fastest of this machine."""

    def _load(self) -> None:
        _require_platform()
        available = instruction_sets()
        chosen = available[self.instruction_set or next(iter(available))]
        self.notes = (f"generated for {chosen.name}",)
        stages = self.artifact.manifest.stages
        models = {stage.file: self.model(stage) for stage in stages}
        require_known(models)
        self.plans: dict[Key, Plan] = {}
        for stage in stages:
            constants = constants_of(models[stage.file])
            packed: Packed = {}
            for rows in self.batch_sizes:
                for tokens in self.lengths or (0,):
                    shapes = {name: self._blank(name, rows, tokens).shape for name in stage.inputs}
                    network = fuse(understand(models[stage.file], constants, shapes, stage.file))
                    self.plans[stage.file, rows, tokens] = self._plan(network, chosen, stage, packed)
        self._executor = Executor(library(chosen.name), self.plans, self.options.cores)

    def _plan(self, network: Network, chosen: InstructionSet, stage: Stage, packed: Packed) -> Plan:
        plan = plan_network(network, threads=self.options.cores, machine=chosen, packed=packed)
        if missing := set(stage.outputs) - set(plan.outputs):
            raise UnsupportedModel(f"{stage.file}: the graph has no output {', '.join(sorted(missing))}.")
        return plan

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        first = tensors[stage.inputs[0]]
        tokens = first.shape[1] if self.lengths else 0
        return dict(self._executor.run((stage.file, len(first), tokens), dict(tensors)))

    @property
    def concurrency(self) -> int:
        """One: a call uses all cores."""
        return 1

    def close(self) -> None:
        """End the compute threads. The engine must not be used afterwards."""
        self._executor.close()


def _require_platform() -> None:
    if platform.system() != "Linux" or platform.machine() not in FUTEX:
        raise EngineNotInstalled(
            f"The native engine runs on Linux on {' and '.join(FUTEX)}, not on {platform.system()} on "
            f"{platform.machine()}. Use another engine, such as onnxruntime."
        )
