"""Update rules: which active weights of a layer go, and which inactive ones come. Exact counts, stable under ties."""

from collections.abc import Callable

import torch
from torch import Tensor

Regrow = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(inactive [n] bool, dense gradient [n], generator) -> scores [n]; the highest inactive scores grow."""


def prune_smallest(weight: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return `mask` without the `count` active weights of smallest magnitude (a new bool tensor)."""
    magnitude = weight.detach().abs().masked_fill(~mask, torch.inf).flatten()
    pruned = mask.clone().flatten()
    pruned[magnitude.argsort(stable=True)[:count]] = False
    return pruned.view_as(mask)


def grow_by_gradient(inactive: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Scores of RigL (arXiv 1911.11134): the magnitude of the dense gradient."""
    del inactive, generator
    return gradient.abs()


def grow_at_random(inactive: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Scores of SET (arXiv 1707.04780): uniformly random."""
    del gradient
    return torch.rand(inactive.shape, generator=generator).to(inactive.device)


def grow(mask: Tensor, count: int, scores: Tensor) -> Tensor:
    """Return `mask` with the `count` inactive weights of highest score added (a new bool tensor)."""
    ranked = scores.flatten().masked_fill(mask.flatten(), -torch.inf)
    grown = mask.clone().flatten()
    grown[ranked.argsort(descending=True, stable=True)[:count]] = True
    return grown.view_as(mask)


REGROW_RULES: dict[str, Regrow] = {"gradient": grow_by_gradient, "random": grow_at_random}
