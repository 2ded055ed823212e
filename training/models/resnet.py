"""Bottleneck residual networks (He et al., arXiv 1512.03385; stride on the 3x3) with the ImageNet stem, as parts."""

from torch import Tensor, nn
from torch.nn import functional

from training.models.multihead import Parts
from training.models.wide_resnet import convolution


def resnet50_parts(*, classes: int, channels: int = 3) -> Parts:
    """ResNet-50: 16 bottleneck blocks in four groups of 3, 4, 6 and 3."""
    stem = nn.Sequential(
        convolution(channels, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
    )
    blocks: list[nn.Module] = []
    before = 64
    for group, count in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**group
        for index in range(count):
            blocks.append(Bottleneck(before, inner, stride=2 if group and not index else 1))
            before = 4 * inner
    return Parts(stem=stem, blocks=blocks, classifier=AveragedClassifier(before, classes))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times `inner` channels; plus the input, projected where shapes differ."""

    def __init__(self, before: int, inner: int, *, stride: int) -> None:
        super().__init__()
        after = 4 * inner
        self.conv1, self.norm1 = convolution(before, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = convolution(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.norm3 = convolution(inner, after, 1), nn.BatchNorm2d(after)
        self.shortcut: nn.Sequential | None = None
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(convolution(before, after, 1, stride), nn.BatchNorm2d(after))

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
