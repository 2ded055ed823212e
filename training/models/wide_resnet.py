"""Wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146), in the pre-activation form, as parts."""

from torch import Tensor, nn
from torch.nn import functional

from training.errors import ConfigError
from training.models.multihead import Parts


def wide_resnet_parts(depth: int, width: int, *, classes: int, channels: int = 3) -> Parts:
    """WRN-`depth`-`width` with (depth - 4) / 2 blocks in three groups, at full, half and quarter resolution.

    `channels` is the number of input channels. Raises ConfigError unless depth is 6n + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ConfigError(f"The depth of a WideResNet must be 6n + 4 (10, 16, 22, 28, ...), not {depth}.")
    per_group = (depth - 4) // 6
    blocks: list[nn.Module] = []
    before = 16
    for group in range(3):
        after = 16 * width * 2**group
        for index in range(per_group):
            blocks.append(PreActivationBlock(before, after, stride=2 if group and not index else 1))
            before = after
    return Parts(stem=convolution(channels, 16, 3), blocks=blocks, classifier=PooledClassifier(before, classes))


class PreActivationBlock(nn.Module):
    """Norm, activation, 3x3; norm, activation, 3x3; plus the input. A shape change reads the activated input."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = convolution(before, after, 3, stride)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = convolution(after, after, 3)
        self.shortcut = convolution(before, after, 1, stride) if before != after or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, height, width] -> [B, after, height / stride, width / stride]."""
        active = functional.relu(self.norm1(x))
        residual = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = residual + self.conv2(functional.relu(self.norm2(self.conv1(active))))
        return out


class PooledClassifier(nn.Module):
    """Norm, activation, global average pooling, linear: what ends a pre-activation network."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, height, width] -> logits [B, K]."""
        logits: Tensor = self.linear(functional.relu(self.norm(x)).mean(dim=(2, 3)))
        return logits


def convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded to keep the resolution, initialized as He et al. (fan-out)."""
    conv = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
