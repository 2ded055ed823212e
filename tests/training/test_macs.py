"""Multiply-adds: the published counts, a count by loops, and the cost of training steps by hand."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.macs import Macs, example_macs, module_macs, one_example, stage_macs, step_macs, weight_uses
from training.models.multihead import MultiHeadNetwork, Parts
from training.models.resnet import resnet_parts
from training.models.text_encoder import text_encoder_parts
from training.models.wide_resnet import wide_resnet_parts
from training.sparsity.distribution import erk_counts
from training.sparsity.masks import maskable_weights

SINGLE = {"wrn": 5_243_386_368, "resnet": 4_089_184_256}


def reference_network(kind: str, heads: int) -> tuple[MultiHeadNetwork, tuple[torch.Tensor, ...]]:
    """WRN-28-10 for CIFAR-100 or ResNet-50 for ImageNet without memory for its weights, and an image for it."""
    with torch.device("meta"):
        if kind == "wrn":
            network = MultiHeadNetwork(lambda: wide_resnet_parts(28, 10, classes=100), heads=heads, blocks_in_head=8)
            return network, (torch.empty(1, 3, 32, 32),)
        build = partial(resnet_parts, 50, stem="imagenet", classes=1000)
        network = MultiHeadNetwork(build, heads=heads, blocks_in_head=10)
        return network, (torch.empty(1, 3, 224, 224),)


@pytest.mark.parametrize(
    ("kind", "heads", "parameters", "weights", "dense"),
    [
        ("wrn", 1, 36.54, 36_518_832, SINGLE["wrn"]),
        ("wrn", 3, None, 106_278_832, 12_373_831_168),
        ("resnet", 1, 25.56, 25_502_912, SINGLE["resnet"]),
        ("resnet", 3, None, 74_196_160, 9_077_161_984),
    ],
)
def test_reference_networks_have_the_published_weights_and_macs(
    kind: str, heads: int, parameters: float | None, weights: int, dense: int
) -> None:
    """arXiv 2505.17909, tables 1 and 2: dense rows count norms and biases too (millions)."""
    network, row = reference_network(kind, heads)
    sizes = {name: weight.numel() for name, weight in maskable_weights(network, embeddings=False).items()}
    assert sum(sizes.values()) == weights
    assert example_macs(weight_uses(network, row), sizes) == dense
    stages = stage_macs(network, row, sizes)
    assert list(stages) == ["trunk", *(f"heads.{index}" for index in range(heads))]
    total = sum(stages.values(), start=Macs(0, 0, 0))
    assert total == Macs(dense, dense, 0)
    assert total.total == dense
    if parameters is not None:
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == parameters


@pytest.mark.parametrize(
    ("kind", "density", "kept", "relative"),
    [
        ("wrn", 0.2, 21_255_766, 0.68),
        ("wrn", 0.1, 10_627_883, 0.34),
        ("resnet", 0.3, 22_258_848, 1.05),
        ("resnet", 0.2, 14_839_232, 0.78),
        ("resnet", 0.1, 7_419_616, 0.43),
    ],
)
def test_sparse_reference_networks_cost_what_is_published(
    kind: str, density: float, kept: int, relative: float
) -> None:
    """Non-zeros and MACs relative to the dense single network, as in arXiv 2505.17909 (tables 1 and 2)."""
    network, row = reference_network(kind, 3)
    shapes = {name: tuple(weight.shape) for name, weight in maskable_weights(network, embeddings=False).items()}
    counts = erk_counts(shapes, density)
    assert sum(counts.values()) == kept
    effective = example_macs(weight_uses(network, row), counts)
    assert round(effective / SINGLE[kind], 2) == relative
    assert sum(stage.effective for stage in stage_macs(network, row, counts).values()) == effective


def multiplications(layer: nn.Conv2d, side: int) -> int:
    """Multiply-adds of a padded convolution of a square, by walking over its outputs."""
    count = 0
    stride, size, pad = layer.stride[0], layer.kernel_size[0], int(layer.padding[0])
    for _top in range(-pad, side + pad - size + 1, stride):
        for _left in range(-pad, side + pad - size + 1, stride):
            count += layer.out_channels * (layer.in_channels // layer.groups) * size * size
    return count


@given(
    st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 3, 5]), st.integers(1, 3), st.integers(0, 2),
    st.integers(5, 9),
)  # fmt: skip
def test_convolutions_are_counted_output_by_output(
    groups: int, per_group: int, size: int, stride: int, padding: int, side: int
) -> None:
    layer = nn.Conv2d(groups * 2, groups * per_group, size, stride, padding, groups=groups)
    macs = module_macs(layer, (torch.zeros(2, groups * 2, side, side),), {"weight": 7})
    dense = multiplications(layer, side)
    positions = dense // layer.weight.numel()
    assert macs == Macs(dense, 7 * positions, 0)


def test_attention_and_linear_layers_are_counted_for_every_token() -> None:
    """One encoder block of width 8 on 6 tokens: four projections, feed-forward, scores and weighted values."""
    network = MultiHeadNetwork(
        lambda: text_encoder_parts(
            vocabulary=20, width=8, blocks=1, attention_heads=2, max_tokens=6, classes=3, dropout=0.5
        ),
        heads=2,
        blocks_in_head=1,
    )
    ids = torch.ones(1, 6, dtype=torch.int64)
    stages = stage_macs(network, (ids, ids), {})
    head = 6 * (4 * 8 * 8 + 2 * 8 * 32) + 8 * 3
    assert stages == {f"heads.{index}": Macs(head, head, 2 * 6 * 6 * 8) for index in range(2)}
    assert "heads.0.stem.tokens.weight" not in weight_uses(network, (ids, ids))


def test_counting_changes_nothing_and_a_layer_used_twice_counts_twice() -> None:
    shared = nn.Linear(4, 4, bias=False)
    module = nn.Sequential(nn.BatchNorm1d(4), shared, nn.ReLU(), shared)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert weight_uses(module, (torch.randn(5, 4),)) == {"1.weight": 2}
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not shared._forward_hooks


def test_a_step_costs_what_its_three_passes_cost() -> None:
    uses, kept, sizes = {"a": 10, "b": 1}, {"a": 3, "b": 50, "embedding": 99}, {"a": 30, "b": 50, "embedding": 200}
    forward, dense = 10 * 3 + 50, 10 * 30 + 50
    assert example_macs(uses, kept) == forward
    assert step_macs(uses, kept, sizes, rows=4, dense_gradients=False) == 4 * 3 * forward
    assert step_macs(uses, kept, sizes, rows=4, dense_gradients=True) == 4 * (2 * forward + dense)
    assert step_macs(uses, kept, sizes, rows=1, dense_gradients=False, activation=5) == 3 * (forward + 5)
    # The average of RigL's appendix, one update every n + 1 steps: (3 n f_S + 2 f_S + f_D) / (n + 1).
    steps = [step_macs(uses, kept, sizes, rows=1, dense_gradients=step % 100 == 99) for step in range(100)]
    assert sum(steps) / 100 == pytest.approx((3 * 99 * forward + 2 * forward + dense) / 100)
    with pytest.raises(ValueError, match="given for b"):
        example_macs(uses, {"a": 3})


def test_backward_passes_cost_what_autograd_multiplies() -> None:
    """An independent count of a dense step: PyTorch's own, of the forward and the backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.Flatten())
    image = torch.randn(1, 3, 9, 9, requires_grad=True)  # so that the first layer's input gradient is computed too
    uses = weight_uses(module, (image.detach(),))
    sizes = {name: module.get_parameter(name).numel() for name in uses}
    with FlopCounterMode(display=False) as counter:
        module(image).sum().backward()
    assert step_macs(uses, sizes, sizes, rows=1, dense_gradients=False) == counter.get_total_flops() // 2


@pytest.mark.parametrize(("build", "uses"), [(lambda: nn.Conv2d(2, 3, 3), 2 * 2), (lambda: nn.Linear(4, 4), 2 * 4)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_uses_are_counted_on_any_device(build: Callable[[], nn.Module], uses: int, device: str) -> None:
    with torch.device(device):
        assert weight_uses(build(), (torch.empty(1, 2, 4, 4),)) == {"weight": uses}


def test_one_example_is_one_row_of_the_largest_size() -> None:
    from runtime.manifest import ImagePreprocessing, TextPreprocessing

    image = ImagePreprocessing(mode="L", height=5, width=4, resize_shorter=5, mean=(0.5,), std=(1.0,))
    [zeros] = one_example(image)
    assert zeros.shape == (1, 1, 5, 4)
    ids, mask = one_example(TextPreprocessing(pad_id=0, lengths=(4, 16)))
    assert ids.shape == mask.shape == (1, 16)
    assert ids.dtype == torch.int64


def test_parts_of_ones_own_are_counted() -> None:
    def parts() -> Parts:
        return Parts(nn.Conv2d(1, 2, 3, padding=1), [nn.Conv2d(2, 2, 1)], nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))

    stages = stage_macs(MultiHeadNetwork(parts, heads=1, blocks_in_head=0), (torch.zeros(1, 1, 4, 4),), {})
    assert stages == {"trunk": Macs(16 * 18 + 16 * 4, 16 * 18 + 16 * 4, 0), "heads.0": Macs(96, 96, 0)}
