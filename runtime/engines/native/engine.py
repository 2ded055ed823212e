"""The native engine: plans every stage of an artifact at every shape at load, then only computes."""

import platform
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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
from runtime.engines.constants import constants_in_use
from runtime.engines.coverage import Coverage
from runtime.engines.native.execute import Executor
from runtime.engines.native.fuse import fuse
from runtime.engines.native.graph import Network, require_known, understand
from runtime.engines.native.kernels.schedule import FUTEX
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.operators import Convolve
from runtime.engines.native.plan import Plan, replace_constants
from runtime.engines.native.planning import plan_ensemble
from runtime.engines.native.streams import Packed
from runtime.errors import EngineError, EngineNotInstalled, UnsupportedModel
from runtime.graph import constant_arrays
from runtime.manifest import Stage

Key = tuple[str, int]
"""Program and tokens (0 for images). A program is the file of a stage, or `whole(heads)`."""


def whole(heads: int) -> str:
    """Name of the program of the trunk and the first `heads` heads."""
    return f"trunk and {heads} heads"


class NativeEngine(Engine):
    """Generated code that skips the zeros of the weights. Calls are serialized; all cores work on each.

    Everything is planned for one row: all threads share a single row, rows of a batch go to the threads side by side.
    So every number of rows is computed without padding, whatever `batch_sizes` says.
    """

    name: ClassVar[str] = "native"
    version = package_version("neurotrails")
    one_program: ClassVar[bool] = True
    parallel_calls: ClassVar[bool] = False  # a call uses all cores
    instruction_set: ClassVar[str | None] = None
    """Name of the instruction set to use; None: the fastest of this machine."""

    def _load(self) -> None:
        _require_platform()
        available = instruction_sets()
        self._machine = available[self.instruction_set or next(iter(available))]
        self.version = f"{type(self).version} {self._machine.name}"
        stages = self.artifact.manifest.stages
        require_known({stage.file: self.model(stage) for stage in stages})
        constants = {stage.file: constant_arrays(self.model(stage)) for stage in stages}
        packed = Packed()
        plans: dict[Key, tuple[Plan, Plan]] = {}
        for tokens in self.lengths or (0,):
            networks = {stage.file: self._understand(stage, constants[stage.file], tokens) for stage in stages}
            self._find_kept(networks.values(), packed)
            for program, (trunk, heads) in self._programs(networks).items():
                together = plan_ensemble(trunk, heads, threads=self.options.cores, machine=self._machine, packed=packed)
                alone = together
                if self.options.cores > 1:
                    alone = plan_ensemble(
                        trunk, heads, threads=1, machine=self._machine, packed=packed, team=self.options.cores
                    )
                plans[program, tokens] = (together, alone)
        shared = constants_in_use()
        if shared is not None:
            replace_constants([plan for both in plans.values() for plan in both], shared.place)
        self._executor = Executor(library(self._machine.name), plans, self.options.cores)

    def _understand(self, stage: Stage, constants: dict[str, NDArray[np.generic]], tokens: int) -> Network:
        shapes = {name: self._blank(name, 1, tokens).shape for name in stage.inputs}
        network = fuse(understand(self.model(stage), constants, shapes, stage.file))
        if missing := set(stage.outputs) - set(network.outputs):
            raise UnsupportedModel(f"{stage.file}: the graph has no output {', '.join(sorted(missing))}.")
        return network

    def _find_kept(self, networks: Iterable[Network], packed: Packed) -> None:
        """Find the kept weights of all layers on all cores: NumPy searches them without the GIL."""
        layers = [
            (network.name, operator.output.name, operator.weight)
            for network in networks
            for operator in network.operators
            if isinstance(operator, Convolve)
        ]
        with ThreadPoolExecutor(self.options.cores) as pool:
            list(pool.map(lambda layer: packed.kept(*layer), layers))

    def _programs(self, networks: dict[str, Network]) -> dict[str, tuple[Network, dict[str, Network]]]:
        """Trunk and heads of every program: each stage by itself, and the trunk with any number of first heads."""
        nothing = Network([], {})
        alone = {file: (network, dict[str, Network]()) for file, network in networks.items()}
        trunk = networks[self._trunk.file] if self._trunk is not None else nothing
        names = [head.file for head in self._heads]
        prefixes = (names[:count] for count in range(1, len(names) + 1))
        return alone | {whole(len(some)): (trunk, {name: networks[name] for name in some}) for some in prefixes}

    def logits(self, inputs: Tensors, heads: int) -> list[NDArray[np.float32]]:
        """As in the base class, in one program with the heads side by side."""
        found = self._compute(whole(heads), inputs)
        return [found[head.file] for head in self._heads[:heads]]

    def plan(self, heads: int) -> Plan:
        """Plan of the trunk and the first `heads` heads, for one row of the greatest length."""
        return self._executor.programs[whole(heads), max(self.lengths, default=0)].plan

    def measure(self, heads: int, rounds: int) -> list[float]:
        """Seconds of each wave of `plan(heads)`, the least of so many rounds."""
        tokens = max(self.lengths, default=0)
        blank = {spec.name: self._blank(spec.name, 1, tokens) for spec in self.artifact.manifest.inputs}
        self._compute(whole(heads), blank)
        return self._executor.measure((whole(heads), tokens), rounds)

    def _warm_up(self, stage: Stage) -> dict[int, float]:
        """Seconds of a stage for one row, and for a row on each core."""
        tokens = max(self.lengths, default=0)
        return {rows: self._least_seconds(stage, rows, tokens, runs=2) for rows in {1, self.options.cores}}

    def _run_rows(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        return dict(self._compute(stage.file, {name: tensors[name] for name in stage.inputs}))

    def _run(self, stage: Stage, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        return self._run_rows(stage, tensors)

    def _compute(self, program: str, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        tokens = next(iter(tensors.values())).shape[1] if self.lengths else 0
        if tokens not in (self.lengths or (0,)):
            raise EngineError(f"Texts of {tokens} tokens were not planned for, only of {self.lengths}.")
        return self._executor.run((program, tokens), tensors)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Also one row and a row on each core: all else is done in these."""
        return tuple(sorted({1, self.options.cores, *self.batch_sizes}))

    def _coverage(self) -> Coverage:
        """All: what it cannot generate code for, it refuses to load."""
        return Coverage(1.0, "multiply-adds")

    @property
    def machine(self) -> InstructionSet:
        """What code was generated for."""
        return self._machine

    def close(self) -> None:
        """End the compute threads. The engine must not be used afterwards."""
        self._executor.close()


def _require_platform() -> None:
    if platform.system() != "Linux" or platform.machine() not in FUTEX:
        raise EngineNotInstalled(
            f"The native engine runs on Linux on {' and '.join(FUTEX)}, not on {platform.system()} on "
            f"{platform.machine()}. Use another engine, such as onnxruntime."
        )
