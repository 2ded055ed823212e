"""The 15 common corruptions (Hendrycks and Dietterich, arXiv 1903.12261) at severities 1 to 5, from a library.

They are made by `imagecorruptions` (its maintained distribution imagecorruptions-imaug), which has the parameters that
the authors chose for ImageNet's 224 x 224 pixels. On smaller pictures the same parameters destroy more, so results
compare networks on the same data; they are not those of the published CIFAR-10-C, whose parameters are milder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from training.data import Examples
from training.errors import ConfigError, TrainingError
from training.evaluation.document import Corrupted, Robustness
from training.metrics import calibration_error

PACKAGE = "imagecorruptions-imaug"
COMMON = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
SEVERITIES = (1, 2, 3, 4, 5)
OWN_GENERATOR = ("impulse_noise", "glass_blur")
"""Corruptions that draw from a generator of their own and take its seed; the others draw from numpy's global one."""
SMALLEST = 32
"""Pixels of a side below which the library refuses."""
SEED = 0

Predict = Callable[[Examples], NDArray[np.float64]]
"""Examples -> probabilities of the vote, [N, K]."""


class MissingPackage(TrainingError):  # noqa: N818 - reads as a statement, like EngineNotInstalled
    """A package that this needs is not installed, or does not work here."""


def measure_robustness(examples: Examples, predict: Predict, *, rows: int) -> Robustness:
    """Accuracy and ECE of a vote under every corruption and severity, on at most `rows` seeded examples.

    Raises what `require_corruptible` raises.
    """
    require_corruptible(examples, rows=rows)
    order = np.random.default_rng(SEED).permutation(len(examples))[:rows]
    chosen = examples.take(np.sort(order))
    pixels = np.asarray(chosen.inputs)
    corruptions = []
    for name in tqdm(COMMON, desc="corruptions", leave=False):
        voted = [predict(Examples(corrupt(pixels, name, level), chosen.targets)) for level in SEVERITIES]
        corruptions.append(
            Corrupted(
                corruption=name,
                accuracy=tuple(_accuracy(probabilities, chosen.targets) for probabilities in voted),
                ece=tuple(calibration_error(probabilities, chosen.targets) for probabilities in voted),
            )
        )
    return Robustness(
        library=f"{PACKAGE} {version(PACKAGE)}",
        rows=len(chosen),
        seed=SEED,
        clean_accuracy=_accuracy(predict(chosen), chosen.targets),
        mean_accuracy=float(np.mean([own.accuracy for own in corruptions])),
        corruptions=tuple(corruptions),
    )


def require_corruptible(examples: Examples, *, rows: int) -> None:
    """Raise ConfigError for texts and for fewer rows than one, MissingPackage without the library."""
    if isinstance(examples.inputs, tuple):
        raise ConfigError("The common corruptions are of images; this network reads texts.")
    if rows < 1:
        raise ConfigError(f"corruption_rows is {rows}; at least one row is needed.")
    _library()


def corrupt(pixels: NDArray[np.uint8], corruption: str, severity: int, *, seed: int = SEED) -> NDArray[np.uint8]:
    """Corrupted copies of images, uint8 [N, height, width] or [N, height, width, 3]; the same arguments, same bytes.

    Each image has random numbers of its own, by its place. Grey images are corrupted as colour images and turned grey
    again, as a server would read them. Images with a side below 32 pixels are surrounded by their mirror image up to
    that size, and the middle is cut out again. Raises MissingPackage.
    """
    library = _library()
    kind = COMMON.index(corruption)
    corrupted = np.empty_like(pixels)
    with _numpys_global_generator():
        for row, image in enumerate(pixels):
            own = int(np.random.SeedSequence([seed, kind, severity, row]).generate_state(1)[0])
            np.random.seed(own)  # noqa: NPY002 - the library draws from it
            arguments = {"seed": own} if corruption in OWN_GENERATOR else {}
            canvas, inside = _canvas(image)
            changed = library(canvas, corruption_name=corruption, severity=severity, **arguments)[inside]
            corrupted[row] = changed if image.ndim == 3 else np.asarray(Image.fromarray(changed).convert("L"))
    return corrupted


def _canvas(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """The image in colour and large enough, and where it lies in that: [height, width, 3]."""
    coloured = image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
    height, width = image.shape[:2]
    top, left = max(0, SMALLEST - height) // 2, max(0, SMALLEST - width) // 2
    bottom, right = max(0, SMALLEST - height) - top, max(0, SMALLEST - width) - left
    padded = np.pad(coloured, [(top, bottom), (left, right), (0, 0)], mode="symmetric")
    return padded, (slice(top, top + height), slice(left, left + width))


def _accuracy(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    return float((probabilities.argmax(axis=-1) == targets).mean())


def _library() -> Callable[..., NDArray[np.uint8]]:
    try:
        from imagecorruptions import corrupt as library
    except ImportError as error:  # also where OpenCV finds no libGL
        raise MissingPackage(
            f"The common corruptions need the package {PACKAGE}, which cannot be imported ({error}): "
            "pip install 'neurotrails[robustness]'"
        ) from error
    chosen: Callable[..., NDArray[np.uint8]] = library
    return chosen


@contextmanager
def _numpys_global_generator() -> Iterator[None]:
    """Leave numpy's global generator as it was found."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
