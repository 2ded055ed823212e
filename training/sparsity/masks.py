"""The masks of a network: which weights are active, kept exact through every step, update and resume."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.sparsity.distribution import Distribution
from training.sparsity.granularity import Granularity, from_units, to_units, unit_of
from training.sparsity.update import UpdateRule, highest


def maskable_weights(network: nn.Module, *, embeddings: bool) -> dict[str, nn.Parameter]:
    """Weights that the sparsity budget covers: all of Conv2d and Linear, of Embedding if asked for; never biases.

    A weight that several layers share is covered once, under the first of its names in the order of the modules.
    """
    covered: dict[nn.Parameter, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) or (embeddings and isinstance(module, nn.Embedding)):
            weight = f"{name}.weight" if name else "weight"
            if isinstance(module.weight, nn.Parameter):
                covered.setdefault(module.weight, weight)
    return {name: weight for weight, name in covered.items()}


def uncovered_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of two or more axes that no sparsity budget covers, since no Conv2d, Linear or Embedding holds them.

    Such are transposed and one-dimensional convolutions, recurrent layers, the input projection of MultiheadAttention,
    reparametrized weights, and tensors that a module holds itself. They stay dense.
    """
    covered = set(maskable_weights(network, embeddings=True).values())
    return {name: weight for name, weight in network.named_parameters() if weight.ndim > 1 and weight not in covered}


class Masks:
    """Masks over the weights of a network. A layer that keeps all of its weights carries no mask.

    Invariants after every public call: each layer has exactly its count of active weights; inactive weights are zero.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        counts: Mapping[str, int],
        generator: torch.Generator,
        *,
        granularity: Granularity = "weight",
    ) -> None:
        self.weights = dict(weights)
        self.units = {name: unit_of(weight, granularity) for name, weight in self.weights.items()}
        self.generator = generator
        self.masks: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            if counts[name] < weight.numel():
                kept = torch.zeros(weight.numel() // self.units[name], dtype=torch.bool)
                kept[torch.randperm(len(kept), generator=generator)[: counts[name] // self.units[name]]] = True
                self.masks[name] = self._mask(name, kept)
        self.ever_active = {name: mask.clone() for name, mask in self.masks.items()}
        self.apply()

    @classmethod
    def erk(cls, network: nn.Module, density: float, *, embeddings: bool, generator: torch.Generator) -> "Masks":
        """Random masks of single weights with ERK counts over the whole network."""
        weights = maskable_weights(network, embeddings=embeddings)
        counts = Distribution().counts({name: tuple(weight.shape) for name, weight in weights.items()}, density)
        return cls(weights, counts, generator)

    @property
    def total(self) -> int:
        """Covered weights, active or not."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def density(self) -> float:
        """Fraction of all covered weights that is active."""
        return sum(self.kept().values()) / self.total

    @property
    def explored(self) -> float:
        """Fraction of all covered weights that were ever active (ITOP, arXiv 2102.02887)."""
        return sum(self.ever_kept().values()) / self.total

    def kept(self) -> dict[str, int]:
        """Active weights by layer, layers without a mask included."""
        counts = {name: weight.numel() for name, weight in self.weights.items()}
        return counts | {name: int(mask.sum()) for name, mask in self.masks.items()}

    def ever_kept(self) -> dict[str, int]:
        """Weights that were ever active by layer, layers that never had a mask included."""
        counts = {name: weight.numel() for name, weight in self.weights.items()}
        return counts | {name: int(ever.sum()) for name, ever in self.ever_active.items()}

    @torch.no_grad()
    def apply(self) -> None:
        """Set inactive weights to zero."""
        for name, mask in self.masks.items():
            zero_outside(self.weights[name], mask)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of inactive weights to zero, so that an optimizer leaves them and their moments at zero."""
        for name, mask in self.masks.items():
            gradient_of(self.weights[name]).mul_(mask)

    @torch.no_grad()
    def update(
        self,
        rule: UpdateRule,
        prune_rate: float,
        counts: Mapping[str, int],
        gradients: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> int:
        """Bring each layer to its count, and move the fraction `prune_rate` of it elsewhere; return how many grew.

        Regrown weights start at zero with zero optimizer moments, also when they were pruned in this very update. A
        layer that is to keep all of its weights loses its mask; `gradients` are dense, by weight name.
        """
        moved = 0
        for name, weight in self.weights.items():
            if name not in self.masks and counts[name] == weight.numel():
                continue
            unit = self.units[name]
            before = self.masks.get(name)
            active = torch.ones_like(weight, dtype=torch.bool) if before is None else before
            active_units = to_units(active, unit)[:, 0]
            target = counts[name] // unit
            survivors = min(int(active_units.sum()), target - round(prune_rate * target))
            magnitude = to_units(weight.detach().abs(), unit).sum(dim=1)
            kept = highest(rule.survival(magnitude, self.generator), active_units, survivors)
            gradient = gradients.get(name)
            scores = rule.growth(
                None if gradient is None else to_units(gradient.abs(), unit).sum(dim=1), kept.shape, self.generator
            )
            grown = kept | highest(scores, ~kept, target - survivors)
            for tensor in (weight, *moments_of(optimizer, weight)):
                zero_outside(tensor, self._mask(name, kept))
            mask = self._mask(name, grown)
            self.ever_active[name] = self.ever_active.get(name, torch.ones_like(mask)) | mask
            self.masks[name] = mask
            if counts[name] == weight.numel():
                del self.masks[name]
            moved += int((mask & ~active).sum())
        return moved

    def capture(self) -> dict[str, NDArray[np.generic]]:
        """What exact resume needs beside the masks themselves: their history and the generator."""
        arrays: dict[str, NDArray[np.generic]] = {"generator": self.generator.get_state().numpy()}
        for name, ever in self.ever_active.items():
            arrays[f"ever_active.{name}"] = np.packbits(ever.cpu().numpy())
        return arrays

    def restore(self, masks: Mapping[str, Tensor], arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Put saved masks and captured state back. Raises KeyError when something is missing."""
        self.masks = {name: self._like(self.weights[name], mask) for name, mask in masks.items()}
        self.generator.set_state(torch.from_numpy(np.array(arrays["generator"])))
        self.ever_active = {}
        for name, weight in self.weights.items():
            if f"ever_active.{name}" in arrays:
                bits = np.unpackbits(arrays[f"ever_active.{name}"].view(np.uint8), count=weight.numel()).astype(bool)
                self.ever_active[name] = self._like(weight, torch.from_numpy(bits).view(weight.shape))

    def _mask(self, name: str, units: Tensor) -> Tensor:
        """Mask of a layer from its active units, bool [units]."""
        weight = self.weights[name]
        spread = from_units(units[:, None].expand(-1, self.units[name]), weight.shape)
        return self._like(weight, spread)

    @staticmethod
    def _like(weight: Tensor, mask: Tensor) -> Tensor:
        """A copy of a mask on the device and in the memory layout of its weight: products are faster then."""
        return torch.empty_like(weight, dtype=torch.bool).copy_(mask)


def zero_outside(tensor: Tensor, mask: Tensor) -> None:
    """Set what a mask leaves out to zero, and never to the negative zero that a product may leave.

    A checkpoint does not hold inactive weights: they come back as zero, and must not differ from those that stayed.
    """
    tensor.masked_fill_(~mask, 0.0)


def gradient_of(weight: nn.Parameter) -> Tensor:
    """Gradient of a covered weight. Raises RuntimeError when the loss does not reach it."""
    if weight.grad is None:
        raise RuntimeError("a masked weight has no gradient: call backward() first and keep all heads in the loss")
    return weight.grad


def moments_of(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> Iterable[Tensor]:
    """Optimizer state with an entry for each entry of the weight."""
    state = optimizer.state.get(weight, {})
    return [value for value in state.values() if isinstance(value, Tensor) and value.shape == weight.shape]
