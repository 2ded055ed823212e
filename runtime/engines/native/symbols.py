"""What a value of an ONNX graph is, while the graph is walked: a constant, a view of a tensor, or a part of a pattern.

A symbol carries what has not been computed yet: a scalar factor, half a GELU, a norm up to its variance, attention
scores. It becomes an operator where the pattern is complete.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.operators import PaddingMask, Space, Tensor
from runtime.engines.native.views import CHANNELS, IMAGES, LANES, Axis, View, axis, sizes

Array = NDArray[Any]


class NotUnderstood(Exception):  # noqa: N818 - reads as a statement
    """A node is not one of the forms that are known; carries why."""


@dataclass(frozen=True, eq=False)
class Viewed:
    """A value whose axes are a view of memory."""

    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return sizes(self.view)


@dataclass(frozen=True, eq=False)
class Ref(Viewed):
    """`factor` times what a view shows of a tensor; it begins at channel `first[0]` and lane `first[1]`."""

    tensor: Tensor
    first: tuple[int, int] = (0, 0)
    factor: float = 1.0

    @property
    def axes(self) -> str:
        """Order of the axes of a whole tensor: NC or NC11 where lanes are rows, NTC, NCHW; empty for any other."""
        for axes, view in views_of(self.tensor).items():
            if self.view == view:
                return axes
        return ""

    def same(self, other: "Symbol") -> bool:
        """Whether both show the same values in the same places."""
        return (
            isinstance(other, Ref)
            and self.tensor is other.tensor
            and (self.view, self.first, self.factor) == (other.view, other.first, other.factor)
        )


def channels_of(tensor: Tensor) -> Axis:
    """Return the axis of all channels."""
    return axis(CHANNELS, tensor.channels)


def image_view(tensor: Tensor) -> View:
    """[N, C, H, W]."""
    space = tensor.space
    height, width = axis(LANES, space.height, space.width), axis(LANES, space.width)
    return (axis(IMAGES, space.images), channels_of(tensor), height, width)


def token_view(tensor: Tensor) -> View:
    """[N, T, C]."""
    return (axis(IMAGES, tensor.space.images), axis(LANES, tensor.space.lanes), channels_of(tensor))


def row_view(tensor: Tensor) -> View:
    """[N, C], lanes are rows."""
    return (axis(LANES, tensor.space.lanes), channels_of(tensor))


def views_of(tensor: Tensor) -> dict[str, View]:
    """Orders of axes in which features and logits may leave a graph."""
    rows = row_view(tensor) if tensor.space.images == 1 else ()
    views = {"NC": rows, "NC11": (*rows, (), ()), "NTC": token_view(tensor), "NCHW": image_view(tensor)}
    return {axes: view for axes, view in views.items() if view[1:]}


def space_of_rows(rows: int) -> Space:
    """Lanes are the rows of a batch."""
    return Space(1, rows, rows)


@dataclass(frozen=True)
class Linear:
    """A number of a mask: value * factor + term."""

    factor: float = 1.0
    term: float = 0.0


@dataclass(frozen=True)
class Choice:
    """`yes` where a mask equals a number, `no` elsewhere."""

    equals: float
    yes: float
    no: float


@dataclass(frozen=True, eq=False)
class Mask(Viewed):
    """A function of an int64 model input [rows, tokens]."""

    source: str
    value: Linear | Choice
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class Polynomial:
    """x * c[0] + x^2 * c[1] + x^3 * c[2]; the factor of x is 1."""

    x: Ref
    coefficients: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Curve:
    """factor * f(x) + term: becomes a GELU when it meets x. f is erf(x / sqrt 2) or its tanh approximation."""

    kind: Literal["gelu", "gelu_tanh"]
    x: Ref
    factor: float = 1.0
    term: float = 0.0


@dataclass(frozen=True, eq=False)
class Moment:
    """A layer norm that is spelled out, as far as it has come: over the channels, which are axis `over` of x."""

    stage: Literal["mean", "centred", "squares", "variance", "deviation"]
    x: Ref
    over: int
    epsilon: float = 0.0


@dataclass(frozen=True, eq=False)
class Scores(Viewed):
    """Attention scores, or their softmax. The axis of queries is a repetition, that of keys lanes."""

    query: Tensor
    key: Tensor
    scale: float
    mask: PaddingMask | Tensor | None = None
    normalized: bool = False
    clear: bool = False
    """Whether weights that are not numbers, those of a row without any key, are 0."""


@dataclass(frozen=True, eq=False)
class IsNaN:
    """Where attention weights are not numbers."""

    scores: Scores


@dataclass(frozen=True, eq=False)
class Weighted(Viewed):
    """x times a mask with one value per token; summed over tokens or not."""

    x: Ref
    mask: Mask
    summed: bool = False


@dataclass(frozen=True, eq=False)
class MaskTotal(Viewed):
    """The sum of a mask over the tokens, or `least` if that is more."""

    mask: Mask
    least: float = 0.0


Symbol = Array | Viewed | Polynomial | Curve | Moment | IsNaN
