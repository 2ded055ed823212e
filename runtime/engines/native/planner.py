"""What planning an operator needs: where tensors lie, which norms are absorbed, the plan that grows."""

import math
from collections import defaultdict
from typing import Any

from runtime.engines.native.graph import Ref
from runtime.engines.native.kernels.schedule import ITEM_BITS
from runtime.engines.native.layout import Layout, chunk_of, chunked, planes, vectors_of
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.operators import Attend, Convolve, MaxPool, Operator, Scale, Space, Tensor
from runtime.engines.native.plan import Buffer, Plan, Step
from runtime.engines.native.streams import Packed
from runtime.errors import UnsupportedModel

MOST_ITEMS = 2**ITEM_BITS // 8
"""Items of a step, with room for several steps in a wave and for threads that come late."""
ITEMS_PER_THREAD = 4
"""Items of a step for each thread: enough to even out what other processes take."""


class Planner:
    """A plan that grows, operator by operator."""

    def __init__(
        self,
        operators: list[Operator],
        outputs: dict[str, Ref],
        threads: int,
        team: int,
        machine: InstructionSet,
        packed: Packed,
    ) -> None:
        self.threads, self.team, self.machine = threads, team, machine
        self.packed = packed
        self.readers: dict[Tensor, list[Operator]] = defaultdict(list)
        for operator in operators:
            for tensor in operator.inputs:
                self.readers[tensor].append(operator)
        self.plan = Plan()
        self.network = ""
        """Name of the network that is being planned."""
        self.wave = 0
        """Wave of the next step."""
        self.side_by_side = 1
        """How many heads are planned to run at the same time."""
        self.tensors: dict[Tensor, tuple[Buffer, Layout]] = {}
        self.outputs = {ref.tensor for ref in outputs.values()}
        self.norms = {
            operator.output: operator
            for operator in operators
            if isinstance(operator, Scale) and self._is_absorbed(operator)
        }
        self.absorbed = set(self.norms)

    def _is_absorbed(self, scale: Scale) -> bool:
        """Whether all who read a norm apply it themselves while they gather pixels."""
        readers = self.readers[scale.output]
        gathers = all(
            isinstance(reader, Convolve) and not reader.window.pointwise and reader.residual is not scale.output
            for reader in readers
        )
        plain = scale.residual is None and scale.activation in ("none", "relu")
        return gathers and plain and scale.output not in self.outputs

    def layout_for(self, tensor: Tensor) -> Layout:
        """Planes where someone gathers pixels or tokens from the tensor, chunks where only tiles are read."""
        readers = list(self.readers[tensor])
        for scale in self.norms.values():
            readers += self.readers[scale.output] if scale.x is tensor else []
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
        """Add a buffer that is alive from the next wave on."""
        buffer = Buffer(name, nbytes, self.wave, self.wave, pinned)
        self.plan.buffers.append(buffer)
        return buffer

    def define(self, tensor: Tensor, *, pinned: bool = False) -> tuple[Buffer, Layout]:
        """Give a tensor its layout and memory; `pinned` for what is read or written between runs."""
        layout = planes(tensor.space, tensor.channels) if pinned else self.layout_for(tensor)
        self.tensors[tensor] = (self.new_buffer(tensor.name, layout.nbytes, pinned=pinned), layout)
        return self.tensors[tensor]

    def step(
        self,
        kernel: str,
        label: str,
        items: int,
        fields: dict[str, Any],
        macs: int = 0,
        seconds: float = 0.0,
        gather: Step | None = None,
    ) -> None:
        """Add a step to the wave, keep its buffers alive until then, and go on to the next wave.

        Raises UnsupportedModel for more items than a wave can count.
        """
        if items >= MOST_ITEMS:
            raise UnsupportedModel(f"{label} has {items} pieces of work; the native engine takes below {MOST_ITEMS}.")
        for value in (*fields.values(), *(gather.fields.values() if gather else ())):
            if isinstance(value, Buffer):
                value.last = max(value.last, self.wave)
        if self.wave == len(self.plan.waves):
            self.plan.waves.append([])
        self.plan.waves[self.wave].append(Step(kernel, label, items, fields, macs, gather, seconds))
        self.wave += 1

    def parts(self, places: int, rows: int) -> int:
        """Into how many parts to cut the rows of a layer so that every thread gets as much work at so many places."""
        if places >= ITEMS_PER_THREAD * self.team * 2:
            return 1
        return min(self.team // math.gcd(places, self.team), max(1, rows // 4))

    def shared_evenly(self, places: int) -> bool:
        """Whether every thread gets about as many of so many places in each head."""
        places *= self.side_by_side
        return places % self.threads == 0 or places >= ITEMS_PER_THREAD * self.threads

    def scratch(self, nbytes: int) -> int:
        """Ask for private memory of each thread; return its size."""
        self.plan.scratch_bytes = max(self.plan.scratch_bytes, nbytes)
        return nbytes

    def groups(self, channels: int, places: int) -> dict[str, int]:
        """Split channels into groups so that there are enough items."""
        places *= self.side_by_side
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

    def integers(self, name: str, space: Space, vocabulary: int) -> tuple[Buffer, Layout]:
        """Return the integer input as int32, one value per lane; every value must be below every `vocabulary`."""
        known = self.plan.integers.get(name)
        if known is None:
            layout = planes(space, 1)
            known = (self.new_buffer(name, layout.nbytes, pinned=True), layout, vocabulary)
        self.plan.integers[name] = (*known[:2], min(known[2], vocabulary))
        return known[:2]
