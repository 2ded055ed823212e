"""Images that do not fit into memory: decoded when a batch asks for them, exactly as the server decodes.

images = LazyImages.open(ImageFilesSource(folder, names), image)
images[np.array([5, 3])]                           # uint8 [2, height, width, 3]
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.preprocess import ImagePreprocessor
from training.data.config import ImageConfig
from training.data.errors import DataError
from training.data.image_source import ImageSource, for_each_row, hash_images, hash_images_once


@dataclass(frozen=True, eq=False)
class LazyImages:
    """N images of one size, decoded on access."""

    source: ImageSource
    rows: NDArray[np.int64]
    """Rows of the source, int64 [N]."""
    digests: NDArray[np.uint8]
    """SHA-256 of each image's file, uint8 [N, 32]."""
    image: ImageConfig
    """The mode and size that each image is brought to."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of all images, decoded."""
        return (len(self), *shape_of(self.image))

    def __getitem__(self, rows: int | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode the images at `rows`, int64 [B]: uint8 [B, height, width] or [B, height, width, 3]; or a single one.

        Threads share the work; each image has its place, so the result does not depend on them. Raises DataError naming
        the first image that cannot be decoded.
        """
        if not isinstance(rows, np.ndarray):
            return next(iter(self[np.array([rows], dtype=np.int64)]))
        chosen = self.rows[rows]
        preprocessor = image_reader(self.image)
        pixels = np.empty((len(chosen), *shape_of(self.image)), dtype=np.uint8)

        def fill(index: int) -> None:
            row = int(chosen[index])
            try:
                pixels[index] = np.asarray(preprocessor.resize(preprocessor.decode(self.source.read(row))))
            except InputError as error:
                raise DataError(f"{self.source.name(row)} cannot be used: {error}") from error

        for_each_row(fill, len(chosen))
        return pixels

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Decode one image after the other."""
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Decode all images: an array that may be larger than the memory."""
        if copy is False:
            raise ValueError("images that are decoded on access cannot become an array without a copy")
        return self[np.arange(len(self))].astype(dtype or np.uint8, copy=False)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the images at `rows`, int64 [R], in that order; nothing is decoded."""
        return replace(self, rows=self.rows[rows], digests=self.digests[rows])

    def canvas(self) -> Self:
        """Return the same images, `resize_shorter` pixels square: more to crop from, and still all of one size."""
        side = self.image.resize_shorter or max(self.image.height, self.image.width)
        return replace(self, image=self.image.model_copy(update={"height": side, "width": side}))


def read_images(
    source: ImageSource, image: ImageConfig, *, lazily: bool
) -> tuple[NDArray[np.uint8] | LazyImages, NDArray[np.uint8]]:
    """Return all images and the SHA-256 of each file, uint8 [N, 32].

    Raises DataError naming a file that cannot be read, or, unless images are decoded `lazily`, one that is damaged.
    """
    rows = np.arange(len(source), dtype=np.int64)
    if lazily:
        lazy = LazyImages(source, rows, hash_images_once(source), image)
        return lazy, lazy.digests
    images = LazyImages(source, rows, hash_images(source), image)
    return images[rows], images.digests


def image_reader(image: ImageConfig) -> ImagePreprocessor:
    """Return the serving side's decoder for images of this mode and size."""
    channels = 1 if image.mode == "L" else 3
    return ImagePreprocessor(image.preprocessing((0.0,) * channels, (1.0,) * channels))


def shape_of(image: ImageConfig) -> tuple[int, ...]:
    """Axes of one decoded image: height and width, and 3 for colour."""
    return (image.height, image.width) if image.mode == "L" else (image.height, image.width, 3)
