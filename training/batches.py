"""Batches of training examples: order, augmentation and preprocessing, each a function of (seed, epoch, batch)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.preprocess import ImagePreprocessor, Preprocessor, Row, TextPreprocessor
from training.config import AugmentConfig
from training.data.dataset import Examples

RUN_OF_SIMILAR_LENGTH = 20
"""Batches of texts that are sorted by length together."""


@dataclass(frozen=True)
class Batch:
    """Model inputs in the order of the network's arguments, and targets int64 [B]."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __len__(self) -> int:
        """Rows."""
        return len(self.targets)

    def shard(self, index: int, count: int) -> "Batch":
        """Return the rows index::count."""
        return Batch(tuple(tensor[index::count] for tensor in self.inputs), self.targets[index::count])

    def on(self, device: torch.device) -> "Batch":
        """Return the batch on a device, ready for the network."""
        return Batch(tuple(tensor.to(device) for tensor in self.inputs), self.targets.to(device))


class Batches:
    """The examples of one part, prepared by the preprocessor that serving uses too."""

    def __init__(self, examples: Examples, preprocessor: Preprocessor, batch_size: int) -> None:
        self.examples = examples
        self.preprocessor = preprocessor
        self.batch_size = batch_size
        self._rows: list[Row] = []
        if isinstance(preprocessor, TextPreprocessor):
            self._rows = [preprocessor.prepare(text) for text in examples.inputs]

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-len(self.examples) // self.batch_size)

    def shuffled(self, seed: int, epoch: int, start: int, augment: AugmentConfig) -> Iterator[Batch]:
        """Batches of one epoch in random order, from batch `start` on; the same arguments give the same bytes."""
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(self.examples))
        if self._rows:
            order = self._by_length(order)
        starts = generator.permutation(len(self)) * self.batch_size
        for index in range(start, len(self)):
            rows = order[starts[index] : starts[index] + self.batch_size]
            yield self._batch(rows, augment, np.random.default_rng([seed, epoch, index]))

    def in_order(self) -> Iterator[Batch]:
        """All batches in stored order, unchanged."""
        for start in range(0, len(self.examples), self.batch_size):
            yield self._batch(np.arange(start, min(start + self.batch_size, len(self.examples))), None, None)

    def _by_length(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort texts by length within long runs of a random order, so that batches are padded little."""
        lengths = np.array([len(row["input_ids"]) for row in self._rows])
        run = RUN_OF_SIMILAR_LENGTH * self.batch_size
        pieces = [order[start : start + run] for start in range(0, len(order), run)]
        return np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])

    def _batch(
        self, rows: NDArray[np.int64], augment: AugmentConfig | None, generator: np.random.Generator | None
    ) -> Batch:
        targets = torch.from_numpy(self.examples.targets[rows])
        if isinstance(self.preprocessor, ImagePreprocessor):
            pixels = np.asarray(self.examples.inputs)[rows]
            if augment is not None and generator is not None:
                pixels = augmented(pixels, augment, generator)
            image = torch.from_numpy(self.preprocessor.normalize(pixels))
            return Batch((image.contiguous(memory_format=torch.channels_last),), targets)
        tensors = self.preprocessor.collate([self._rows[row] for row in rows])
        return Batch(tuple(torch.from_numpy(tensor) for tensor in tensors.values()), targets)


def augmented(pixels: NDArray[np.uint8], augment: AugmentConfig, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Randomly cropped and mirrored copies of images [B, height, width(, channels)]."""
    count, height, width = pixels.shape[:3]
    if augment.crop_padding:
        pad = augment.crop_padding
        padded = np.pad(pixels, [(0, 0), (pad, pad), (pad, pad)] + [(0, 0)] * (pixels.ndim - 3))
        offsets = generator.integers(0, 2 * pad + 1, size=(count, 2))
        pixels = np.stack(
            [image[top : top + height, left : left + width] for image, (top, left) in zip(padded, offsets, strict=True)]
        )
    if augment.flip:
        mirror = generator.random(count) < 0.5
        pixels = pixels.copy()
        pixels[mirror] = pixels[mirror, :, ::-1]
    return pixels
