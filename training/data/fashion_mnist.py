"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 + 10,000 grey images of 28 x 28 pixels, 10 classes of clothing."""

import gzip
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.config import ImageConfig
from training.data.dataset import Dataset, Examples, content_sha256
from training.data.errors import DataError
from training.data.fetch import fetch_debian_files, fetch_hub_dataset
from training.data.known import KnownFiles, Route, obtain_known_files

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILES = KnownFiles(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)
PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package installs the files."""
REPOSITORY = "zalando-datasets/fashion_mnist"
SOURCE = "Fashion-MNIST, the bytes of Debian package dataset-fashion-mnist 0.0~git20200523.55506a9-1"
"""True whichever way the files came: their hashes are those of the package's content."""


def load_fashion_mnist(path: Path | None = None) -> Dataset:
    """Load the genuine, complete set from `path`, this machine, Debian's package or the Hugging Face hub."""
    files = obtain_known_files(FILES, path=path, system=(SYSTEM_FOLDER,), routes=ROUTES)
    return Dataset(
        name="fashion-mnist",
        modality="image",
        labels=LABELS,
        train=_examples(files, "train"),
        test=_examples(files, "t10k"),
        source=SOURCE,
        sha256=content_sha256(FILES.sha256),
        image=ImageConfig(mode="L", height=28, width=28),
    )


def from_debian() -> dict[str, bytes]:
    """Fetch Debian's package. Its files are compressed anew by Debian, so only their content is returned."""
    paths = [f"{SYSTEM_FOLDER.relative_to('/')}/{name}.gz" for name in FILES.sha256]
    return {name.removesuffix(".gz"): gzip.decompress(raw) for name, raw in fetch_debian_files(PACKAGE, paths).items()}


def from_hub(repository: str) -> dict[str, bytes]:
    """Fetch the set from the Hugging Face hub and write its PNG images back into the original files' format."""
    splits = fetch_hub_dataset(repository)
    files = {}
    for prefix, name in (("train", "train"), ("t10k", "test")):
        rows = splits[name]
        files[f"{prefix}-images-idx3-ubyte"] = write_idx(np.stack([np.asarray(image) for image in rows["image"]]))
        files[f"{prefix}-labels-idx1-ubyte"] = write_idx(np.asarray(list(rows["label"]), dtype=np.uint8))
    return files


ROUTES: tuple[Route, ...] = (
    (f"Debian package {PACKAGE}", from_debian),
    (f"Hugging Face dataset {REPOSITORY}", partial(from_hub, REPOSITORY)),
)
"""Ways to fetch the files, in the order in which they are tried."""


def read_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes: two zeros, type 8, number of axes, their sizes (big-endian), the values."""
    axes = content[3] if len(content) > 3 else 0
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * axes], dtype=">u4").astype(int))
    if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * axes + int(np.prod(shape)):
        raise DataError(f"{name} is not an IDX file of unsigned bytes, or it is cut off.")
    return (
        np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
    )  # PyTorch wants it writable


def write_idx(values: NDArray[np.uint8]) -> bytes:
    """The inverse of `read_idx`."""
    return b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, dtype=">u4").tobytes() + values.tobytes()


def _examples(files: dict[str, bytes], prefix: str) -> Examples:
    images = read_idx(files[f"{prefix}-images-idx3-ubyte"], f"{prefix}-images-idx3-ubyte")
    labels = read_idx(files[f"{prefix}-labels-idx1-ubyte"], f"{prefix}-labels-idx1-ubyte")
    return Examples(images, labels.astype(np.int64))
