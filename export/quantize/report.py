"""What int8 changes: top-1 flips, and accuracy against fp32 on the same rows, with intervals; and whether it may.

The gate. A loss of accuracy is refused when it is *large* and *real*: the estimated change is below -0.5 points, and
the upper bound of its paired 95 % interval is below 0, so that chance alone does not explain it. A change that a small
split cannot tell from none passes, and the interval in the manifest says how much that leaves open.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.quantize.execution import Logits
from runtime.manifest import Flips
from runtime.vote import Vote, pool

MOST_LOSS = 0.005
"""Loss of accuracy that is accepted without being asked for: half a percentage point."""
Z = 1.959963984540054
"""Quantile of the normal distribution for two-sided intervals at 95 %."""


@dataclass(frozen=True)
class Change:
    """A change of accuracy, a difference of two fractions, with its paired interval; negative: a loss."""

    estimate: float
    low: float
    high: float

    @property
    def is_loss(self) -> bool:
        """Whether the gate refuses it: a loss of more than MOST_LOSS that the interval tells from none."""
        return self.estimate < -MOST_LOSS and self.high < 0

    def __str__(self) -> str:
        points = (f"{100 * value:+.2f}" for value in (self.estimate, self.low, self.high))
        return "{} points ({} to {})".format(*points)


@dataclass(frozen=True)
class Comparison:
    """int8 against fp32 on the same rows."""

    rows: int
    head_flips: tuple[Flips, ...]
    vote_flips: Flips
    accuracy: Change
    """Of the vote of all heads."""


def compare_logits(fp32: Logits, int8: Logits, targets: NDArray[np.int64], *, vote: Vote) -> Comparison:
    """Compare logits [H, N, K] of the same heads on the same rows; targets [N]."""
    before, after = (pool(logits, vote).argmax(axis=-1) for logits in (fp32, int8))
    heads = (fp32.argmax(axis=-1) != int8.argmax(axis=-1)).sum(axis=1)
    return Comparison(
        rows=len(targets),
        head_flips=tuple(flips(int(count), len(targets)) for count in heads),
        vote_flips=flips(int((before != after).sum()), len(targets)),
        accuracy=paired_change(before == targets, after == targets),
    )


def flips(count: int, rows: int) -> Flips:
    """Share of `count` in `rows` with its Wilson score interval (Wilson 1927)."""
    share, spread = count / rows, Z**2 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / rows + spread / (4 * rows))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Flips(flips=count, share=share, low=0.0 if count == 0 else low, high=1.0 if count == rows else high)


def paired_change(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Change:
    """Change of the share of true values from `before` to `after`, row by row the same cases.

    The interval is the adjusted Wald interval for matched pairs (Agresti and Min, Statistics in Medicine 24, 2005):
    half a case is added to each of the four kinds of rows, so it does not shrink to nothing where no row changed.
    """
    rows = len(before)
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    adjusted = rows + 2
    centre = (won - lost) / adjusted
    half = Z * math.sqrt(won + lost + 1 - (won - lost) ** 2 / adjusted) / adjusted
    return Change((won - lost) / rows, max(-1.0, centre - half), min(1.0, centre + half))
