"""Plain-C twins of the hot kernels (twins.c), and steps of genuine plans on which both are run.

A step is bound to memory of its own; `Twins.run` computes it with the generated kernel or with its twin. Both read the
same packed arrays and the same activations, so results can be compared bit by bit and times pair by pair.
"""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.compile import Library, library
from runtime.engines.native.execute import SLACK, aligned
from runtime.engines.native.kernels.attention import MOST_VECTORS, ROWS
from runtime.engines.native.kernels.functions import ACTIVATIONS, RELU
from runtime.engines.native.kernels.library import KERNELS
from runtime.engines.native.kernels.stream import OFFSET_UNIT
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.plan import Buffer, Plan, Scratch, Step
from runtime.errors import NeurotrailsError

SOURCE = Path(__file__).with_name("twins.c")
TWINNED = ("stream", "dense", "attention")
INSTRUCTION_SET = "avx512"
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Werror")
Side = Literal["generated", "twin"]


class NoTwins(NeurotrailsError):  # noqa: N818 - reads as a statement
    """The twins cannot be compiled here."""


class BoundStep:
    """One step of a plan, bound to memory that is its own and holds random activations."""

    def __init__(self, plan: Plan, step: Step, *, seed: int) -> None:
        self.step = step
        self.memory = aligned(plan.arena_bytes + SLACK)
        content = self.memory[: len(self.memory) // 4 * 4].view(np.float32)
        content[:] = np.random.default_rng(seed).standard_normal(len(content), dtype=np.float32)
        self._initial = self.memory.copy()
        self._scratch = aligned(plan.scratch_bytes + SLACK)
        self._constants: list[NDArray[Any]] = []
        fields = KERNELS[step.kernel].fields
        self.arguments = np.array([self._resolve(step.fields[name]) for name in fields], np.int64)

    def reset(self) -> None:
        """Put the random activations back."""
        self.memory[:] = self._initial

    def _resolve(self, value: Any) -> int:
        if isinstance(value, Buffer):
            return int(self.memory.ctypes.data) + value.offset
        if isinstance(value, np.ndarray):
            self._constants.append(np.ascontiguousarray(value))
            return int(self._constants[-1].ctypes.data)
        return int(self._scratch.ctypes.data) + value.offset if isinstance(value, Scratch) else int(value)


@dataclass(frozen=True)
class Twins:
    """Generated kernels and their compiled twins."""

    generated: Library
    compiled: ctypes.CDLL
    compiler: str
    """First line of the compiler's version."""
    addresses: dict[Side, dict[str, int]]
    """Of each kernel, by side and name."""

    def run(self, bound: BoundStep, side: Side) -> None:
        """Compute all items of a step on this thread."""
        address = self.addresses[side][bound.step.kernel]
        self.compiled.run_items(address, bound.arguments.ctypes.data, bound.step.items)


def compile_twins(folder: Path) -> Twins:
    """Compile the twins into `folder`. Raises NoTwins without a C compiler or AVX-512."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoTwins("There is no C compiler (cc) here.")
    try:
        generated = library(INSTRUCTION_SET)
    except NeurotrailsError as error:
        raise NoTwins(f"The twins are written for AVX-512. {error}") from error
    (folder / "twins.h").write_text(_header(generated.instruction_set))
    output = folder / "twins.so"
    subprocess.run([compiler, *FLAGS, f"-I{folder}", SOURCE, "-o", output], check=True)
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    compiled = ctypes.CDLL(str(output))
    compiled.run_items.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    compiled.run_items.restype = None
    addresses: dict[Side, dict[str, int]] = {
        "generated": {name: generated.addresses[name] for name in TWINNED},
        "twin": {name: _address(compiled, f"twin_{name}") for name in TWINNED},
    }
    return Twins(generated, compiled, version.splitlines()[0], addresses)


def _address(compiled: ctypes.CDLL, function: str) -> int:
    address = ctypes.cast(getattr(compiled, function), ctypes.c_void_p).value
    assert address is not None
    return address


def _header(machine: InstructionSet) -> str:
    """Arguments of the kernels as C structs, and the tiles that there are."""
    lines = ["/* Made by twins.py. */"]
    for name in TWINNED:
        fields = "; ".join(KERNELS[name].fields)
        lines.append(f"typedef struct {{ int64_t {fields.replace('; ', ', ')}; }} {name}_arguments;")
    widths = range(1, machine.max_vectors + 1)
    panels = {width: machine.panel_rows(width) for width in widths}
    tiles = " ".join(f"F({width}, {panel})" for width, panel in panels.items())
    attention = " ".join(f"F({width})" for width in widths if width <= MOST_VECTORS)
    defines = {
        "FOR_EACH_TILE(F)": tiles, "FOR_EACH_ATTENTION_TILE(F)": attention, "MAX_VECTORS": machine.max_vectors,
        "MAX_PANEL": max(panels.values()), "ATTENTION_VECTORS": MOST_VECTORS, "ATTENTION_ROWS": ROWS,
        "OFFSET_UNIT": OFFSET_UNIT, "RELU": RELU,
    }  # fmt: skip
    lines += [f"#define {name} {value}" for name, value in defines.items()]
    return "\n".join([*lines, ""])


def twinned_steps(plan: Plan) -> list[Step]:
    """Steps of a plan that have a twin."""
    return [
        step
        for step in plan.steps
        if step.kernel in TWINNED and step.fields.get("activation", 0) <= ACTIVATIONS.index("relu")
    ]


def widest_tile(step: Step) -> int:
    """Vectors of the widest tile of a step."""
    return int(step.fields["tiles"][:, 1].max())


def with_tiles(step: Step, width: int) -> Step:
    """Cut the tiles of a step so that none is wider than `width` vectors."""
    tiles = [
        (first + start, min(width, size - start))
        for first, size in step.fields["tiles"].tolist()
        for start in range(0, size, width)
    ]
    fields = step.fields | {"tiles": np.array(tiles, np.int32), "tile_count": len(tiles)}
    return replace(step, fields=fields, items=step.items // step.fields["tile_count"] * len(tiles))
