"""ERK counts: exact, as published, and equal to an independent few-line implementation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.models.multihead import MultiHeadNetwork
from training.models.resnet import resnet50_parts
from training.models.wide_resnet import wide_resnet_parts
from training.sparsity.distribution import erk_counts
from training.sparsity.masks import maskable_weights

SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=8,
)


def meta_network(kind: str, heads: int) -> MultiHeadNetwork:
    """The reference networks, without memory for their weights."""
    with torch.device("meta"):
        if kind == "wrn":
            return MultiHeadNetwork(lambda: wide_resnet_parts(28, 10, classes=100), heads=heads, blocks_in_head=8)
        return MultiHeadNetwork(lambda: resnet50_parts(classes=1000), heads=heads, blocks_in_head=10)


def macs_by_weight(network: MultiHeadNetwork, size: int) -> dict[str, int]:
    """How often each weight is used for one image of `size` pixels, by hooks on meta tensors."""
    uses: dict[str, int] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(
                lambda _module, _inputs, out, name=name: uses.update({f"{name}.weight": math.prod(out.shape[2:])})
            )
    with torch.device("meta"):
        network.eval()(torch.empty(1, 3, size, size))
    return uses


@pytest.mark.parametrize(
    ("kind", "heads", "size", "weights", "dense_macs"),
    [
        ("wrn", 1, 32, 36_518_832, 5_243_386_368),
        ("wrn", 3, 32, 106_278_832, 12_373_831_168),
        ("resnet", 1, 224, 25_502_912, 4_089_184_256),
        ("resnet", 3, 224, 74_196_160, 9_077_161_984),
    ],
)
def test_reference_networks_have_the_published_weights_and_macs(
    kind: str, heads: int, size: int, weights: int, dense_macs: int
) -> None:
    network = meta_network(kind, heads)
    covered = maskable_weights(network, embeddings=False)
    assert sum(weight.numel() for weight in covered.values()) == weights
    uses = macs_by_weight(network, size)
    assert sum(weight.numel() * uses[name] for name, weight in covered.items()) == dense_macs


@pytest.mark.parametrize(
    ("kind", "density", "kept", "relative_macs"),
    [
        ("wrn", 0.2, 21_255_766, 0.68),
        ("wrn", 0.1, 10_627_883, 0.34),
        ("resnet", 0.3, 22_258_848, 1.05),
        ("resnet", 0.2, 14_839_232, 0.78),
        ("resnet", 0.1, 7_419_616, 0.43),
    ],
)
def test_masks_of_reference_networks_are_exact(kind: str, density: float, kept: int, relative_macs: float) -> None:
    """Non-zeros and MACs relative to the dense single network, as in arXiv 2505.17909 (tables 1 and 2)."""
    network = meta_network(kind, 3)
    shapes = {name: tuple(w.shape) for name, w in maskable_weights(network, embeddings=False).items()}
    counts = erk_counts(shapes, density)
    assert sum(counts.values()) == kept
    uses = macs_by_weight(network, 32 if kind == "wrn" else 224)
    single = {"wrn": 5_243_386_368, "resnet": 4_089_184_256}[kind]
    assert round(sum(counts[name] * uses[name] for name in shapes) / single, 2) == relative_macs


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
