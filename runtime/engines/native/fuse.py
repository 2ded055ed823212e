"""Fuses operators: norms, residual sums and activations move into the convolution or pass that writes their input."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from runtime.engines.native.graph import Network
from runtime.engines.native.operators import Average, Convolve, LayerNorm, Operator, Scale, Select, Tensor


def fuse(network: Network) -> Network:
    """Return an equivalent network with as few passes over memory as the kernels allow."""
    return replace(network, operators=_Fusion(network).run())


class _Fusion:
    """Walks the operators once; each takes in what it can of those before it."""

    def __init__(self, network: Network) -> None:
        self.outputs = {ref.tensor for ref in network.outputs.values()}
        self.producers: dict[Tensor, Operator] = {}
        """Operators in order, by what they write: one that replaces another keeps its place."""
        self.readers: defaultdict[Tensor, set[Operator]] = defaultdict(set)
        self._replace([], network.operators)

    def run(self) -> list[Operator]:
        for output in list(self.producers):
            self._cut_above(output)
            while self._merge_above(output):
                pass
        return list(self.producers.values())

    def _replace(self, old: list[Operator], new: list[Operator]) -> None:
        kept = {operator.output for operator in new}
        for operator in old:
            for tensor in operator.inputs:
                self.readers[tensor].discard(operator)
            if operator.output not in kept:
                del self.producers[operator.output]
        for operator in new:
            self.producers[operator.output] = operator
            for tensor in operator.inputs:
                self.readers[tensor].add(operator)

    def _merge_above(self, output: Tensor) -> bool:
        """Merge the operator that writes `output` with one that it reads from, if they can be one."""
        second = self.producers[output]
        for tensor in second.inputs:
            first = self.producers[tensor]
            if tensor not in self.outputs and self.readers[tensor] == {second}:
                merged = _merge(first, second)
                if merged is not None:
                    self._replace([first, second], [merged])
                    return True
        return False

    def _cut_above(self, output: Tensor) -> None:
        """Cut a layer of which only selections are read, such as q, k and v: each gets its rows of the weight."""
        select = self.producers[output]
        first = self.producers[select.x] if isinstance(select, Select) else None
        if not isinstance(first, Convolve) or first.residual is not None or first.output in self.outputs:
            return
        selects = [reader for reader in self.readers[first.output] if isinstance(reader, Select)]
        chosen = np.concatenate([reader.channels for reader in selects])
        if len(selects) < len(self.readers[first.output]) or len(set(chosen.tolist())) < len(chosen):
            return  # a channel that is read twice would be computed twice
        pieces: list[Operator] = [
            replace(first, output=one.output, weight=first.weight[one.channels], bias=first.bias[one.channels])
            for one in selects
        ]
        self._replace([first, *selects], pieces)


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
