"""How rates change over training: the prune rate, the density, and the cycles after which both start again."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PruneRate:
    """Prune rate from `start` to `end` over `steps` steps: half a cosine, a line, or `start` throughout."""

    start: float
    end: float
    steps: int
    kind: Literal["cosine", "linear", "constant"] = "cosine"

    def __call__(self, step: int) -> float:
        """Prune rate at `step` (0 gives `start`, `steps` and later give `end`, unless constant)."""
        progress = min(step / self.steps, 1.0)
        match self.kind:
            case "cosine":
                return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2
            case "linear":
                return self.start + (self.end - self.start) * progress
            case "constant":
                return self.start


@dataclass(frozen=True)
class DensityDecay:
    """Density falling from `start` to `end` over the first `steps` steps, fast at first.

    The cubic of gradual pruning (Zhu and Gupta, arXiv 1710.01878, section 3).
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """Density at `step`."""
        if step >= self.steps:
            return self.end
        return self.end + (self.start - self.end) * (1 - step / self.steps) ** 3


@dataclass(frozen=True)
class Cycles:
    """Training in `count` cycles of nearly equal length; rates fall and start again (EDST, arXiv 2106.14568)."""

    count: int
    epochs: int
    steps_per_epoch: int

    def ends(self) -> tuple[int, ...]:
        """Epochs after which a cycle is over."""
        return tuple((index + 1) * self.epochs // self.count for index in range(self.count))

    def place(self, step: int) -> tuple[int, int]:
        """Steps that the cycle of `step` has behind it, and steps that it has."""
        start = 0
        for end in self.ends():
            if step < end * self.steps_per_epoch:
                break
            if end < self.epochs:
                start = end
        end = next(end for end in self.ends() if end > start)
        return step - start * self.steps_per_epoch, (end - start) * self.steps_per_epoch
