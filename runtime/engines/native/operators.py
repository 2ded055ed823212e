"""The operators of a network after its ONNX graph has been understood: what the planner plans.

A tensor has channels and lanes. Lanes are the pixels of an image, the tokens of a text, or, behind pooling, the rows of
a batch; lanes of different rows never mix.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Space:
    """Where lanes lie: so many images (rows of the batch) of so many lanes, in lines of `width`."""

    images: int
    lanes: int
    width: int

    @property
    def height(self) -> int:
        """Lines of an image."""
        return self.lanes // self.width


@dataclass(frozen=True, eq=False)
class Tensor:
    """A float32 tensor [images, channels, lanes]."""

    name: str
    channels: int
    space: Space


@dataclass(frozen=True)
class Window:
    """How a convolution or pooling looks at its input; pairs are (vertical, horizontal).

    `pads` are the zeros at top and left, `end_pads` those at bottom and right.
    """

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    dilations: tuple[int, int] = (1, 1)
    end_pads: tuple[int, int] = (0, 0)

    @property
    def pointwise(self) -> bool:
        """Whether each output lane reads the one input lane at its place."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and self.pads == self.end_pads == (0, 0)


@dataclass(frozen=True)
class PaddingMask:
    """An int64 model input [rows, tokens] as number: value * factor + term."""

    name: str
    factor: float = 1.0
    term: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Operator:
    """Computes `output` from tensors."""

    output: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors that are read."""
        fields = [value for name, value in vars(self).items() if name != "output"]
        several = [each for value in fields for each in (value if isinstance(value, tuple) else (value,))]
        return tuple(value for value in several if isinstance(value, Tensor))


@dataclass(frozen=True, eq=False, kw_only=True)
class Source(Operator):
    """A float32 model input or features, [rows, channels, ...]."""

    name: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolve(Operator):
    """Convolution or linear layer: weight [outputs, inputs, kernel height, kernel width], bias [outputs]; then residual
    and activation, once fused."""

    x: Tensor
    weight: Floats
    bias: Floats
    window: Window = Window()
    residual: Tensor | None = None
    activation: str = "none"


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Operator):
    """x * scale + shift per channel, plus `residual`, then the activation."""

    x: Tensor
    scale: Floats
    shift: Floats
    residual: Tensor | None = None
    activation: str = "none"


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerNorm(Operator):
    """Norm over the channels of each lane."""

    x: Tensor
    gamma: Floats
    beta: Floats
    epsilon: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Attend(Operator):
    """Multi-head attention: softmax(scale * query . key + mask) . value; channels are heads x width."""

    query: Tensor
    key: Tensor
    value: Tensor
    heads: int
    scale: float
    mask: PaddingMask | Tensor | None
    """A function of a model input, or a tensor of one channel, added to the scores of each key."""
    clear: bool = False
    """Whether weights that are not numbers, those of a row without any key, are 0."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Embed(Operator):
    """Rows of `table` [vocabulary, channels] by the int64 input `ids`, plus `positions` [tokens, channels]."""

    ids: str
    table: Floats
    positions: Floats | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Average(Operator):
    """Mean over the lanes of each image, or one lane; before it, a Scale once fused. Images become lanes."""

    x: Tensor
    weights: PaddingMask | Tensor | None = None
    """Weight of each lane."""
    least: float = 0.0
    """The sum is divided by no less than this."""
    lane: int | None = None
    """The only lane that counts."""
    norm: Scale | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Operator):
    """Largest value under the window."""

    x: Tensor
    window: Window


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Operator):
    """Mean of the values under the window; `pads_count`: zeros of the padding are values, too."""

    x: Tensor
    window: Window
    pads_count: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Combine(Operator):
    """x times, divided by or plus y, for `kind` mul, div or add.

    y is a tensor like x, or one with a value for each image of x as lanes, or a constant [channels, lanes].
    """

    x: Tensor
    y: Tensor | Floats
    kind: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Select(Operator):
    """Channels of x by number, in any order."""

    x: Tensor
    channels: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Join(Operator):
    """Channels of tensors, one after the other."""

    xs: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Choose(Operator):
    """One channel: `yes` for each token whose mask equals a number, `no` for the others."""

    mask: str
    equals: float
    yes: float
    no: float
