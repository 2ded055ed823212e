"""Random changes to images and their normalization, on the device that trains, after one transfer of uint8 pixels.

The random parameters are drawn on the CPU for a whole batch, so they depend neither on the device nor on the number
of processes that share the batch.

augmentation = draw(config, 128, (32, 32), (32, 32), np.random.default_rng([seed, epoch, index]))
images = normalized(augmentation.move(images), spec)      # uint8 [B, 32, 32, 3] -> float32 [B, 3, 32, 32]
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.manifest import ImagePreprocessing
from training.config import AugmentConfig, ResizedCropConfig

ATTEMPTS = 10
"""Random resized crops that are tried before the whole image, as far as the ratio allows it, is taken."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """The changes to B images; tensors have one row for each image and lie on the CPU, None means no such change."""

    size: tuple[int, int]
    """Height and width of the result."""
    padding: int
    """Zero pixels on each side that `corners` count from."""
    hole: int
    """Side of the squares around `holes`."""
    corners: Tensor | None = None
    """Top and left of crops with padding, int64 [B, 2]."""
    boxes: Tensor | None = None
    """Top, left, height and width of resized crops, int64 [B, 4]."""
    mirrored: Tensor | None = None
    """bool [B]."""
    holes: Tensor | None = None
    """Row and column of the centres of cutouts, int64 [B, 2]."""

    def shard(self, rank: int, world: int) -> Self:
        """Keep the images rank, rank + world, ..."""

        def own(drawn: Tensor | None) -> Tensor | None:
            return None if drawn is None else drawn[rank::world]

        return replace(
            self,
            corners=own(self.corners),
            boxes=own(self.boxes),
            mirrored=own(self.mirrored),
            holes=own(self.holes),
        )

    def move(self, images: Tensor) -> Tensor:
        """Crop and mirror uint8 [B, h, w(, C)]: uint8, or of resized crops float32 from 0 to 255, [B, H, W(, C)]."""
        if self.corners is not None:
            images = _cropped(images, self.corners.to(images.device), self.padding)
        if self.boxes is not None:
            images = _resized_crops(images, self.boxes.to(images.device), self.size)
        if self.mirrored is not None:
            mirrored = self.mirrored.to(images.device).reshape(-1, *(1,) * (images.ndim - 1))
            images = torch.where(mirrored, images.flip(2), images)
        return images

    def cut(self, images: Tensor) -> Tensor:
        """Set the cutouts of normalized images [B, C, H, W] to zero, which is the mean."""
        if self.holes is None:
            return images
        first = self.holes.to(images.device) - self.hole // 2  # [B, 2]
        rows, columns = (_within(first[:, axis], self.hole, images.shape[2 + axis]) for axis in (0, 1))
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def draw(
    config: AugmentConfig, count: int, size: tuple[int, int], stored: tuple[int, int], generator: np.random.Generator
) -> Augmentation:
    """Draw the changes to `count` images that are stored with height and width `stored` and needed with `size`.

    Raises ValueError when they differ although there are no resized crops.
    """
    if config.resized_crop is None and size != stored:
        raise ValueError(f"images of {stored} pixels cannot become {size} without resized crops")
    corners = boxes = mirrored = holes = None
    if config.crop_padding:
        corners = torch.from_numpy(generator.integers(0, 2 * config.crop_padding + 1, size=(count, 2)))
    if config.resized_crop is not None:
        boxes = torch.from_numpy(_draw_boxes(config.resized_crop, count, stored, generator))
    if config.flip:
        mirrored = torch.from_numpy(generator.random(count) < 0.5)
    if config.cutout:
        holes = torch.from_numpy(generator.integers(0, size, size=(count, 2)))
    return Augmentation(size, config.crop_padding, config.cutout, corners, boxes, mirrored, holes)


def normalized(images: Tensor, spec: ImagePreprocessing) -> Tensor:
    """Normalize [B, H, W(, C)] from 0 to 255 as `ImagePreprocessor.normalize` does: float32 [B, C, H, W].

    The result is the same on the CPU, bit for bit, and lies in memory as channels_last.
    """

    # Tensors on the device, not numbers: CUDA divides by a number as it multiplies by its rounded reciprocal.
    def constant(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=images.device).reshape(-1, 1, 1)

    planes = (images.unsqueeze(3) if images.ndim == 3 else images).permute(0, 3, 1, 2)
    scaled = (planes.float() / constant(255) - constant(*spec.mean)) / constant(*spec.std)
    return scaled.contiguous(memory_format=torch.channels_last)


def _draw_boxes(
    config: ResizedCropConfig, count: int, stored: tuple[int, int], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw top, left, height and width of resized crops, int64 [count, 4]: area uniform, ratio log-uniform."""
    height, width = stored
    area = height * width * generator.uniform(*config.scale, size=(count, ATTEMPTS))
    narrow, wide = np.log(config.ratio)
    ratio = np.exp(generator.uniform(narrow, wide, size=(count, ATTEMPTS)))
    widths = np.rint(np.sqrt(area * ratio)).astype(np.int64).clip(1)
    heights = np.rint(np.sqrt(area / ratio)).astype(np.int64).clip(1)
    fits = (widths <= width) & (heights <= height)
    images, first = np.arange(count), fits.argmax(axis=1)
    # Where no attempt fits: the largest crop whose ratio is allowed.
    whole_width = min(width, int(np.rint(height * config.ratio[1])))
    whole_height = min(height, int(np.rint(width / config.ratio[0])))
    any_fits = fits.any(axis=1)
    own_height = np.where(any_fits, heights[images, first], whole_height)
    own_width = np.where(any_fits, widths[images, first], whole_width)
    top = generator.integers(0, height - own_height + 1)
    left = generator.integers(0, width - own_width + 1)
    return np.stack([top, left, own_height, own_width], axis=1)


def _cropped(images: Tensor, corners: Tensor, padding: int) -> Tensor:
    """Crops [B, h, w(, C)] of the same size from images with zeros around them."""
    count, height, width = images.shape[:3]
    padded = images.new_zeros(count, height + 2 * padding, width + 2 * padding, *images.shape[3:])
    padded[:, padding : padding + height, padding : padding + width] = images
    image = torch.arange(count, device=images.device)
    rows = corners[:, :1] + torch.arange(height, device=images.device)  # [B, h]
    columns = corners[:, 1:] + torch.arange(width, device=images.device)  # [B, w]
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def _resized_crops(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample boxes of images [B, h, w(, C)] to `size`, bilinear and antialiased: float32 [B, H, W(, C)].

    Both axes are matrix products, each row of a matrix being the weights of the source pixels of one target pixel.
    """
    planes = images.float().reshape(*images.shape[:3], -1).permute(0, 3, 1, 2)  # [B, C, h, w]
    down = _weights(boxes[:, 0], boxes[:, 2], images.shape[1], size[0])  # [B, H, h]
    across = _weights(boxes[:, 1], boxes[:, 3], images.shape[2], size[1])  # [B, W, w]
    resized = down[:, None] @ planes @ across[:, None].mT  # [B, C, H, W]
    return resized.permute(0, 2, 3, 1).reshape(len(images), *size, *images.shape[3:])


def _weights(start: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """Triangle weights that resample `length` of the `source` pixels from `start` on: float32 [B, target, source].

    The triangle is as wide as a target pixel where it shrinks (antialiasing) and ends at the border of the box.
    """
    scale = (length / target)[:, None, None]
    centre = (torch.arange(target, device=start.device) + 0.5)[:, None] * scale  # [B, target, 1], from the box's border
    pixel = torch.arange(source, device=start.device) - start[:, None, None] + 0.5  # [B, 1, source]
    weights = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * _within(start, length, source)[:, None]
    return weights / weights.sum(dim=2, keepdim=True)


def _within(start: Tensor, length: Tensor | int, size: int) -> Tensor:
    """Which of `size` positions lie in [start, start + length), bool [B, size]."""
    position = torch.arange(size, device=start.device)
    end = start + length
    return (position >= start[:, None]) & (position < end[:, None])
