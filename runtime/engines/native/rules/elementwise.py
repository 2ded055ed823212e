"""Rules for sums, products, powers and activations, and for the patterns that are made of them."""

from dataclasses import replace

import numpy as np

from runtime.engines.native.operators import Embed, Floats, LayerNorm, Scale, Tensor
from runtime.engines.native.rules.attention import attend, plus_mask, scores
from runtime.engines.native.rules.layers import linear
from runtime.engines.native.symbols import (
    Array,
    Curve,
    Linear,
    Mask,
    MaskTotal,
    Moment,
    NotUnderstood,
    Polynomial,
    Ref,
    Scores,
    Symbol,
    Weighted,
)
from runtime.engines.native.views import CHANNELS, IMAGES, LANES, axis, follows, in_memory_order, moved, sizes
from runtime.engines.native.walk import Attributes, Rule, Walk, constant, floats

GELU_SLOPE, GELU_CUBE = (2 / np.pi) ** 0.5, 0.044715
"""gelu(x) is about x / 2 * (1 + tanh(SLOPE * (x + CUBE * x^3)))."""


def add(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Add."""
    del attributes
    left, right = inputs
    return _sum(walk, name, left, right, 1.0)


def subtract(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Sub."""
    del attributes
    left, right = inputs
    if isinstance(right, Moment) and right.stage == "mean" and right.x.same(left):
        return replace(right, stage="centred")
    if isinstance(left, np.ndarray):
        return _plus_constant(walk, name, _times_constant(walk, name, right, np.array(-1.0)), left)
    return _sum(walk, name, left, right, -1.0)


def _sum(walk: Walk, name: str, left: Symbol, right: Symbol, sign: float) -> Symbol:
    """left + sign * right."""
    if isinstance(left, np.ndarray):
        left, right = right, left
    if isinstance(right, np.ndarray):
        return _plus_constant(walk, name, left, right * np.float32(sign))
    for scored, mask in ((left, right), (right, left)):
        if isinstance(scored, Scores) and isinstance(mask, Mask) and sign > 0:
            return plus_mask(walk, scored, mask)
    polynomial = _polynomial_sum(left, right, sign)
    if polynomial is not None:
        return polynomial
    a, b = walk.plain(left), walk.plain(_times_constant(walk, name, right, np.array(sign)))
    _require_alike(a, b)
    return walk.scale(name, a, residual=b)


def _polynomial_sum(left: Symbol, right: Symbol, sign: float) -> Polynomial | None:
    """Return the sum of powers of the same tensor, where at least one is not the first."""
    if not isinstance(left, Polynomial) and not isinstance(right, Polynomial):
        return None
    a, b = _as_polynomial(left), _as_polynomial(right)
    if a is None or b is None or not a.x.same(b.x):
        return None
    first, second, third = (p + sign * q for p, q in zip(a.coefficients, b.coefficients, strict=True))
    return Polynomial(a.x, (first, second, third))


def _as_polynomial(symbol: Symbol) -> Polynomial | None:
    if isinstance(symbol, Ref):
        return Polynomial(replace(symbol, factor=1.0), (symbol.factor, 0.0, 0.0))
    return symbol if isinstance(symbol, Polynomial) else None


def _require_alike(a: Ref, b: Ref) -> None:
    if a.view != b.view or a.tensor.space != b.tensor.space or a.tensor.channels != b.tensor.channels:
        raise NotUnderstood(f"tensors of shapes {list(a.shape)} and {list(b.shape)} that do not lie alike")


def _plus_constant(walk: Walk, name: str, left: Symbol, term: Array) -> Symbol:
    if isinstance(left, Curve) and term.size == 1:
        return replace(left, term=left.term + float(term.item()))
    if isinstance(left, Moment) and left.stage == "variance" and term.size == 1:
        return replace(left, epsilon=left.epsilon + float(term.item()))
    if term.size == 1 and not float(term.item()):
        return left
    ref = walk.plain(left)
    vector = _per_channel(ref, term)
    if vector is not None:
        return walk.scale(name, ref, shift=vector)
    places = _per_place(ref, term)
    embed = walk.producer(ref.tensor)
    if isinstance(embed, Embed):
        before = 0 if embed.positions is None else embed.positions
        output = Tensor(name, ref.tensor.channels, ref.tensor.space)
        positions = np.ascontiguousarray(places.T + before)
        return walk.add(replace(embed, output=output, positions=positions), ref.view)
    return walk.combine(name, "add", ref, places)


def _per_channel(ref: Ref, numbers: Array) -> Floats | None:
    """Return a constant that broadcasts to `ref` as one value per channel, or None if it is not that."""
    wanted = sizes(tuple(p if all(one.dimension is CHANNELS for one in p) else () for p in ref.view))
    shape = (1,) * (len(wanted) - numbers.ndim) + numbers.shape
    if len(shape) > len(wanted) or any(size not in (1, want) for size, want in zip(shape, wanted, strict=True)):
        return None
    if int(np.prod(wanted)) != ref.tensor.channels and numbers.size != 1:
        return None
    spread = np.broadcast_to(numbers.reshape(shape), wanted).reshape(-1)
    return np.array(np.broadcast_to(spread, (ref.tensor.channels,)), np.float32)


def _per_place(ref: Ref, numbers: Array) -> Floats:
    """Return a constant that broadcasts to `ref` as [channels, lanes]; the same for all rows of the batch."""
    try:
        whole = in_memory_order(np.broadcast_to(numbers, ref.shape), ref.view)
    except ValueError:
        raise NotUnderstood(f"a constant of shape {list(numbers.shape)}") from None
    if (whole != whole[:1]).any():
        raise NotUnderstood("a constant that differs from row to row")
    return np.ascontiguousarray(whole[0], np.float32)


def multiply(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Mul."""
    del attributes
    left, right = inputs
    if isinstance(left, np.ndarray):
        left, right = right, left
    if isinstance(right, np.ndarray):
        return _times_constant(walk, name, left, right)
    if isinstance(left, Moment):
        return _square(left, right)
    for x, other in ((left, right), (right, left)):
        if not isinstance(x, Ref):
            continue
        if isinstance(other, Curve) and replace(x, factor=1.0).same(other.x):
            return _gelu(walk, name, x, other)
        if isinstance(other, Mask):
            return _weighted(walk, x, other)
        if isinstance(other, Polynomial) and other.coefficients[0] == other.coefficients[2] == 0:
            return _cube(walk, name, x, other)
        if isinstance(other, Ref) and (silu := _silu(walk, name, x, other)):
            return silu
    if isinstance(left, Ref) and replace(left, factor=1.0).same(
        replace(right, factor=1.0) if isinstance(right, Ref) else right
    ):
        assert isinstance(right, Ref)
        return Polynomial(replace(left, factor=1.0), (0.0, left.factor * right.factor, 0.0))
    return _combined(walk, name, "mul", left, right)


def _combined(walk: Walk, name: str, kind: str, left: Symbol, right: Symbol) -> Symbol:
    """Product or quotient of tensors that lie alike, or of an image and one value for each of its channels."""
    a, b = walk.plain(left), walk.plain(right)
    if kind == "mul" and _gates(b, a):
        a, b = b, a
    if not _gates(a, b):
        _require_alike(a, b)
    return walk.combine(name, kind, a, b)


def _gates(x: Ref, gate: Ref) -> bool:
    """Whether `gate` has one value for each row and channel of x, and broadcasts to it."""
    space = x.tensor.space
    if gate.tensor.space.images != 1 or gate.tensor.space.lanes != space.images or space.lanes == 1:
        return False
    without = tuple(tuple(part for part in parts if part.dimension is not LANES) for parts in x.view)
    return gate.tensor.channels == x.tensor.channels and gate.view == moved(without, IMAGES, LANES)


def _times_constant(walk: Walk, name: str, left: Symbol, factors: Array) -> Symbol:
    if factors.size == 1:
        factor = float(factors.item())
        if factor == 1.0:
            return left
        if isinstance(left, Ref):
            return replace(left, factor=left.factor * factor)
        if isinstance(left, Polynomial):
            first, second, third = (factor * value for value in left.coefficients)
            return replace(left, coefficients=(first, second, third))
        if isinstance(left, Curve):
            return replace(left, factor=left.factor * factor, term=left.term * factor)
        if isinstance(left, Scores) and not left.normalized and left.mask is None:
            return replace(left, scale=left.scale * factor)
    ref = walk.plain(left)
    vector = _per_channel(ref, factors)
    if vector is not None:
        return walk.scale(name, ref, scale=vector)
    return walk.combine(name, "mul", ref, _per_place(ref, factors))


def _square(left: Moment, right: Symbol) -> Moment:
    if left.stage != "centred" or left is not right:
        raise NotUnderstood("not the form of a layer norm")
    return replace(left, stage="squares")


def _cube(walk: Walk, name: str, x: Ref, square: Polynomial) -> Symbol:
    if not replace(x, factor=1.0).same(square.x):
        return _combined(walk, name, "mul", x, square)
    return replace(square, coefficients=(0.0, 0.0, square.coefficients[1] * x.factor))


def _gelu(walk: Walk, name: str, x: Ref, other: Curve) -> Symbol:
    """x times c (f(x) + 1) is 2 c gelu(x)."""
    if abs(other.factor - other.term) > 1e-6 * abs(other.factor):
        raise NotUnderstood("not the form of a GELU")
    result = walk.scale(name, walk.plain(replace(x, factor=1.0)), activation=other.kind)
    return replace(result, factor=2 * other.factor * x.factor)


def _silu(walk: Walk, name: str, x: Ref, gate: Ref) -> Ref | None:
    """x times sigmoid(x); None if `gate` is not the sigmoid of x."""
    sigmoid = walk.producer(gate.tensor)
    if not isinstance(sigmoid, Scale) or sigmoid.activation != "sigmoid" or sigmoid.x is not x.tensor:
        return None
    if gate.view != x.view or x.first != (0, 0) or gate.first != (0, 0) or x.factor != 1.0:
        return None
    return replace(walk.scale(name, walk.plain(x), activation="silu"), factor=gate.factor)


def _weighted(walk: Walk, x: Ref, mask: Mask) -> Weighted:
    whole = walk.plain(x)
    if not follows(mask.view, whole.view):
        raise NotUnderstood("a mask that is not one value per token")
    return Weighted(whole.view, whole, mask)


def divide(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Div."""
    del attributes
    left, right = inputs
    if isinstance(right, np.ndarray):
        return _times_constant(walk, name, left, np.asarray(1 / right.astype(np.float64)))
    if isinstance(left, Weighted) and left.summed and isinstance(right, MaskTotal):
        if left.mask.source != right.mask.source or left.mask.value != right.mask.value:
            raise NotUnderstood("a sum over one mask by the total of another")
        if isinstance(left.mask.value, Linear) and left.mask.value != Linear():
            raise NotUnderstood("a mask that was changed")
        if not follows(right.view, left.view):
            raise NotUnderstood("a total that is not one value per row")
        view = moved(left.view, LANES, IMAGES)
        return walk.average(name, left.x, view, weights=walk.mask(left.mask), least=right.least)
    if isinstance(left, Moment) and isinstance(right, Moment) and left.x.same(right.x) and left.over == right.over:
        if (left.stage, right.stage) != ("centred", "deviation"):
            raise NotUnderstood("not the form of a layer norm")
        return _layer_norm(walk, name, right)
    return _combined(walk, name, "div", left, right)


def _layer_norm(walk: Walk, name: str, moment: Moment) -> Symbol:
    x = walk.plain(moment.x)
    channels = x.tensor.channels
    if x.view[moment.over] != axis(CHANNELS, channels):
        raise NotUnderstood("a norm over a part of the channels")
    output = Tensor(name, channels, x.tensor.space)
    gamma, beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    norm = LayerNorm(output=output, x=x.tensor, gamma=gamma, beta=beta, epsilon=moment.epsilon)
    return walk.add(norm, x.view)


def power(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Pow with 2 or 3, or the root of a variance."""
    x = inputs[0]
    exponent = constant(inputs[1], "the exponent")
    if exponent.size == 1 and exponent.item() == 2:
        return multiply(walk, name, attributes, [x, x])
    if exponent.size == 1 and exponent.item() == 3 and isinstance(x, Ref):
        return Polynomial(replace(x, factor=1.0), (0.0, 0.0, x.factor**3))
    if exponent.size == 1 and exponent.item() == 0.5:
        return root(walk, name, attributes, [x])
    raise NotUnderstood(f"with exponent {exponent.tolist()}")


def root(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Sqrt of the variance in a layer norm."""
    del walk, name, attributes
    if not isinstance(inputs[0], Moment) or inputs[0].stage != "variance":
        raise NotUnderstood("only in a layer norm")
    return replace(inputs[0], stage="deviation")


def negate(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Neg."""
    del attributes
    return _times_constant(walk, name, inputs[0], np.array(-1.0))


def error_function(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Erf of x / sqrt 2."""
    del walk, name, attributes
    x = inputs[0]
    if not isinstance(x, Ref) or abs(x.factor - 0.5**0.5) > 1e-6:
        raise NotUnderstood("only in a GELU")
    return Curve("gelu", replace(x, factor=1.0))


def tanh(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Tanh, or that of the polynomial that approximates a GELU."""
    del attributes
    x = inputs[0]
    if isinstance(x, Polynomial) and np.allclose(
        x.coefficients, (GELU_SLOPE, 0.0, GELU_SLOPE * GELU_CUBE), rtol=1e-5, atol=0
    ):
        return Curve("gelu_tanh", x.x)
    return walk.scale(name, walk.plain(x), activation="tanh")


def activation(kind: str) -> Rule:
    """Return the rule of an activation."""
    return lambda walk, name, _, inputs: walk.scale(name, walk.plain(inputs[0]), activation=kind)


def clip(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Clip or Max that keeps the total of a mask above 0."""
    del walk, name, attributes
    total = inputs[0]
    if not isinstance(total, MaskTotal) or len(inputs) != 2:
        raise NotUnderstood("only the total of a mask, from below")
    return replace(total, least=float(constant(inputs[1], "the limit").item()))


def product_of_matrices(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """MatMul by a constant weight, or in attention."""
    del attributes
    left, right = inputs
    if isinstance(right, np.ndarray):
        return linear(walk, name, walk.plain(left), floats(right, "the weight").T, None)
    if isinstance(left, Ref) and isinstance(right, Ref):
        return scores(walk, left, right)
    if isinstance(left, Scores) and isinstance(right, Ref):
        return attend(walk, name, left, right)
    raise NotUnderstood("a product of these tensors")
