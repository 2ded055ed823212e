"""Residual networks (He et al., arXiv 1512.03385) with basic or bottleneck blocks and two stems, as parts.

A bottleneck has its stride on the 3x3, as in torchvision ("v1.5"). A block normalizes before it adds its input, so the
network has no final norm of its own: the last norms of a head are those of its last private block.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from training.models.multihead import Parts
from training.models.wide_resnet import convolution

Depth = Literal[18, 34, 50]
Stem = Literal["cifar", "imagenet"]

BLOCKS: dict[Depth, tuple[int, int, int, int]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each of the four groups, whose inner channels are 64, 128, 256 and 512 (table 1 of the paper)."""


def resnet_parts(
    depth: Depth, *, stem: Stem, classes: int, channels: int = 3, zero_init_residual: bool = False
) -> Parts:
    """ResNet-18 or -34 of basic blocks, or ResNet-50 of bottlenecks; `channels` are those of the input.

    The `imagenet` stem is a 7x7 convolution of stride 2 and max pooling, together a quarter of the resolution; the
    `cifar` stem is a 3x3 convolution at full resolution. `zero_init_residual` starts the scale of each block's last
    norm at 0, so that every block starts as the identity (Goyal et al., arXiv 1706.02677, section 5.1).
    """
    kind = Bottleneck if depth == 50 else BasicBlock
    blocks: list[nn.Module] = []
    before = 64
    for group, count in enumerate(BLOCKS[depth]):
        inner = 64 * 2**group
        for index in range(count):
            block = kind(before, inner, stride=2 if group and not index else 1)
            if zero_init_residual:
                nn.init.zeros_(block.last_norm.weight)
            blocks.append(block)
            before = inner * kind.EXPANSION
    return Parts(stem=_stem(stem, channels), blocks=blocks, classifier=AveragedClassifier(before, classes))


def _stem(kind: Stem, channels: int) -> nn.Sequential:
    """[B, channels, height, width] -> [B, 64, height, width], or a quarter of height and width for `imagenet`."""
    if kind == "cifar":
        return nn.Sequential(convolution(channels, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(
        convolution(channels, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
    )


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    """Projection of the input where its shape is not that of the output (option B of the paper)."""
    if before == after and stride == 1:
        return None
    return nn.Sequential(convolution(before, after, 1, stride), nn.BatchNorm2d(after))


class BasicBlock(nn.Module):
    """3x3, 3x3; plus the input, projected where shapes differ."""

    EXPANSION = 1

    def __init__(self, before: int, inner: int, *, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(before, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = convolution(inner, inner, 3), nn.BatchNorm2d(inner)
        self.shortcut = _shortcut(before, inner, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm right before the input is added."""
        return self.norm2

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, height, width] -> [B, inner, height / stride, width / stride]."""
        out = functional.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return functional.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times `inner` channels; plus the input, projected where shapes differ."""

    EXPANSION = 4

    def __init__(self, before: int, inner: int, *, stride: int) -> None:
        super().__init__()
        after = inner * self.EXPANSION
        self.conv1, self.norm1 = convolution(before, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = convolution(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.norm3 = convolution(inner, after, 1), nn.BatchNorm2d(after)
        self.shortcut = _shortcut(before, after, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm right before the input is added."""
        return self.norm3

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, height, width] -> [B, 4 * inner, height / stride, width / stride]."""
        out = functional.relu(self.norm1(self.conv1(x)))
        out = functional.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        return functional.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class AveragedClassifier(nn.Module):
    """Global average pooling and linear."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, height, width] -> logits [B, K]."""
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
