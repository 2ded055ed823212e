"""How the prune rate changes over training."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """Prune rate falling from `start` to `end` by half a cosine over `steps` steps."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """Prune rate at `step` (0 gives `start`, `steps` and later give `end`)."""
        progress = min(step / self.steps, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2
