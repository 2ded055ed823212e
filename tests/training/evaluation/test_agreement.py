"""Disagreement and KL between heads against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.vote import disagreement, softmax
from training.evaluation.agreement import agreement


@given(st.integers(1, 4), st.integers(1, 20), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_matrices_equal_their_definitions(heads: int, rows: int, classes: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(heads, rows, classes)).astype(np.float32)
    found = agreement(logits)
    probabilities = softmax(logits)
    for a in range(heads):
        for b in range(heads):
            differs = [logits[a, row].argmax() != logits[b, row].argmax() for row in range(rows)]
            assert found.disagreement[a][b] == pytest.approx(np.mean(differs))
            p, q = probabilities[a], probabilities[b]
            assert found.kl[a][b] == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), abs=1e-9)
    pairs = [(a, b) for a in range(heads) for b in range(heads) if a != b]
    if heads == 1:
        assert found.mean_disagreement is None
        assert found.mean_kl is None
    else:
        assert found.mean_disagreement == pytest.approx(np.mean([found.disagreement[a][b] for a, b in pairs]))
        assert found.mean_kl == pytest.approx(np.mean([found.kl[a][b] for a, b in pairs]))
        per_row = disagreement(logits.argmax(axis=-1))
        assert per_row is not None
        assert found.mean_disagreement == pytest.approx(per_row.mean())


def test_probabilities_too_small_to_be_numbers_give_a_finite_divergence() -> None:
    sure, other = [[2000.0, 0.0]], [[0.0, 0.0]]
    found = agreement(np.array([sure, other], dtype=np.float32))
    assert found.kl[0][1] == pytest.approx(np.log(2))
    assert found.kl[1][0] == pytest.approx(1000 - np.log(2))
