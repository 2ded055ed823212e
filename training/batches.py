"""Batches of examples: their order and their random changes are functions of (seed, epoch, batch)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.manifest import ImagePreprocessing
from runtime.preprocess import ImagePreprocessor, Preprocessor, Row, TextPreprocessor
from training.augment import Augmentation, draw, normalized
from training.config import AugmentConfig
from training.data.dataset import Examples
from training.data.lazy_images import LazyImages
from training.data.prefetch import work_ahead

RUN_OF_SIMILAR_LENGTH = 20
"""Batches of texts that are sorted by length together."""
BATCHES_AHEAD = 3
"""Batches that are decoded in the background, where images do not fit into memory."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Model inputs in the order of the network's arguments, and targets int64 [B].

    Images stay uint8 [B, h, w(, C)] until `on` has brought them to a device; then they are what the network takes.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    normalization: ImagePreprocessing | None = None
    """How the images still have to be normalized."""
    augmentation: Augmentation | None = None
    """How the images still have to be changed, before they are normalized."""

    def __len__(self) -> int:
        """Rows."""
        return len(self.targets)

    def shard(self, rank: int, world: int) -> Self:
        """Return the rows rank, rank + world, ..., with the random changes that they have in the whole batch."""
        inputs = tuple(tensor[rank::world] for tensor in self.inputs)
        augmentation = self.augmentation and self.augmentation.shard(rank, world)
        return replace(self, inputs=inputs, targets=self.targets[rank::world], augmentation=augmentation)

    def on(self, device: torch.device | str) -> Self:
        """Move to `device`; augment and normalize images there: float32 [B, C, H, W], channels_last."""
        inputs, targets = tuple(tensor.to(device) for tensor in self.inputs), self.targets.to(device)
        if self.normalization is not None:
            (images,) = inputs
            if self.augmentation is None:
                inputs = (normalized(images, self.normalization),)
            else:
                images = normalized(self.augmentation.move(images), self.normalization)
                inputs = (self.augmentation.cut(images),)
        return replace(self, inputs=inputs, targets=targets, normalization=None, augmentation=None)


class Batches:
    """The examples of one part, prepared by the preprocessor that serving uses too."""

    def __init__(self, examples: Examples, preprocessor: Preprocessor, batch_size: int) -> None:
        self.examples = examples
        self.preprocessor = preprocessor
        self.batch_size = batch_size
        self._rows: list[Row] = []
        if isinstance(preprocessor, TextPreprocessor):
            self._rows = [preprocessor.prepare(str(text)) for text in examples.inputs]

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-len(self.examples) // self.batch_size)

    def shuffled(
        self, seed: int, epoch: int, start: int, augment: AugmentConfig, *, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches of one epoch in random order, from batch `start` on; the same arguments give the same bytes.

        Images that are decoded on access are so in the background, and only those of `batch.shard(rank, world)`: the
        others stay black. For resized crops they are cropped from a centred square of `resize_shorter` pixels, so
        that images of all sizes stack. Raises DataError naming an unreadable image.
        """
        return self._ahead(self._shuffled(seed, epoch, start, augment, rank, world))

    def in_order(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """All batches in stored order, unchanged, on `device`."""
        return (batch.on(device) for batch in self._ahead(self._in_order()))

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return work_ahead(batches, BATCHES_AHEAD) if isinstance(self.examples.inputs, LazyImages) else batches

    def _shuffled(
        self, seed: int, epoch: int, start: int, augment: AugmentConfig, rank: int, world: int
    ) -> Iterator[Batch]:
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(self.examples))
        if self._rows:
            order = self._by_length(order)
        starts = generator.permutation(len(self)) * self.batch_size
        for index in range(start, len(self)):
            rows = order[starts[index] : starts[index] + self.batch_size]
            if self._rows:
                yield self._texts(rows)
            else:
                yield self._augmented(rows, augment, np.random.default_rng([seed, epoch, index]), rank, world)

    def _in_order(self) -> Iterator[Batch]:
        for start in range(0, len(self.examples), self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, len(self.examples)))
            yield self._texts(rows) if self._rows else self._images(rows)

    def _by_length(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort texts by length within long runs of a random order, so that batches are padded little."""
        lengths = np.array([len(row["input_ids"]) for row in self._rows])
        run = RUN_OF_SIMILAR_LENGTH * self.batch_size
        pieces = [order[start : start + run] for start in range(0, len(order), run)]
        return np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])

    def _augmented(
        self, rows: NDArray[np.int64], augment: AugmentConfig, generator: np.random.Generator, rank: int, world: int
    ) -> Batch:
        pixels, spec = self._stored()
        if isinstance(pixels, LazyImages) and augment.resized_crop is not None:
            pixels = pixels.canvas()
        needed, stored = (spec.height, spec.width), pixels.shape[1:3]
        augmentation = draw(augment, len(rows), needed, (stored[0], stored[1]), generator)
        if isinstance(pixels, LazyImages) and world > 1:
            images = np.zeros((len(rows), *pixels.shape[1:]), dtype=np.uint8)
            images[rank::world] = pixels[rows[rank::world]]
        else:
            images = pixels[rows]
        targets = torch.from_numpy(self.examples.targets[rows])
        return Batch((torch.from_numpy(images),), targets, spec, augmentation)

    def _images(self, rows: NDArray[np.int64]) -> Batch:
        pixels, spec = self._stored()
        return Batch((torch.from_numpy(pixels[rows]),), torch.from_numpy(self.examples.targets[rows]), spec)

    def _stored(self) -> tuple[NDArray[np.uint8] | LazyImages, ImagePreprocessing]:
        if isinstance(self.examples.inputs, tuple) or not isinstance(self.preprocessor, ImagePreprocessor):
            raise TypeError(f"{type(self.preprocessor).__name__} does not go with these examples")
        return self.examples.inputs, self.preprocessor.spec

    def _texts(self, rows: NDArray[np.int64]) -> Batch:
        tensors = self.preprocessor.collate([self._rows[row] for row in rows])
        return Batch(
            tuple(torch.from_numpy(tensor) for tensor in tensors.values()),
            torch.from_numpy(self.examples.targets[rows]),
        )
