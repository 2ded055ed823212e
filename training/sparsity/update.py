"""Update rules: which active units of a layer go, and which inactive ones come. Exact counts, stable under ties.

A rule turns values into scores, one for each unit; the units of highest score stay, or grow.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PruneRule = Literal["magnitude", "soft_magnitude"]
RegrowRule = Literal["gradient", "random", "momentum"]


@dataclass(frozen=True)
class UpdateRule:
    """How to prune and how to regrow.

    `magnitude` prunes the smallest; `soft_magnitude` keeps a sample of the active units, drawn without replacement
    with probabilities proportional to magnitude^temperature (arXiv 2505.17909, language models). `gradient` regrows
    where the dense gradient is largest (RigL, arXiv 1911.11134), `random` anywhere (SET, arXiv 1707.04780),
    `momentum` where the running average of the dense gradient is largest (arXiv 1907.04840).
    """

    prune: PruneRule = "magnitude"
    regrow: RegrowRule = "gradient"
    temperature: float = 3.0

    @property
    def needs_gradient(self) -> bool:
        """Whether regrowth looks at the dense gradient of the update step."""
        return self.regrow == "gradient"

    def survival(self, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        """Scores [n] by which active units survive, from their magnitudes [n]."""
        if self.prune == "magnitude":
            return magnitude
        # The highest of log p + Gumbel noise are a sample without replacement (arXiv 1903.06059).
        return self.temperature * magnitude.double().log() + _gumbel(magnitude.shape, generator).to(magnitude.device)

    def growth(self, gradient: Tensor | None, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Scores [n] by which inactive units grow; `gradient` [n] is the magnitude of the gradient or its average."""
        if self.regrow == "random":
            return torch.rand(shape, generator=generator)
        if gradient is None:
            raise ValueError(f"regrow {self.regrow} needs a gradient")
        return gradient


def highest(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Bool [n]: the `count` units of highest score [n] among those where `among` [n] holds, ties to the earlier."""
    if count > int(among.sum()):
        raise ValueError(f"{count} units cannot be chosen among {int(among.sum())}")
    chosen = torch.zeros_like(among)
    candidates = among.nonzero().squeeze(1)
    order = scores.to(among.device)[candidates].argsort(descending=True, stable=True)
    chosen[candidates[order[:count]]] = True
    return chosen


def _gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))
