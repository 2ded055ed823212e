"""ERK counts: exact, and equal to an independent few-line implementation; the published counts: test_macs.py."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.sparsity.distribution import Distribution, erk_counts

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


@given(shapes=SHAPES, density=st.floats(0.01, 1), blocks=st.booleans())
def test_uniform_counts_are_within_one_unit_of_the_same_density(
    shapes: list[tuple[int, ...]], density: float, blocks: bool
) -> None:
    named = {f"layer{index}": shape for index, shape in enumerate(shapes)}
    units = {name: 4 if blocks and shape[1] % 4 == 0 else 1 for name, shape in named.items()}
    counts = Distribution("uniform").counts(named, density, units)
    for name, shape in named.items():
        assert counts[name] % units[name] == 0
        assert abs(counts[name] - density * math.prod(shape)) <= 4 * len(shapes)
    total = round(density * sum(math.prod(shape) for shape in shapes))
    assert total - max(units.values()) < sum(counts.values()) <= total


@given(shapes=SHAPES, density=st.floats(0.01, 1))
def test_blocks_cost_at_most_three_weights_of_the_total(shapes: list[tuple[int, ...]], density: float) -> None:
    named = {f"layer{index}": shape for index, shape in enumerate(shapes)}
    units = {name: 4 if shape[1] % 4 == 0 else 1 for name, shape in named.items()}
    counts, single = Distribution().counts(named, density, units), erk_counts(named, density)
    assert 0 <= sum(single.values()) - sum(counts.values()) < 4
    assert all(counts[name] % units[name] == 0 and counts[name] <= math.prod(named[name]) for name in named)


NAMES = {
    "trunk.stem.weight": (16, 3, 3, 3),
    "trunk.blocks.0.conv1.weight": (32, 16, 3, 3),
    "heads.0.linear.weight": (100, 64),
    "heads.1.linear.weight": (100, 64),
}


@given(st.floats(0.01, 1))
def test_stages_have_the_same_density_when_they_share_nothing(density: float) -> None:
    counts = Distribution(scope="stage").counts(NAMES, density)
    for stage in ("trunk", "heads.0", "heads.1"):
        size = sum(math.prod(shape) for name, shape in NAMES.items() if name.startswith(stage))
        assert abs(sum(n for name, n in counts.items() if name.startswith(stage)) - density * size) <= 1
    assert sum(counts.values()) == round(density * sum(math.prod(shape) for shape in NAMES.values()))
    trunk = {name: shape for name, shape in NAMES.items() if name.startswith("trunk")}
    alone = erk_counts(trunk, density)
    assert all(abs(counts[name] - alone[name]) <= 1 for name in trunk)


def test_single_layers_can_be_fixed_at_the_cost_of_the_others() -> None:
    chosen = Distribution(layers={"trunk.stem.weight": 1, "heads.*": 0.5})
    counts = chosen.counts(NAMES, 0.4)
    assert counts["trunk.stem.weight"] == 432
    assert counts["heads.0.linear.weight"] == counts["heads.1.linear.weight"] == 3200
    assert sum(counts.values()) == round(0.4 * sum(math.prod(shape) for shape in NAMES.values()))
    with pytest.raises(ValueError, match="no layer is called 'stem'"):
        Distribution(layers={"stem": 1}).counts(NAMES, 0.4)
    with pytest.raises(ValueError, match=r"leaves -.* kept weights to 1 other layers"):
        chosen.counts(NAMES, 0.1)
    with pytest.raises(ValueError, match=r"change sparsity\.density"):
        Distribution(layers={"*": 0.5}).counts(NAMES, 0.4)
