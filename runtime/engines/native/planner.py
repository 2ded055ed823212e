"""What planning an operator needs: where tensors lie, which norms are absorbed, the plan that grows."""

import math
from typing import Any

from runtime.engines.native.fuse import consumers
from runtime.engines.native.graph import Network
from runtime.engines.native.layout import Layout, chunk_of, chunked, planes, vectors_of
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.operators import Attend, Convolve, MaxPool, Scale, Space, Tensor
from runtime.engines.native.plan import Buffer, Plan, Step
from runtime.engines.native.streams import Streams

ITEMS_PER_THREAD = 4
"""Items of a step for each thread: enough to even out what other processes take."""

Packed = dict[tuple[str, bytes, int, int, int], Streams]
"""Packed weights by layer, taps, channel step, block and parts: the same at most shapes of one graph."""


class Planner:
    """A plan that grows, operator by operator."""

    def __init__(self, network: Network, threads: int, machine: InstructionSet, packed: Packed) -> None:
        self.operators, self.threads, self.machine = network.operators, threads, machine
        self.packed = packed
        self.plan = Plan()
        self.tensors: dict[Tensor, tuple[Buffer, Layout]] = {}
        self.outputs = {ref.tensor for ref in network.outputs.values()}
        self.norms = {
            operator.output: operator
            for operator in network.operators
            if isinstance(operator, Scale) and self._is_absorbed(operator)
        }
        self.absorbed = set(self.norms)

    def _is_absorbed(self, scale: Scale) -> bool:
        """Whether all who read a norm apply it themselves while they gather pixels."""
        readers = consumers(self.operators, scale.output)
        gathers = all(
            isinstance(reader, Convolve) and not reader.window.pointwise and reader.residual is not scale.output
            for reader in readers
        )
        plain = scale.residual is None and scale.activation in ("none", "relu")
        return gathers and plain and scale.output not in self.outputs

    def layout_for(self, tensor: Tensor) -> Layout:
        """Planes where someone gathers pixels or tokens from the tensor, chunks where only tiles are read."""
        readers = consumers(self.operators, tensor)
        for scale in self.norms.values():
            readers += consumers(self.operators, scale.output) if scale.x is tensor else []
        gathers = any(
            isinstance(reader, MaxPool | Attend)
            or (isinstance(reader, Convolve) and not reader.window.pointwise and reader.window.strides == (1, 1))
            for reader in readers
        )
        if gathers or tensor in self.outputs:
            return planes(tensor.space, tensor.channels)
        return chunked(tensor.space, tensor.channels, self.chunk(tensor.space))

    def chunk(self, space: Space) -> int:
        """Vectors of a chunk."""
        return chunk_of(vectors_of(space), self.threads)

    def new_buffer(self, name: str, nbytes: int, *, pinned: bool = False) -> Buffer:
        """Add a buffer that is alive from the next step on."""
        buffer = Buffer(name, nbytes, len(self.plan.steps), len(self.plan.steps), pinned)
        self.plan.buffers.append(buffer)
        return buffer

    def define(self, tensor: Tensor, *, pinned: bool = False) -> tuple[Buffer, Layout]:
        """Give a tensor its layout and memory; `pinned` for what is read or written between runs."""
        layout = planes(tensor.space, tensor.channels) if pinned else self.layout_for(tensor)
        self.tensors[tensor] = (self.new_buffer(tensor.name, layout.nbytes, pinned=pinned), layout)
        return self.tensors[tensor]

    def step(
        self, kernel: str, label: str, items: int, fields: dict[str, Any], macs: int = 0, seconds: float = 0.0
    ) -> None:
        """Add a step, and keep its buffers alive until then."""
        for value in fields.values():
            if isinstance(value, Buffer):
                value.last = len(self.plan.steps)
        self.plan.steps.append(Step(kernel, label, items, fields, macs, seconds))

    def parts(self, places: int, rows: int) -> int:
        """Into how many parts to cut the rows of a layer so that every thread gets as much work at so many places."""
        if places >= ITEMS_PER_THREAD * self.threads * 2:
            return 1
        return min(self.threads // math.gcd(places, self.threads), max(1, rows // 4))

    def scratch(self, nbytes: int) -> int:
        """Ask for private memory of each thread; return its size."""
        self.plan.scratch_bytes = max(self.plan.scratch_bytes, nbytes)
        return nbytes

    def groups(self, channels: int, places: int) -> dict[str, int]:
        """Split channels into groups so that there are enough items."""
        groups = min(channels, max(1, -(-ITEMS_PER_THREAD * self.threads // places)))
        group = -(-channels // groups)
        return {"channels": channels, "group": group, "groups": -(-channels // group)}

    def located(self, name: str, tensor: Tensor | None) -> dict[str, object]:
        """Kernel arguments `located(name)` of a tensor; zeros for none."""
        if tensor is None:
            return Layout(0, 0, 1, 1, 0, 0).fields(name, 0)
        buffer, layout = self.tensors[tensor]
        return layout.fields(name, buffer)

    def mask(self, name: str, space: Space) -> tuple[Buffer, Layout]:
        """Return the integer input as float32, one value per lane, 0 behind the end."""
        if name not in self.plan.masks:
            layout = planes(space, 1)
            self.plan.masks[name] = (self.new_buffer(name, layout.nbytes, pinned=True), layout)
        return self.plan.masks[name]
