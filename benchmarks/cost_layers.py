"""Layers of the project's networks, run with every kernel, tile and number of blocks, in turns, on one thread."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cost_fit import Observation
from runtime.engines.native.compile import Library
from runtime.engines.native.convolutions import Choice, Sizes, choices, choose, plan_convolve
from runtime.engines.native.execute import Executor
from runtime.engines.native.layout import vectors_of
from runtime.engines.native.operators import Convolve, Space, Tensor, Window
from runtime.engines.native.plan import Buffer, Plan, assign
from runtime.engines.native.planner import Planner
from runtime.engines.native.streams import Packed

ROUNDS = 4
"""Runs of one way after another in a turn: the first finds cold caches."""


@dataclass(frozen=True)
class Layer:
    """A layer to measure: [outputs, inputs, window, window] on square images, or on tokens where `height` is 1."""

    outputs: int
    inputs: int
    window: int
    height: int
    width: int
    density: float
    stride: int = 1

    @property
    def name(self) -> str:
        """One line."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.inputs}->{self.outputs} {self.window}x{self.window}{stride} on {self.height}x{self.width}"

    def convolve(self) -> Convolve:
        """Return the layer with random weights, always the same."""
        generator = np.random.default_rng(0)
        shape = (self.outputs, self.inputs, self.window, self.window)
        weight = generator.standard_normal(shape, dtype=np.float32)
        weight[generator.random(shape) >= self.density] = 0
        pads, stride = (self.window // 2,) * 2, self.stride
        source = Space(1, self.height * self.width * stride**2, self.width * stride)
        return Convolve(
            output=Tensor("y", self.outputs, Space(1, self.height * self.width, self.width)),
            x=Tensor("x", self.inputs, source),
            weight=weight,
            bias=np.zeros(self.outputs, np.float32),
            window=Window((self.window, self.window), (stride, stride), pads, (1, 1), pads),
            activation="relu",
        )


LAYERS = (
    # ResNet-50, with the densities of an evolved topology at 0.1 and around it
    Layer(64, 64, 3, 56, 56, 0.19), Layer(128, 128, 3, 28, 28, 0.093), Layer(256, 256, 3, 14, 14, 0.046),
    Layer(512, 512, 3, 7, 7, 0.023), Layer(128, 128, 3, 28, 28, 0.093, stride=2),
    Layer(512, 256, 1, 28, 28, 0.16, stride=2), Layer(256, 512, 1, 28, 28, 0.3), Layer(512, 128, 1, 28, 28, 0.5),
    Layer(1024, 256, 1, 14, 14, 0.25), Layer(256, 1024, 1, 14, 14, 0.25), Layer(512, 2048, 1, 7, 7, 0.128),
    Layer(2048, 512, 1, 7, 7, 0.07),
    # WRN-28-10
    Layer(160, 160, 3, 32, 32, 0.2), Layer(320, 320, 3, 16, 16, 0.2), Layer(320, 320, 3, 16, 16, 0.05),
    Layer(640, 640, 3, 8, 8, 0.1), Layer(640, 640, 3, 8, 8, 0.03),
    # Encoder 12 x 768, 128 tokens
    Layer(3072, 768, 1, 1, 128, 0.05), Layer(3072, 768, 1, 1, 128, 0.2), Layer(768, 3072, 1, 1, 128, 0.05),
    Layer(768, 3072, 1, 1, 128, 0.2), Layer(768, 768, 1, 1, 128, 0.1),
    # Where density asks for the dense kernel
    Layer(256, 64, 1, 56, 56, 1.0), Layer(64, 256, 1, 56, 56, 1.0), Layer(512, 128, 1, 28, 28, 1.0),
    Layer(128, 512, 1, 28, 28, 1.0), Layer(64, 64, 3, 28, 28, 1.0), Layer(768, 768, 1, 1, 128, 1.0),
    Layer(256, 1024, 1, 14, 14, 1.0), Layer(128, 512, 1, 28, 28, 0.7), Layer(64, 64, 3, 28, 28, 0.7),
)  # fmt: skip
SMOKE_LAYERS = (Layer(24, 16, 3, 8, 8, 0.2), Layer(32, 24, 1, 8, 8, 1.0))


@dataclass(frozen=True)
class Way:
    """One way of computing a layer, measured."""

    choice: Choice
    blocks: int
    """Blocks that were made of the input: more where offsets of 16 bits do not reach, or fewer by rounding."""
    considered: bool
    """Whether the planner considers it: its packed weights take little more memory than the weights."""
    seen: Observation


def measure_layer(layer: Layer, library: Library, turns: int) -> list[Way]:
    """Measure all ways of computing a layer: the least seconds of `turns` times `ROUNDS` runs each.

    The pixels of a window are gathered as part of the layer, as in a network. The planner's own choice is among the
    ways.
    """
    convolve, packed = layer.convolve(), Packed()
    machine = library.instruction_set
    asked: list[Sizes] = []

    def ask(sizes: Sizes) -> Choice:
        asked.append(sizes)
        return choose(sizes)

    def plan(pick: Callable[[Sizes], Choice]) -> tuple[Plan, Buffer]:
        planner = Planner([convolve], {}, 1, 1, machine, packed)
        source, _ = planner.define(convolve.x)
        plan_convolve(planner, convolve, pick)
        planner.plan.arena_bytes = assign(planner.plan.buffers)
        return planner.plan, source

    plan(ask)
    sizes = asked[0]
    considered = set(choices(sizes))
    possible = choices(sizes, lean=False)  # what many blocks cost is only seen where there are many
    plans = [plan(_always(choice)) for choice in possible]
    seconds = _measure(plans, library, turns)
    chunks = vectors_of(convolve.output.space) / sizes.chunk
    return [
        Way(choice, _blocks(each), choice in considered, _observe(choice, each, sizes, chunks, least))
        for choice, (each, _), least in zip(possible, plans, seconds, strict=True)
    ]


def _measure(plans: list[tuple[Plan, Buffer]], library: Library, turns: int) -> list[float]:
    """Seconds of each plan, of which the buffer is the input."""
    generator = np.random.default_rng(1)
    images = {size: generator.standard_normal(size // 4, dtype=np.float32) for size in {one.nbytes for _, one in plans}}
    executor = Executor(library, {index: (plan, None) for index, (plan, _) in enumerate(plans)}, 1)
    least = [float("inf")] * len(plans)
    for _ in range(turns):
        for index, (_, source) in enumerate(plans):
            # All plans share their memory, so another one may have written here.
            executor.programs[index].place(source).view(np.float32)[0] = images[source.nbytes]
            least[index] = min(least[index], sum(executor.measure(index, ROUNDS)))
    executor.close()
    return least


def _always(choice: Choice) -> Callable[[Sizes], Choice]:
    return lambda _: choice


def _blocks(plan: Plan) -> int:
    return int(plan.steps[-1].fields["blocks"])


def _observe(choice: Choice, plan: Plan, sizes: Sizes, chunks: float, seconds: float) -> Observation:
    """`plan` gathers in a wave of its own, as a part of the only step, or not at all."""
    step = plan.steps[-1]
    gather = step.gather or (plan.steps[0] if len(plan.steps) > 1 else None)
    gathered = 0
    if gather is not None:
        fields = gather.fields
        gathered = fields["channels"] * fields["entries"] * fields["chunks"]
    return Observation(
        sizes=sizes, chunks=chunks, kernel=choice.kernel, tile=choice.tile, blocks=choice.blocks,
        gather=gather.kernel if gather is not None else None, gathered=gathered, seconds=seconds,
    )  # fmt: skip
