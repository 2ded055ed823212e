"""Fuses operators: norms, residual sums and activations move into the convolution or pass that writes their input."""

from dataclasses import replace

import numpy as np

from runtime.engines.native.graph import Network
from runtime.engines.native.operators import Average, Convolve, LayerNorm, Operator, Scale, Select, Tensor


def fuse(network: Network) -> Network:
    """Return an equivalent network with as few passes over memory as the kernels allow."""
    operators = list(network.operators)
    outputs = {ref.tensor for ref in network.outputs.values()}
    while (fused := _fuse_one(operators, outputs)) is not None:
        operators = fused
    return replace(network, operators=operators)


def consumers(operators: list[Operator], tensor: Tensor) -> list[Operator]:
    """Operators that read a tensor."""
    return [operator for operator in operators if any(read is tensor for read in operator.inputs)]


def _fuse_one(operators: list[Operator], outputs: set[Tensor]) -> list[Operator] | None:
    """Do the first fusion that is possible; None if there is none."""
    producers = {operator.output: operator for operator in operators}
    for second in operators:
        for tensor in second.inputs:
            first = producers[tensor]
            if tensor in outputs or len(consumers(operators, tensor)) != 1:
                continue
            merged = _merge(first, second)
            if merged is not None:
                kept = [operator for operator in operators if operator is not first]
                return [merged if operator is second else operator for operator in kept]
    return next((_cut(operators, first) for first in operators if _is_only_cut(operators, first, outputs)), None)


def _is_only_cut(operators: list[Operator], first: Operator, outputs: set[Tensor]) -> bool:
    """Whether only selections of channels read a layer, each channel at most once: q, k and v of one linear layer."""
    if not isinstance(first, Convolve) or first.residual is not None or first.output in outputs:
        return False
    readers = consumers(operators, first.output)
    chosen = [channel for reader in readers if isinstance(reader, Select) for channel in reader.channels]
    return all(isinstance(reader, Select) for reader in readers) and 0 < len(chosen) == len(set(chosen))


def _cut(operators: list[Operator], first: Operator) -> list[Operator]:
    """Cut a layer into one for each selection of its channels: rows of its weight."""
    assert isinstance(first, Convolve)
    cut: list[Operator] = []
    for operator in operators:
        if isinstance(operator, Select) and operator.x is first.output:
            weight, bias = first.weight[operator.channels], first.bias[operator.channels]
            cut.append(replace(first, output=operator.output, weight=weight, bias=bias))
        elif operator is not first:
            cut.append(operator)
    return cut


def _merge(first: Operator, second: Operator) -> Operator | None:
    """One operator for `first` followed by `second`, which alone reads it; None if they cannot be one."""
    if isinstance(first, LayerNorm) and isinstance(second, Scale) and _is_affine(second):
        gamma, beta = first.gamma * second.scale, first.beta * second.scale + second.shift
        return replace(first, output=second.output, gamma=gamma, beta=beta)
    if not isinstance(first, Convolve | Scale) or first.activation not in ("none", "relu"):
        return None
    if isinstance(second, Average) and isinstance(first, Scale) and first.residual is None and second.norm is None:
        return replace(second, x=first.x, norm=first)
    if not isinstance(second, Scale) or first.activation != "none":
        return None
    if second.residual is first.output and _is_unit(second):
        second = replace(second, x=first.output, residual=second.x)
    if second.x is not first.output or second.residual is first.output:
        return None
    if first.residual is not None:
        if not _is_unit(second) or second.residual is not None:
            return None
        return replace(first, output=second.output, activation=second.activation)
    merged = replace(first, output=second.output, residual=second.residual, activation=second.activation)
    if _is_unit(second):
        return merged
    if isinstance(merged, Convolve):
        weight = merged.weight * second.scale[:, None, None, None]
        return replace(merged, weight=weight, bias=merged.bias * second.scale + second.shift)
    return replace(merged, scale=merged.scale * second.scale, shift=merged.shift * second.scale + second.shift)


def _is_affine(scale: Scale) -> bool:
    return scale.residual is None and scale.activation == "none"


def _is_unit(scale: Scale) -> bool:
    return bool(np.all(scale.scale == 1) and np.all(scale.shift == 0))
