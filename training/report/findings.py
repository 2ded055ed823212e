"""What the heads say on one part of the data, counted and measured; every function takes arrays and gives arrays.

H heads, N rows, K classes, as everywhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.vote import TINY, disagreement, pool, softmax

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Bins:
    """Rows by confidence of their vote, in bins of equal width. Bin b holds confidences from `edges[b]` on."""

    edges: Floats
    """[bins + 1]"""
    rows: Integers
    """[bins]"""
    confidence: Floats
    """Mean over the rows of a bin, NaN where there is none, [bins]."""
    accuracy: Floats
    """Likewise."""


def reliability(probabilities: Floats, targets: Integers, bins: int) -> Bins:
    """Confidence against accuracy of a vote [N, K] (Guo et al., arXiv 1706.04599, section 2)."""
    edges = np.linspace(0, 1, bins + 1)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    index = np.digitize(confidence, edges[1:-1])
    rows = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=confidence, minlength=bins) / rows
        accuracy = np.bincount(index, weights=correct, minlength=bins) / rows
    return Bins(edges, rows.astype(np.int64), mean, accuracy)


def confusion(voted: Integers, targets: Integers, classes: int) -> Integers:
    """Rows by true class and voted class, [K, K]."""
    counts = np.bincount(targets * classes + voted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def divergence(logits: NDArray[np.float32]) -> Floats:
    """How far the heads' distributions lie apart, for each row, in nats, [N], from logits [H, N, K].

    The Jensen-Shannon divergence of all heads: entropy of their mean minus the mean of their entropies.
    """
    heads = softmax(logits)
    result: Floats = _entropy(heads.mean(axis=0)) - _entropy(heads).mean(axis=0)
    return result


def most_disputed(logits: NDArray[np.float32], count: int) -> Integers:
    """Rows on which the heads disagree most: by pairs whose first choice differs, then by `divergence`."""
    disputed = disagreement(logits.argmax(axis=-1))
    if disputed is None:
        raise ValueError("a single head cannot disagree")
    order: Integers = np.lexsort((-divergence(logits), -disputed))[:count]
    return order


def most_confident_errors(logits: NDArray[np.float32], targets: Integers, count: int) -> Integers:
    """Rows whose vote is wrong, the most confident first; at most `count`."""
    voted = pool(logits, "probabilities")
    order = np.argsort(-voted.max(axis=1), kind="stable")
    wrong: Integers = order[voted.argmax(axis=1)[order] != targets[order]]
    return wrong[:count]


def _entropy(probabilities: NDArray[np.floating[Any]]) -> Floats:
    entropy: Floats = -(probabilities * np.log(np.maximum(probabilities, TINY))).sum(axis=-1)
    return entropy
