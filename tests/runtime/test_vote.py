"""Each formula against the obvious lines for it."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from runtime.vote import Vote, disagreement, pool, softmax, temper

FLOATS = st.floats(-60, 60, width=32)
LOGITS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6), elements=FLOATS)


def _obvious_softmax(values: NDArray[Any]) -> list[float]:
    weights = [np.exp(float(value)) for value in values]
    return [weight / sum(weights) for weight in weights]


@given(LOGITS)
def test_softmax(logits: NDArray[np.float32]) -> None:
    result = softmax(logits)
    assert result.dtype == np.float64
    for index in np.ndindex(logits.shape[:2]):
        np.testing.assert_allclose(result[index], _obvious_softmax(logits[index]), rtol=1e-12)


def test_softmax_of_huge_logits_is_finite() -> None:
    result = softmax(np.array([[3e38, -3e38, 3e38], [-1e30, -1e30, -1e30]], dtype=np.float32))
    np.testing.assert_array_equal(result, [[0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]])


@given(LOGITS)
def test_pool(logits: NDArray[np.float32]) -> None:
    heads, rows, _ = logits.shape
    soft, mean = pool(logits, "probabilities"), pool(logits, "logits")
    for row in range(rows):
        each = [_obvious_softmax(logits[head, row]) for head in range(heads)]
        np.testing.assert_allclose(soft[row], np.mean(each, axis=0), rtol=1e-12)
        average = logits[:, row].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(mean[row], _obvious_softmax(average), rtol=1e-12)


@pytest.mark.parametrize("vote", ["probabilities", "logits"])
def test_one_head_votes_for_itself(vote: Vote) -> None:
    logits = np.array([[[1.0, 2.0, -1.0]]], dtype=np.float32)
    np.testing.assert_allclose(pool(logits, vote)[0], _obvious_softmax(logits[0, 0]), rtol=1e-12)


@given(LOGITS, st.floats(0.05, 20))
def test_temper(logits: NDArray[np.float32], temperature: float) -> None:
    pooled = softmax(logits[0] / 4)
    result = temper(pooled, temperature)
    expected = pooled ** (1 / temperature)
    np.testing.assert_allclose(result, expected / expected.sum(axis=-1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(temper(pooled, 1.0), pooled, rtol=1e-9)
    order = np.argsort(pooled, axis=-1)
    assert (np.diff(np.take_along_axis(result, order, axis=-1), axis=-1) >= -1e-15).all()


def test_temper_of_a_certain_vote_is_finite() -> None:
    np.testing.assert_allclose(temper(np.array([[1.0, 0.0]]), 0.5), [[1.0, 0.0]], atol=1e-300)


@given(hnp.arrays(np.int64, st.tuples(st.integers(2, 6), st.integers(1, 4)), elements=st.integers(0, 3)))
def test_disagreement(votes: NDArray[np.int64]) -> None:
    result = disagreement(votes)
    assert result is not None
    for row in range(votes.shape[1]):
        pairs = [a != b for a, b in combinations(votes[:, row].tolist(), 2)]
        assert result[row] == pytest.approx(sum(pairs) / len(pairs))


def test_one_head_has_nobody_to_disagree_with() -> None:
    assert disagreement(np.array([[1, 2, 3]])) is None
