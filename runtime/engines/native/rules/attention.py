"""Rules for attention: scores, their mask, softmax, and the product with the values."""

from dataclasses import replace
from math import prod

import numpy as np

from runtime.engines.native.operators import Attend, Tensor
from runtime.engines.native.symbols import (
    Choice,
    IsNaN,
    Mask,
    NotUnderstood,
    Ref,
    Scores,
    Symbol,
)
from runtime.engines.native.views import CHANNELS, LANES, REPEAT, axis, follows, parts_along
from runtime.engines.native.walk import Attributes, Walk, constant

LOWEST = float(np.finfo(np.float32).min)
"""Added to any score, this is the result: rounding leaves nothing of the score."""
HOPELESS = -1e4
"""A score so low has no weight beside any other."""


def scores(walk: Walk, left: Ref, right: Ref) -> Scores:
    """Product of queries [..., T, d] and keys [..., d, T]."""
    query, key = walk.whole(left), walk.whole(right)
    lanes = axis(LANES, query.tensor.space.lanes)
    heads = query.view[:-2]
    alike = query.tensor.space == key.tensor.space and query.tensor.channels == key.tensor.channels
    width = query.view[-1]
    known = len(heads) > 0 and query.view[-2] == lanes and all(part.dimension is CHANNELS for part in width)
    if not (alike and known and key.view == (*heads, width, lanes) and len(parts_along(heads, CHANNELS)) <= 1):
        raise NotUnderstood("a product of these tensors")
    view = (*heads, axis(REPEAT, query.tensor.space.lanes, 0), lanes)
    return Scores(view, query.tensor, key.tensor, query.factor * key.factor)


def attend(walk: Walk, name: str, weights: Scores, right: Ref) -> Ref:
    """Product of attention weights [..., T, T] and values [..., T, d]."""
    value, query = walk.plain(right), weights.query
    heads, lanes = weights.view[:-2], axis(LANES, query.space.lanes)
    if not weights.normalized:
        raise NotUnderstood("attention without softmax")
    alike = value.tensor.space == query.space and value.tensor.channels == query.channels
    if not alike or value.view[:-1] != (*heads, lanes) or weights.view[-1] != lanes:
        raise NotUnderstood("a product of these tensors")
    output = Tensor(name, query.channels, query.space)
    count = prod(part.size for part in parts_along(heads, CHANNELS))
    operator = Attend(
        output=output, query=query, key=weights.key, value=value.tensor, heads=count, scale=weights.scale,
        mask=weights.mask, clear=weights.clear,
    )  # fmt: skip
    return walk.add(operator, value.view)


def plus_mask(walk: Walk, weights: Scores, mask: Mask) -> Scores:
    """Scores plus what a mask gives to each key."""
    if weights.mask is not None or weights.normalized or not follows(mask.view, weights.view):
        raise NotUnderstood("a mask that is not one value per key")
    return replace(weights, mask=walk.mask(mask))


def softmax(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Softmax over the keys."""
    del walk, name
    weights = inputs[0]
    if not isinstance(weights, Scores) or attributes.get("axis", -1) % len(weights.view) != len(weights.view) - 1:
        raise NotUnderstood("only over attention scores")
    return replace(weights, normalized=True)


def is_nan(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """IsNaN of attention weights."""
    del walk, name, attributes
    if not isinstance(inputs[0], Scores) or not inputs[0].normalized:
        raise NotUnderstood("only of attention weights")
    return IsNaN(inputs[0])


def where(walk: Walk, name: str, attributes: Attributes, inputs: list[Symbol]) -> Symbol:
    """Where that fills masked scores with a low number, or weights that are not numbers with 0."""
    del name, attributes
    condition, yes, no = inputs
    if isinstance(condition, IsNaN) and condition.scores is no and not constant(yes, "the value").any():
        return replace(condition.scores, clear=True)
    filled_yes = isinstance(no, Scores)
    kept, fill = (no, yes) if filled_yes else (yes, no)
    if not (isinstance(condition, Mask) and isinstance(condition.value, Choice) and isinstance(kept, Scores)):
        raise NotUnderstood("only masks and attention scores")
    low = constant(fill, "the value")
    if low.size != 1 or low.item() > HOPELESS:
        raise NotUnderstood("a value that leaves masked keys some weight")
    # A lower number than the one in the graph: added, it replaces the score, as the graph does.
    added = float("-inf") if np.isinf(low.item()) else LOWEST
    choice = condition.value
    terms = [added if bool(value) is filled_yes else 0.0 for value in (choice.yes, choice.no)]
    value = Choice(choice.equals, terms[0], terms[1])
    return plus_mask(walk, kept, replace(condition, value=value, dtype=np.dtype(np.float32)))
