"""Residual networks: the published counts, and an independent forward pass."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import EnsembleConfig, ResNetConfig
from training.models.build import build_network
from training.models.resnet import Depth, Stem, resnet_parts


def plain(depth: Depth, stem: Stem, *, classes: int, zero_init_residual: bool = False) -> nn.Sequential:
    parts = resnet_parts(depth, stem=stem, classes=classes, zero_init_residual=zero_init_residual)
    return nn.Sequential(parts.stem, *parts.blocks, parts.classifier)


def macs(network: nn.Module, side: int) -> int:
    """Multiply-adds of convolutions and linear layers for one image, by hooks on meta tensors."""
    total = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        total += layer.weight.numel() * math.prod(out.shape[2:])

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.device("meta"):
        network.eval()(torch.empty(1, 3, side, side))
    return total


@pytest.mark.parametrize(
    ("depth", "parameters", "giga_macs"), [(18, 11_689_512, 1.81), (34, 21_797_672, 3.66), (50, 25_557_032, 4.09)]
)
def test_imagenet_networks_have_the_published_size(depth: Depth, parameters: int, giga_macs: float) -> None:
    """The counts that torchvision publishes for its weights, to which the paper's architecture leads."""
    with torch.device("meta"):
        network = plain(depth, "imagenet", classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert round(macs(network, 224) / 1e9, 2) == giga_macs


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_173_962), (34, 21_282_122), (50, 23_520_842)])
def test_cifar_networks_have_the_usual_size(depth: Depth, parameters: int) -> None:
    """The ImageNet network with 10 classes and 3 * 64 * (49 - 9) fewer weights in the stem."""
    with torch.device("meta"):
        network = plain(depth, "cifar", classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    with torch.device("meta"):
        assert network.eval()[0](torch.empty(1, 3, 32, 32)).shape == (1, 64, 32, 32)
        assert network[:-1](torch.empty(1, 3, 32, 32)).shape[2:] == (4, 4)


def by_hand(weights: dict[str, Tensor], depth: int, stem: str, x: Tensor) -> Tensor:
    """The forward pass in training mode from table 1 of arXiv 1512.03385, reading nothing but tensors."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = weights[f"{conv}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        scale, shift = (weights[f"{norm}.{name}"][:, None, None] for name in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = conv_norm(x, "0.0", "0.1", 2 if stem == "imagenet" else 1).clamp(min=0)
    if stem == "imagenet":
        x = functional.max_pool2d(x, 3, 2, 1)
    convs = 3 if depth == 50 else 2
    index = 0
    for group, count in enumerate({18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]):
        for first in (True, *[False] * (count - 1)):
            index += 1
            stride = 2 if first and group else 1
            y = x
            for number in range(1, convs + 1):
                strided = number == convs - 1  # the 3x3 of a bottleneck, the first of a basic block
                y = conv_norm(y, f"{index}.conv{number}", f"{index}.norm{number}", stride if strided else 1)
                y = y.clamp(min=0) if number < convs else y
            if f"{index}.shortcut.0.weight" in weights:
                assert first
                x = conv_norm(x, f"{index}.shortcut.0", f"{index}.shortcut.1", stride)
            x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ weights[f"{index + 1}.linear.weight"].T + weights[f"{index + 1}.linear.bias"]


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (18, "imagenet"), (34, "imagenet"), (50, "cifar")])
def test_logits_equal_an_independent_forward(depth: Depth, stem: Stem) -> None:
    torch.manual_seed(0)
    network = plain(depth, stem, classes=5).double().train()
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):  # so that scale and shift matter
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_()
        images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        expected = by_hand(dict(network.named_parameters()), depth, stem, images)
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)


def test_weights_are_drawn_as_by_he_with_fan_out() -> None:
    torch.manual_seed(0)
    for name, conv in plain(18, "imagenet", classes=10).named_modules():
        if isinstance(conv, nn.Conv2d):
            std = math.sqrt(2 / (conv.out_channels * math.prod(conv.kernel_size)))
            assert abs(conv.weight.std().item() / std - 1) < 0.05, name
            assert abs(conv.weight.mean().item()) < 0.05 * std, name


@pytest.mark.parametrize("depth", [18, 50])
def test_blocks_can_start_as_the_identity(depth: Depth) -> None:
    blocks = resnet_parts(depth, stem="cifar", classes=2, zero_init_residual=True).blocks
    x = torch.randn(2, 256 if depth == 50 else 64, 4, 4).relu()
    torch.testing.assert_close(blocks[1](x), x)
    default = resnet_parts(depth, stem="cifar", classes=2).blocks
    assert not torch.allclose(default[1](x), x)


def test_the_configuration_reaches_the_network() -> None:
    config = ResNetConfig(kind="resnet", depth=18, stem="cifar", zero_init_residual=True)
    network = build_network(config, EnsembleConfig(heads=2, blocks_in_head=3), classes=7, channels=1, seed=0)
    weights = network.state_dict()
    assert weights["trunk.stem.0.weight"].shape == (64, 1, 3, 3)
    assert network.trunk is not None
    assert (len(network.trunk.blocks), weights["heads.1.classifier.linear.weight"].shape) == (5, (7, 512))
    assert not weights["heads.0.blocks.0.norm2.weight"].any()
