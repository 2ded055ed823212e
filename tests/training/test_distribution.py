"""ERK counts: exact, and equal to an independent few-line implementation; the published counts: test_macs.py."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.sparsity.distribution import erk_counts

SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=8,
)


@given(SHAPES, st.floats(0.01, 1.0))
def test_counts_are_exact_and_fit(shapes: list[tuple[int, ...]], density: float) -> None:
    named = {f"layer{index}": shape for index, shape in enumerate(shapes)}
    counts = erk_counts(named, density)
    sizes = {name: math.prod(shape) for name, shape in named.items()}
    assert sum(counts.values()) == round(density * sum(sizes.values()))
    assert all(0 <= counts[name] <= sizes[name] for name in named)


@given(SHAPES, st.floats(0.01, 0.99))
def test_densities_follow_the_formula(shapes: list[tuple[int, ...]], density: float) -> None:
    """Independent: find by bisection the scale at which min(1, scale * sum / prod) uses the budget."""
    sizes = np.array([math.prod(shape) for shape in shapes], dtype=float)
    scores = np.array([sum(shape) for shape in shapes]) / sizes
    low, high = 0.0, 1 / scores.min()
    for _ in range(200):
        middle = (low + high) / 2
        if (np.minimum(1, middle * scores) * sizes).sum() < density * sizes.sum():
            low = middle
        else:
            high = middle
    expected = np.minimum(1, high * scores) * sizes
    counts = erk_counts({str(index): shape for index, shape in enumerate(shapes)}, density)
    assert np.abs(np.array(list(counts.values())) - expected).max() <= 1.51  # rounding of the layer and of the total


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
def test_impossible_density_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match=f"not {density}"):
        erk_counts({"a": (3, 3)}, density)
