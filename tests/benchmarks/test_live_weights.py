"""Live random weights: exact densities, the stated variance, settled norms; dead networks are refused."""

import pytest
import torch
from torch import nn

from live_weights import (
    DeadNetwork,
    draw_weights,
    live_network,
    random_images,
    random_tokens,
    require_alive,
)
from training.config import EnsembleConfig, NetworkConfig, TextEncoderConfig, WideResNetConfig
from training.sparsity.masks import maskable_weights

WRN = WideResNetConfig(kind="wide_resnet", depth=10, width=1)
ENCODER = TextEncoderConfig(kind="text_encoder", vocabulary=64, width=32, blocks=2, attention_heads=2, lengths=(16,))
IMAGES = random_images(16, (3, 12, 12), seed=1)
TEXTS = random_tokens(16, 16, 64, seed=1)
CASES = [
    pytest.param(WRN, EnsembleConfig(heads=3, blocks_in_head=2), IMAGES, id="image"),
    pytest.param(ENCODER, EnsembleConfig(heads=2, blocks_in_head=1), TEXTS, id="text"),
]


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize(("config", "ensemble", "inputs"), CASES)
def test_network_is_live_and_exactly_as_dense_as_asked(
    config: NetworkConfig, ensemble: EnsembleConfig, inputs: tuple[torch.Tensor, ...], density: float
) -> None:
    network, masks = live_network(config, ensemble, density=density, classes=7, inputs=inputs, seed=3)
    assert not network.training
    assert bool(masks) == (density < 1)
    weights = maskable_weights(network, embeddings=False)
    total = sum(weight.numel() for weight in weights.values())
    assert sum(int(torch.count_nonzero(weight)) for weight in weights.values()) == round(density * total)
    for name, mask in masks.items():
        assert torch.equal(weights[name] != 0, mask)
    with torch.inference_mode():
        logits = network(*inputs)
    assert logits.shape == (ensemble.heads, 16, 7)
    assert logits.std(dim=1).mean(dim=1).min() >= 0.1


def test_same_seed_same_weights() -> None:
    states = [
        live_network(WRN, EnsembleConfig(heads=2, blocks_in_head=1), density=0.3, classes=5, inputs=IMAGES, seed=seed)[
            0
        ].state_dict()
        for seed in (4, 4, 5)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_variance_is_two_through_the_fan_in_that_the_mask_leaves() -> None:
    layer = nn.Linear(400, 300)
    mask = torch.rand(300, 400, generator=torch.Generator().manual_seed(0)) < 0.1
    draw_weights(nn.ModuleDict({"layer": layer}), {"layer.weight": mask}, torch.Generator().manual_seed(1))
    kept = layer.weight[mask]
    expected = 2 / (int(mask.sum()) / 300)
    assert float(kept.detach().var()) == pytest.approx(expected, rel=0.05)
    assert not layer.weight[~mask].any()


def test_norms_hold_the_statistics_of_the_inputs() -> None:
    network, _ = live_network(
        WRN, EnsembleConfig(heads=1, blocks_in_head=3), density=1.0, classes=5, inputs=IMAGES, seed=0
    )
    head = network.heads[0]
    stem, norm = head.get_submodule("stem"), head.get_submodule("blocks.0.norm1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(norm.running_mean, torch.Tensor)
    with torch.no_grad():
        mean = stem(IMAGES[0]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_a_network_without_signal_is_refused() -> None:
    network, _ = live_network(
        WRN, EnsembleConfig(heads=2, blocks_in_head=1), density=0.3, classes=5, inputs=IMAGES, seed=0
    )
    with torch.no_grad():
        network.heads[1].get_submodule("classifier.linear").weight.mul_(1e-6)  # type: ignore[operator]
    with pytest.raises(DeadNetwork, match="head 1"):
        require_alive(network, IMAGES)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 7, 12), (2, 1, 1)])
def test_images_differ_in_brightness_and_are_the_same_for_a_seed(shape: tuple[int, int, int]) -> None:
    (images,) = random_images(32, shape, seed=4)
    assert images.shape == (32, *shape)
    assert images.isfinite().all()
    assert images.mean(dim=(2, 3)).std(dim=0).min() > 0.5
    assert images.abs().mean() < 2
    assert torch.equal(images, random_images(32, shape, seed=4)[0])
    assert not torch.equal(images, random_images(32, shape, seed=5)[0])


def test_images_are_neither_flat_nor_independent_pixels() -> None:
    (images,) = random_images(32, (1, 32, 32), seed=4)
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    contrast = centred.square().mean(dim=(1, 2, 3)).sqrt()
    steps = (centred[..., 1:] - centred[..., :-1]).square().mean(dim=(1, 2, 3)).sqrt()
    assert contrast.min() > 0.05
    assert contrast.max() > 3 * contrast.min()
    assert (steps / contrast).median() < 1.0  # independent pixels: the root of 2


def test_a_deep_network_tells_images_apart_better_than_independent_pixels() -> None:
    deep = WideResNetConfig(kind="wide_resnet", depth=28, width=2)
    images = random_images(8, (3, 16, 16), seed=1)
    pixels = (torch.randn(images[0].shape, generator=torch.Generator().manual_seed(1)),)
    spreads = []
    for inputs in (images, pixels):
        ensemble = EnsembleConfig(heads=1, blocks_in_head=8)
        network, _ = live_network(deep, ensemble, density=0.1, classes=10, inputs=inputs, seed=0)
        with torch.inference_mode():
            spreads.append(float(network(*inputs).std(dim=1).mean()))
    assert spreads[0] > 1.3 * spreads[1]


def test_inputs_that_are_all_the_same_show_no_life() -> None:
    same = (IMAGES[0][:1].repeat(4, 1, 1, 1),)
    with pytest.raises(DeadNetwork, match="head 0"):
        live_network(WRN, EnsembleConfig(heads=2, blocks_in_head=1), density=0.3, classes=5, inputs=same, seed=0)
