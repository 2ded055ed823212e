"""When two engines agree: the one rule that export, verify and tests share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Comparison of float logits [rows, classes] with a reference."""

    worst: float
    """Largest absolute difference."""
    allowed: float
    """1e-4 * max(1, largest absolute reference logit)."""
    flips: int
    """Rows whose top-1 differs although the reference's margin exceeds twice what is allowed."""

    @property
    def holds(self) -> bool:
        """Whether the logits agree."""
        return self.worst <= self.allowed and not self.flips


def compare(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> Parity:
    """Compare logits [rows, classes] with those of the reference; NaN never agrees."""
    if reference.shape != logits.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {logits.shape}")
    allowed = RELATIVE_TOLERANCE * max(1.0, float(np.abs(reference).max()))
    worst = float(np.abs(reference - logits).max())
    best_two = np.sort(reference, axis=-1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > 2 * allowed
    flips = int(((reference.argmax(axis=-1) != logits.argmax(axis=-1)) & clear).sum())
    return Parity(worst if np.isfinite(worst) else float("inf"), allowed, flips)
