"""What is pruned and regrown as one: a single weight, or a block of neighbouring input channels.

The units of a weight are the rows of a matrix [units, weights in a unit], in a fixed order.
"""

from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["weight", "1x4"]
BLOCK = 4
"""Input channels of a 1x4 block: four int8 weights fill one 32-bit lane."""


def unit_of(weight: Tensor, granularity: Granularity) -> int:
    """Weights in one unit; a layer whose input channels are no multiple of four is sparse by single weights."""
    return BLOCK if granularity == "1x4" and weight.ndim > 1 and weight.shape[1] % BLOCK == 0 else 1


def to_units(tensor: Tensor, unit: int) -> Tensor:
    """[outputs, inputs, ...] -> [units, unit]: the blocks of `unit` input channels at one output and position."""
    if unit == 1:
        return tensor.reshape(-1, 1)
    blocks = tensor.reshape(tensor.shape[0], tensor.shape[1] // unit, unit, -1)
    return blocks.movedim(2, 3).reshape(-1, unit)


def from_units(units: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `to_units`, as a new contiguous tensor."""
    unit = units.shape[1]
    if unit == 1:
        return units.reshape(shape)
    blocks = units.reshape(shape[0], shape[1] // unit, -1, unit)
    return blocks.movedim(3, 2).reshape(shape)
