"""The walk over a graph: the symbols known so far, the operators found so far, and how a symbol becomes a tensor."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx

from runtime.engines.native.operators import (
    Average,
    Choose,
    Combine,
    Floats,
    Operator,
    PaddingMask,
    Scale,
    Select,
    Source,
    Space,
    Tensor,
)
from runtime.engines.native.symbols import (
    Array,
    Choice,
    Linear,
    Mask,
    NotUnderstood,
    Polynomial,
    Ref,
    Symbol,
    image_view,
    row_view,
    space_of_rows,
    token_view,
)
from runtime.engines.native.views import (
    CHANNELS,
    IMAGES,
    LANES,
    Part,
    View,
    axis,
    indices,
    moved,
    parts_along,
    reshaped,
    sizes,
)
from runtime.errors import UnsupportedModel

Attributes = dict[str, Any]


class Walk:
    """Symbols by name and operators in order. Methods that make operators return what they compute."""

    def __init__(
        self, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], model: onnx.ModelProto
    ) -> None:
        self.symbols: dict[str, Symbol] = dict(constants)
        self.operators: list[Operator] = []
        self._choices: dict[tuple[str, Choice], Tensor] = {}
        for tensor in model.graph.input:
            if tensor.name not in self.symbols:
                self.symbols[tensor.name] = self._input(tensor, shapes[tensor.name])

    def _input(self, tensor: onnx.ValueInfoProto, shape: tuple[int, ...]) -> Symbol:
        is_mask = tensor.type.tensor_type.elem_type != onnx.TensorProto.FLOAT
        if len(shape) not in ((2,) if is_mask else (2, 3, 4)):
            raise UnsupportedModel(
                f"The native engine does not support input {tensor.name} of shape {list(shape)}: tensors have the axes "
                "NC, NTC or NCHW, token ids and masks NT. Use another engine, such as onnxruntime."
            )
        if is_mask:
            rows, tokens = shape
            view = (axis(IMAGES, rows), axis(LANES, tokens))
            return Mask(view, tensor.name, Linear(), np.dtype(np.int64))
        if len(shape) == 4:
            rows, channels, height, width = shape
            source = Tensor(tensor.name, channels, Space(rows, height * width, width))
            seen: View = image_view(source)
        elif len(shape) == 3:
            rows, tokens, channels = shape
            source = Tensor(tensor.name, channels, Space(rows, tokens, tokens))
            seen = token_view(source)
        else:
            rows, channels = shape
            source = Tensor(tensor.name, channels, space_of_rows(rows))
            seen = row_view(source)
        self.operators.append(Source(output=source, name=tensor.name))
        return Ref(seen, source)

    def add(self, operator: Operator, view: View) -> Ref:
        """Add an operator; return its output, seen in this view."""
        self.operators.append(operator)
        return Ref(view, operator.output)

    def producer(self, tensor: Tensor) -> Operator:
        """Return the operator that computes a tensor."""
        return next(operator for operator in reversed(self.operators) if operator.output is tensor)

    def plain(self, symbol: Symbol) -> Ref:
        """Return a view of a whole tensor: what nothing has absorbed, a factor or a selection, becomes an operator."""
        if isinstance(symbol, Polynomial):
            return self._polynomial(symbol)
        ref = self.whole(symbol)
        if ref.factor == 1.0:
            return ref
        name = f"{ref.tensor.name}*{ref.factor:.3g}"
        return replace(self.scale(name, replace(ref, factor=1.0), scale=ref.factor), factor=1.0)

    def whole(self, symbol: Symbol) -> Ref:
        """Return a view of a whole tensor, with a factor; its channels lie in the order of the view."""
        if not isinstance(symbol, Ref):
            raise NotUnderstood("reads something that is not a plain tensor")
        ref, space = symbol, symbol.tensor.space
        if prod(part.size for part in parts_along(ref.view, IMAGES)) != space.images:
            raise NotUnderstood("takes some rows of the batch")
        channels = indices(ref.view, CHANNELS) + ref.first[0]
        if len(channels) != ref.tensor.channels or (channels != np.arange(len(channels))).any():
            name = f"{ref.tensor.name}[{channels[0]}:{channels[-1] + 1}]"
            output = Tensor(name, len(channels), space)
            view = _renumbered(ref.view)
            ref = replace(ref, tensor=output, view=view, first=(0, ref.first[1]))
            self.operators.append(Select(output=output, x=symbol.tensor, channels=channels))
        lanes = prod(part.size for part in parts_along(ref.view, LANES))
        if lanes == 1 < space.lanes:
            return replace(self.average(f"{ref.tensor.name} {ref.first[1]}", ref, ref.view, lane=ref.first[1]),
                           factor=ref.factor)  # fmt: skip
        if lanes != space.lanes:
            raise NotUnderstood("takes some of the tokens or pixels, neither one nor all")
        return ref

    def scale(
        self,
        name: str,
        x: Ref,
        *,
        scale: Floats | float = 1.0,
        shift: Floats | float = 0.0,
        residual: Ref | None = None,
        activation: str = "none",
    ) -> Ref:
        """activation(x * scale + shift + residual) of whole tensors; numbers are per channel or one for all."""
        channels = x.tensor.channels
        operator = Scale(
            output=Tensor(name, channels, x.tensor.space), x=x.tensor,
            scale=np.full(channels, scale, np.float32), shift=np.full(channels, shift, np.float32),
            residual=residual.tensor if residual else None, activation=activation,
        )  # fmt: skip
        return self.add(operator, x.view)

    def combine(self, name: str, kind: str, x: Ref, y: Ref | Floats) -> Ref:
        """x times, divided by or plus y; y lies as x does, or is one value per row and channel, or a constant
        [channels, lanes].
        """
        output = Tensor(name, x.tensor.channels, x.tensor.space)
        other = y.tensor if isinstance(y, Ref) else y
        return self.add(Combine(output=output, x=x.tensor, y=other, kind=kind), x.view)

    def average(
        self, name: str, x: Ref, view: View, *, weights: PaddingMask | Tensor | None = None,
        least: float = 0.0, lane: int | None = None,
    ) -> Ref:  # fmt: skip
        """Mean over lanes, or one lane; `view` is that of x without its lanes. Rows of the batch become lanes."""
        output = Tensor(name, x.tensor.channels, space_of_rows(x.tensor.space.images))
        average = Average(output=output, x=x.tensor, weights=weights, least=least, lane=lane)
        return self.add(average, moved(view, IMAGES, LANES))

    def mask(self, mask: Mask) -> PaddingMask | Tensor:
        """Return a mask as number per token, for an operator that reads it."""
        if isinstance(mask.value, Linear):
            return PaddingMask(mask.source, mask.value.factor, mask.value.term)
        key = (mask.source, mask.value)
        if key not in self._choices:
            rows, tokens = self.symbols[mask.source].shape  # type: ignore[union-attr]
            output = Tensor(f"{mask.source} == {mask.value.equals:g}", 1, Space(rows, tokens, tokens))
            equals, yes, no = mask.value.equals, mask.value.yes, mask.value.no
            self.operators.append(Choose(output=output, mask=mask.source, equals=equals, yes=yes, no=no))
            self._choices[key] = output
        return self._choices[key]

    def _polynomial(self, polynomial: Polynomial) -> Ref:
        """Horner's rule."""
        x = self.plain(polynomial.x)
        first, second, third = polynomial.coefficients
        name = f"powers of {x.tensor.name}"
        inner = self.scale(name, x, scale=third, shift=second) if third else None
        inner = self.combine(name, "mul", inner, x) if inner else None
        inner = self.scale(name, inner, shift=first) if inner else self.scale(name, x, scale=second, shift=first)
        return self.combine(name, "mul", inner, x)


def _renumbered(view: View) -> View:
    """Return the view with the channels that it shows side by side, in its order."""
    step = 1
    axes = []
    for parts in reversed(view):
        new = []
        for part in reversed(parts):
            if part.dimension is CHANNELS:
                new.append(Part(CHANNELS, part.size, step))
                step *= part.size
            else:
                new.append(part)
        axes.append(tuple(reversed(new)))
    return reshaped(tuple(reversed(axes)), sizes(view)) or view


Rule = Callable[[Walk, str, Attributes, list[Symbol]], Symbol | tuple[Symbol, ...]]
"""(walk, name of the output, attributes, inputs) -> what the output is, or the outputs are."""


def constant(symbol: Symbol, what: str) -> Array:
    """Return a symbol that must be a constant."""
    if not isinstance(symbol, np.ndarray):
        raise NotUnderstood(f"{what} must be a constant")
    return symbol


def floats(symbol: Symbol, what: str) -> Floats:
    """Return a symbol that must be a constant, as float32."""
    return np.ascontiguousarray(constant(symbol, what), dtype=np.float32)


def axes_of(attributes: Attributes, inputs: list[Symbol], rank: int) -> list[int]:
    """Axes of an operator that takes them as attribute or as second input, sorted; all if there are none."""
    axes = constant(inputs[1], "the axes").tolist() if len(inputs) > 1 else attributes.get("axes", range(rank))
    return sorted(axis % rank for axis in axes)
