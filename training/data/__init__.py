"""Labelled data: known sets, image folders, tables of texts, their division into parts, and the tokenizer.

Imports `runtime` only. Nothing is read or fetched before `load_dataset` is called.
"""

from pathlib import Path

from training.data.cifar import CIFAR10, CIFAR100, load_cifar
from training.data.config import DataConfig, ImageConfig
from training.data.dataset import Dataset, Examples, Split, split
from training.data.errors import DataError, DataUnavailable
from training.data.fashion_mnist import load_fashion_mnist
from training.data.image_folder import load_image_folder
from training.data.image_sets import load_image_set
from training.data.imagenet import IMAGENET
from training.data.lazy_images import LazyImages
from training.data.newsgroups import load_newsgroups
from training.data.text_table import load_text_table
from training.data.tiny_imagenet import TINY_IMAGENET
from training.data.tokenizer import train_tokenizer

__all__ = [
    "DataConfig",
    "DataError",
    "DataUnavailable",
    "Dataset",
    "Examples",
    "ImageConfig",
    "LazyImages",
    "Split",
    "load_dataset",
    "split",
    "train_tokenizer",
]


def load_dataset(config: DataConfig) -> Dataset:
    """Load the data that `config` names; a known data set is fetched if this machine lacks it. Raises DataError."""
    match config:
        case DataConfig(source="fashion-mnist"):
            return load_fashion_mnist(config.path)
        case DataConfig(source="newsgroups"):
            return load_newsgroups(config.path)
        case DataConfig(source="cifar10"):
            return load_cifar(CIFAR10, config.path)
        case DataConfig(source="cifar100"):
            return load_cifar(CIFAR100, config.path)
        case DataConfig(source="tiny-imagenet"):
            return load_image_set(TINY_IMAGENET, config.path)
        case DataConfig(source="imagenet"):
            return load_image_set(IMAGENET, config.path, config.image)
        case DataConfig(source="image-folder", path=Path() as path, image=ImageConfig() as image):
            return load_image_folder(path, config.test_path, image)
        case DataConfig(source="text-table", path=Path() as path):
            return load_text_table(path, config.test_path)
        case _:
            raise DataError(f"The data configuration is incomplete: {config!r}")
