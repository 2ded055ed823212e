"""Mean and standard deviation of pixels, learned from the images that a network is fitted on."""

import numpy as np
from numpy.typing import NDArray

from training.data.lazy_images import LazyImages

SAMPLED = 10_000
"""Images that are decoded for statistics where not all are in memory."""
CHUNK = 250


def pixel_statistics(images: NDArray[np.uint8] | LazyImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of pixels / 255 and rounded to four digits.

    Of images that are decoded on access, evenly spaced ones are taken, at most 10,000.
    """
    if isinstance(images, LazyImages):
        mean, std = _sampled(images)
    else:
        mean = np.atleast_1d(images.mean(axis=(0, 1, 2), dtype=np.float64) / 255)
        std = np.atleast_1d(images.std(axis=(0, 1, 2), dtype=np.float64) / 255)
    return tuple(round(float(value), 4) for value in mean), tuple(round(float(value), 4) for value in std)


def _sampled(images: LazyImages) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation from exact sums over chunks, so that only a chunk is in memory."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), SAMPLED)).astype(np.int64))
    channels = 3 if images.image.mode == "RGB" else 1
    count, total, squares = 0, np.zeros(channels, dtype=np.int64), np.zeros(channels, dtype=np.int64)
    for start in range(0, len(rows), CHUNK):
        pixels = images[rows[start : start + CHUNK]].reshape(-1, channels)
        count += len(pixels)
        total += pixels.sum(axis=0, dtype=np.int64)
        squares += np.square(pixels, dtype=np.int64).sum(axis=0)
    mean = total / count
    return mean / 255, np.sqrt(squares / count - mean**2) / 255
