"""Dynamic sparse training: distribution, granularity, update rule and schedules at work in one network.

sparsity = DynamicSparsity(network, optimizer, masks=..., plan=...)
loss.backward(); sparsity.after_backward(step); optimizer.step(); sparsity.after_step(step)
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.sparsity.distribution import Distribution
from training.sparsity.granularity import Granularity, unit_of
from training.sparsity.masks import Masks, gradient_of, maskable_weights
from training.sparsity.update import UpdateRule

AVERAGE = "average."


@dataclass(frozen=True)
class Plan:
    """Which weights are kept, when masks change, and how. Functions of the number of steps that are done."""

    density: Callable[[int], float]
    prune_rate: Callable[[int], float]
    due: Callable[[int], bool]
    """Whether masks are updated after that many steps."""
    final_density: float
    distribution: Distribution = field(default_factory=Distribution)
    granularity: Granularity = "weight"
    rule: UpdateRule = field(default_factory=UpdateRule)
    embeddings: bool = False
    gradient_average: float = 0.9
    """Share of the past in the running average of the dense gradient (momentum regrowth)."""


class DynamicSparsity:
    """Masks that follow a plan; a `Sparsifier`. A static sparse network is the plan whose updates are never due."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.optimizer = optimizer
        weights = maskable_weights(network, embeddings=plan.embeddings)
        self._shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self._units = {name: unit_of(weight, plan.granularity) for name, weight in weights.items()}
        generator = torch.Generator().manual_seed(seed)
        self.state = Masks(weights, self.counts(plan.density(0)), generator, granularity=plan.granularity)
        self._dense: dict[str, Tensor] = {}
        self._averages: dict[str, Tensor] = {}
        self._density = plan.density(0)
        self.density, self.explored = self.state.density, self.state.explored

    def counts(self, density: float) -> dict[str, int]:
        """Kept weights by layer at a density of the whole network."""
        return self.plan.distribution.counts(self._shapes, density, self._units)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks by weight name, layers that keep all of their weights left out."""
        return self.state.masks

    @property
    def settled(self) -> bool:
        """Whether the density is the final one."""
        return self._density == self.plan.final_density

    def kept(self) -> dict[str, int]:
        """Active weights by layer, for all covered layers."""
        return self.state.kept()

    def ever_kept(self) -> dict[str, int]:
        """Weights that were ever active by layer, for all covered layers."""
        return self.state.ever_kept()

    def sizes(self) -> dict[str, int]:
        """Weights by layer, for all covered layers."""
        return {name: weight.numel() for name, weight in self.state.weights.items()}

    def rates(self, step: int) -> dict[str, float]:
        """Prune rate after `step` steps."""
        return {"prune_rate": self.plan.prune_rate(step)}

    def needs_dense_gradients(self, step: int) -> bool:
        """Whether regrowth reads the gradients of inactive weights in this step."""
        if not self.masks:
            return False
        if self.plan.rule.regrow == "momentum":
            return True
        return self.plan.rule.needs_gradient and self.plan.due(step + 1)

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Remember the dense gradients where regrowth needs them, then mask the gradients."""
        if self.plan.rule.regrow == "momentum":
            share = self.plan.gradient_average
            for name, weight in self.state.weights.items():
                average = self._averages.setdefault(name, torch.zeros_like(weight))
                average.mul_(share).add_(gradient_of(weight), alpha=1 - share)
        if self.plan.due(step + 1) and self.plan.rule.needs_gradient:
            self._dense = {name: gradient_of(weight).clone() for name, weight in self.state.weights.items()}
        self.state.mask_gradients()

    def after_step(self, step: int) -> dict[str, float] | None:
        """Update the masks where it is due."""
        done = step + 1
        if not self.plan.due(done):
            return None
        self._density = self.plan.density(done)
        gradients = self._averages if self.plan.rule.regrow == "momentum" else self._dense
        rate = self.plan.prune_rate(done)
        moved = self.state.update(self.plan.rule, rate, self.counts(self._density), gradients, self.optimizer)
        self._dense = {}
        self.density, self.explored = self.state.density, self.state.explored
        return {"moved": moved, "prune_rate": rate, "density": self.density}

    def capture(self) -> dict[str, NDArray[np.generic]]:
        """History of the masks, generator, gradient averages and the density that was last asked for."""
        arrays = self.state.capture() | {"density": np.array([self._density])}
        return arrays | {AVERAGE + name: average.cpu().numpy().copy() for name, average in self._averages.items()}

    def restore(self, step: int, masks: dict[str, Tensor], arrays: dict[str, NDArray[np.generic]]) -> None:
        """Go on as after `step` steps. Raises KeyError when something is missing."""
        del step
        self.state.restore(masks, arrays)
        self._density = float(arrays["density"][0])
        self.density, self.explored = self.state.density, self.state.explored
        for name, weight in self.state.weights.items():
            if AVERAGE + name in arrays:
                saved = torch.from_numpy(np.array(arrays[AVERAGE + name]))
                self._averages[name] = torch.empty_like(weight).copy_(saved)
