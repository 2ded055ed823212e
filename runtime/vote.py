"""How heads become one answer: pooling, temperature, disagreement. All arrays are float [rows, classes] unless said."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Vote = Literal["probabilities", "logits"]
Floats = NDArray[np.floating[Any]]
TINY = float(np.finfo(np.float64).tiny)
"""Stands for a probability of 0 where a logarithm is taken."""


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities over the last axis, computed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def pool(logits: Floats, vote: Vote) -> NDArray[np.float64]:
    """Combine logits [heads, rows, classes] into one distribution per row.

    `probabilities` is the soft vote, the mean of the heads' probabilities; `logits` is softmax of the mean logit, as in
    the reference implementation of arXiv 2505.17909.
    """
    if vote == "probabilities":
        pooled: NDArray[np.float64] = softmax(logits).mean(axis=0)
        return pooled
    return softmax(logits.astype(np.float64).mean(axis=0))


def temper(pooled: Floats, temperature: float) -> NDArray[np.float64]:
    """Return the distribution proportional to pooled^(1/temperature); never changes the ranking."""
    return softmax(np.log(np.maximum(pooled, TINY)) / temperature)


def disagreement(votes: NDArray[np.integer[Any]]) -> NDArray[np.float64] | None:
    """Mean over pairs of different heads of "top-1 differs", per row.

    `votes` is the top-1 class of each head, [heads, rows]. None for a single head, which has no pairs.
    """
    heads = len(votes)
    if heads < 2:
        return None
    differs = votes[:, None, :] != votes[None, :, :]  # [heads, heads, rows]; the diagonal is never counted
    pairs = heads * (heads - 1)
    result: NDArray[np.float64] = differs.sum(axis=(0, 1)) / pairs
    return result
