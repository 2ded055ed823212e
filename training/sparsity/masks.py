"""The masks of a network: which weights are active, kept exact through every step, update and resume."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from training.sparsity.distribution import erk_counts
from training.sparsity.update import REGROW_RULES, grow, prune_smallest


def maskable_weights(network: nn.Module, *, embeddings: bool) -> dict[str, nn.Parameter]:
    """Weights that the sparsity budget covers: all of Conv2d and Linear, of Embedding if asked for; never biases."""
    return {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if (isinstance(module, nn.Conv2d | nn.Linear) or (embeddings and isinstance(module, nn.Embedding)))
        and isinstance(module.weight, nn.Parameter)
    }


class Masks:
    """Masks over the weights of a network. A layer that the distribution fills completely carries no mask.

    Invariants after every public call: each layer has exactly its count of active weights; inactive weights are zero.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], counts: Mapping[str, int], generator: torch.Generator):
        self.weights = dict(weights)
        self.masks: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            if counts[name] < weight.numel():
                flat = torch.zeros(weight.numel(), dtype=torch.bool)
                flat[torch.randperm(weight.numel(), generator=generator)[: counts[name]]] = True
                self.masks[name] = flat.view(weight.shape).to(weight.device)
        self.ever_active = {name: mask.clone() for name, mask in self.masks.items()}
        self.generator = generator
        self.apply()

    @classmethod
    def erk(cls, network: nn.Module, density: float, *, embeddings: bool, generator: torch.Generator) -> "Masks":
        """Random masks with ERK counts over the whole network."""
        weights = maskable_weights(network, embeddings=embeddings)
        counts = erk_counts({name: tuple(weight.shape) for name, weight in weights.items()}, density)
        return cls(weights, counts, generator)

    @property
    def explored(self) -> float:
        """Fraction of all covered weights that were ever active (ITOP, arXiv 2102.02887)."""
        total = sum(weight.numel() for weight in self.weights.values())
        never = sum(int((~ever).sum()) for ever in self.ever_active.values())
        return 1 - never / total

    def kept(self) -> dict[str, int]:
        """Active weights by layer, layers without a mask included."""
        counts = {name: weight.numel() for name, weight in self.weights.items()}
        return counts | {name: int(mask.sum()) for name, mask in self.masks.items()}

    @torch.no_grad()
    def apply(self) -> None:
        """Set inactive weights to zero."""
        for name, mask in self.masks.items():
            self.weights[name].mul_(mask)

    def dense_gradients(self) -> dict[str, Tensor]:
        """Copies of the gradients before they are masked, for `update`."""
        return {name: _gradient(self.weights[name]).detach().clone() for name in self.masks}

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of inactive weights to zero."""
        for name, mask in self.masks.items():
            _gradient(self.weights[name]).mul_(mask)

    @torch.no_grad()
    def update(
        self, prune_rate: float, regrow: str, gradients: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> int:
        """Prune the fraction `prune_rate` of each layer's active weights and regrow as many; return how many moved.

        Regrown weights start at zero with zero optimizer moments, also when they were pruned in this very update.
        """
        moved = 0
        for name, mask in self.masks.items():
            weight = self.weights[name]
            count = round(prune_rate * int(mask.sum()))
            survivors = prune_smallest(weight, mask, count)
            scores = REGROW_RULES[regrow](~survivors, gradients[name], self.generator)
            grown = grow(survivors, count, scores)
            weight.mul_(survivors)
            for moment in _moments(optimizer, weight):
                moment.mul_(survivors)
            self.masks[name] = grown
            self.ever_active[name] |= grown
            moved += int((grown & ~mask).sum())
        return moved


def _gradient(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        raise RuntimeError("a masked weight has no gradient: call backward() first and keep all heads in the loss")
    return weight.grad


def _moments(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> Iterable[Tensor]:
    state = optimizer.state.get(weight, {})
    return [value for value in state.values() if isinstance(value, Tensor) and value.shape == weight.shape]
