"""What a plan is: steps over buffers. It generates no code and runs nothing; `planning.plan_network` makes one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.emitter import LINE
from runtime.engines.native.layout import Layout

WEIGHTS = ("values", "offsets", "rows", "block_bases", "parts", "starts", "weight", "bias")
"""Fields that hold the weights of a convolution or linear layer, as its kernel reads them."""


@dataclass(frozen=True)
class Scratch:
    """A field with this value gets an address in the private memory of thread 0."""

    offset: int = 0


@dataclass(eq=False)
class Buffer:
    """Memory of one tensor: allocated for the waves from `first` to `last`, which may share memory with others."""

    name: str
    nbytes: int
    first: int
    last: int
    pinned: bool = False
    """Inputs and outputs: alive all the time."""
    offset: int = -1
    """Place in the arena, set once all buffers are known."""


@dataclass(frozen=True)
class Output:
    """A result, in planes, and what it is in the ONNX graph."""

    buffer: Buffer
    layout: Layout
    lanes: int
    """Lanes of the tensor; behind them memory is rounded up."""
    axes: str
    """NC, NC11, NTC or NCHW."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One kernel over a number of items. A field is a number, a buffer or a constant array."""

    kernel: str
    label: str
    items: int
    fields: dict[str, Any]
    """Arguments by name; those of a `gather` are its own."""
    macs: int = 0
    """Multiply-adds with kept weights."""
    gather: "Step | None" = None
    """Step that gathers the pixels of a chunk before this one convolves them, item by item."""
    seconds: float = 0.0
    """Estimated by the cost model; 0 where it has none."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of a convolution or linear layer as they are packed; 0 for other steps."""
        found = (self.fields.get(name) for name in WEIGHTS)
        return sum(value.nbytes for value in found if isinstance(value, np.ndarray))


@dataclass
class Plan:
    """All steps of a network, or of a trunk and several heads, at one shape."""

    waves: list[list[Step]] = field(default_factory=list)
    """Steps that run side by side; all of a wave are done before the next begins."""
    buffers: list[Buffer] = field(default_factory=list)
    sources: dict[str, tuple[Buffer, Layout]] = field(default_factory=dict)
    """Float inputs by name."""
    integers: dict[str, tuple[Buffer, Layout, int]] = field(default_factory=dict)
    """Token ids, int32, by input name, with the number of rows of the table."""
    masks: dict[str, tuple[Buffer, Layout]] = field(default_factory=dict)
    """Integer inputs as float32, by input name."""
    outputs: dict[str, Output] = field(default_factory=dict)
    arena_bytes: int = 0
    scratch_bytes: int = 0
    """Private memory of each thread."""

    @property
    def rows(self) -> int:
        """Rows of the batch that it was made for."""
        return next(iter(self.outputs.values())).shape[0]

    @property
    def steps(self) -> list[Step]:
        """All steps, wave by wave."""
        return [step for wave in self.waves for step in wave]

    def __str__(self) -> str:
        lines = [f"{'kernel':12} {'items':>6} {'MACs':>12}  what"]
        lines += [f"{step.kernel:12} {step.items:6} {step.macs:12,}  {step.label}" for step in self.steps]
        lines.append(f"{self.arena_bytes / 2**20:.2f} MiB for {len(self.buffers)} buffers")
        return "\n".join(lines)


def assign(buffers: list[Buffer]) -> int:
    """Give every buffer a place such that those alive at the same time do not overlap; return the bytes in all."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda one: -one.nbytes):
        alive = [
            other
            for other in placed
            if buffer.pinned or other.pinned or (buffer.first <= other.last and other.first <= buffer.last)
        ]
        offset = 0
        for other in sorted(alive, key=lambda one: one.offset):
            if other.offset - offset >= buffer.nbytes:
                break
            offset = max(offset, -(-(other.offset + other.nbytes) // LINE) * LINE)
        buffer.offset = offset
        placed.append(buffer)
    return max((buffer.offset + buffer.nbytes for buffer in buffers), default=0)


def replace_constants(plans: Iterable[Plan], place: Callable[[list[NDArray[Any]]], list[NDArray[Any]]]) -> None:
    """Let plans read their constants from where `place` has put them; it is given each array once."""
    steps = [part for plan in plans for step in plan.steps for part in (step, step.gather) if part is not None]
    arrays = {id(value): value for step in steps for value in step.fields.values() if isinstance(value, np.ndarray)}
    placed = dict(zip(arrays, place(list(arrays.values())), strict=True))
    for step in steps:
        step.fields.update({name: placed[id(value)] for name, value in step.fields.items() if id(value) in placed})
