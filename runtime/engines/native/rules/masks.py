"""Rules for functions of a padding mask: whatever chain of Not, Cast, Equal, Where, Sub and Mul an exporter writes.

A chain is evaluated, not recognised. As long as it is linear, a mask is value * factor + term. A comparison makes it a
choice between two values, and every further operator is computed on these two, by the code that folds constants.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from runtime.engines.native.fold import FOLD
from runtime.engines.native.symbols import Array, Choice, Linear, Mask, NotUnderstood, Symbol
from runtime.engines.native.views import broadcast, sizes
from runtime.engines.native.walk import Attributes, constant

ELEMENTWISE = {"Add", "And", "Cast", "Div", "Equal", "Mul", "Neg", "Not", "Or", "Sub", "Where"}
"""Operators that are computed on the values of masks."""
UNKNOWN = np.nan
"""What a linear mask is where it does not equal the number that a choice asks for."""


def takes(operator: str, inputs: list[Symbol]) -> bool:
    """Whether all inputs of an elementwise operator are masks or constants."""
    return (operator in ELEMENTWISE or operator == "Expand") and all(
        isinstance(symbol, Mask | np.ndarray) for symbol in inputs
    )


def compute(operator: str, attributes: Attributes, inputs: list[Symbol]) -> Mask:
    """Apply an operator to masks and constants."""
    masks = [symbol for symbol in inputs if isinstance(symbol, Mask)]
    first = masks[0]
    if operator == "Expand":
        return replace(first, view=broadcast(first.view, tuple(constant(inputs[1], "the shape").tolist())))
    view = first.view
    for symbol in inputs:
        view = broadcast(view, symbol.shape) if isinstance(symbol, Mask | np.ndarray) else view
    if any(mask.source != first.source or broadcast(mask.view, sizes(view)) != view for mask in masks):
        raise NotUnderstood("masks of different inputs or places")
    value, dtype = _value(operator, attributes, inputs, masks)
    return Mask(view, first.source, value, dtype)


def _value(
    operator: str, attributes: Attributes, inputs: list[Symbol], masks: list[Mask]
) -> tuple[Linear | Choice, np.dtype[Any]]:
    choices = [mask.value for mask in masks if isinstance(mask.value, Choice)]
    if not choices:
        return _linear(operator, attributes, inputs)
    equals = choices[0].equals
    if any(choice.equals != equals for choice in choices):
        raise NotUnderstood("masks that compare with different numbers")
    if operator != "Where" and len(choices) < len(masks):
        raise NotUnderstood("a mask as number beside a mask as condition")
    values = [_both(symbol, equals) for symbol in inputs]
    result = FOLD[operator](attributes, values)
    yes, no = (float(number) for number in result)
    if np.isnan(yes) or np.isnan(no):
        raise NotUnderstood("a mask that is not known to be one of two numbers")
    return Choice(equals, yes, no), result.dtype


def _both(symbol: Symbol, equals: float) -> Array:
    """Value where the mask equals the number, and elsewhere."""
    if not isinstance(symbol, Mask):
        return np.repeat(_uniform(symbol), 2)
    if isinstance(symbol.value, Choice):
        return np.array([symbol.value.yes, symbol.value.no]).astype(symbol.dtype)
    return np.array([equals * symbol.value.factor + symbol.value.term, UNKNOWN], np.float32)


def _uniform(symbol: Symbol) -> Array:
    """Return the one value of a constant."""
    values = constant(symbol, "the other input").reshape(-1)
    if not len(values) or (values != values[0]).any():
        raise NotUnderstood("a mask that depends on the place")
    return values[:1]


def _linear(operator: str, attributes: Attributes, inputs: list[Symbol]) -> tuple[Linear | Choice, np.dtype[Any]]:
    """One mask that is still a number, and at most one constant."""
    mask = next(symbol for symbol in inputs if isinstance(symbol, Mask))
    value, dtype = mask.value, mask.dtype
    assert isinstance(value, Linear)
    others = [_uniform(symbol) for symbol in inputs if symbol is not mask]
    if len(others) > 1 or (len(inputs) == 2 and not others) or value.factor == 0:
        raise NotUnderstood("a mask that is not a number times a factor")
    number = float(others[0][0]) if others else 0.0
    swapped = not isinstance(inputs[0], Mask)
    factor, term = value.factor, value.term
    match operator:
        case "Cast":
            target = np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
            if target == np.bool_:
                return Choice(-term / factor, 0.0, 1.0), target
            if target.kind == "f" or (factor.is_integer() and term.is_integer()):
                return value, target
        case "Equal":
            return Choice((number - term) / factor, 1.0, 0.0), np.dtype(np.bool_)
        case "Add":
            return Linear(factor, term + number), dtype
        case "Sub" if swapped:
            return Linear(-factor, number - term), dtype
        case "Sub":
            return Linear(factor, term - number), dtype
        case "Mul":
            return Linear(factor * number, term * number), dtype
        case "Neg":
            return Linear(-factor, -term), dtype
        case "Div" if not swapped and dtype.kind == "f":
            return Linear(factor / number, term / number), dtype
    raise NotUnderstood("a mask in this form")
