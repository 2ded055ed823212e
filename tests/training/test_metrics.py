"""Metrics of probabilities against a few obvious lines."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.vote import pool
from training.metrics import (
    adaptive_calibration_error,
    brier,
    by_confidence,
    calibration_error,
    measure,
    negative_log_likelihood,
)


def test_metrics_equal_their_definitions(case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    logits, targets = case
    probabilities = pool(logits, "probabilities")
    nll = np.mean([-np.log(p[t]) for p, t in zip(probabilities, targets, strict=True)])
    assert negative_log_likelihood(probabilities, targets) == pytest.approx(nll)
    score = np.mean(
        [sum((p[k] - (k == t)) ** 2 for k in range(5)) for p, t in zip(probabilities, targets, strict=True)]
    )
    assert brier(probabilities, targets) == pytest.approx(score)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(confidence[bins == b].mean() - hit[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    assert calibration_error(probabilities, targets) == pytest.approx(ece, abs=1e-6)
    measured = measure(logits, targets, split="report")
    assert measured.accuracy == pytest.approx(hit.mean())
    heads = logits.argmax(axis=-1)
    pairs = [(heads[a] != heads[b]).mean() for a in range(3) for b in range(3) if a != b]
    assert measured.disagreement == pytest.approx(np.mean(pairs))
    assert measure(logits[:1], targets, split="report").disagreement is None


def test_certain_rows_share_the_last_bin_with_almost_certain_ones() -> None:
    """Nine rows are certain and right, one is almost certain and wrong: one bin, confidence 0.999, accuracy 0.9."""
    probabilities = np.array([[1.0, 0.0]] * 9 + [[0.99, 0.01]])
    targets = np.array([0] * 9 + [1])
    assert calibration_error(probabilities, targets) == pytest.approx(0.999 - 0.9, abs=1e-6)


def adaptive_ece(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """The definition for confidences that all differ: 15 bins, the first ones one row longer."""
    rows = sorted(range(len(targets)), key=lambda row: -probabilities[row].max())
    short, longer = divmod(len(rows), 15)
    total, start = 0.0, 0
    for index in range(15):
        own = rows[start : start + short + (index < longer)]
        start += len(own)
        total += abs(sum(probabilities[r].max() - (probabilities[r].argmax() == targets[r]) for r in own))
    return total / len(rows)


@given(st.integers(1, 80), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_adaptive_ece_equals_its_definition(rows: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), rows)
    targets = generator.integers(0, classes, rows)
    assert adaptive_calibration_error(probabilities, targets) == pytest.approx(adaptive_ece(probabilities, targets))


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.9]), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_the_order_of_equally_confident_rows_does_not_matter(rows: list[tuple[float, bool]], random: Random) -> None:
    def arrays() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        probabilities = np.array([[top, 1 - top] for top, _ in rows])
        return probabilities, np.array([0 if right else 1 for _, right in rows])

    confidence, correct = by_confidence(*arrays())
    assert list(confidence) == sorted((top for top, _ in rows), reverse=True)
    for top, right in zip(confidence, correct, strict=True):
        equal = [own for other, own in rows if other == top]
        assert right == pytest.approx(sum(equal) / len(equal))
    before = adaptive_calibration_error(*arrays())
    random.shuffle(rows)
    assert adaptive_calibration_error(*arrays()) == pytest.approx(before)
