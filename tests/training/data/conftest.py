"""The genuine data sets, obtained by the code under test."""

import pytest

from training.data import DataConfig, Dataset, load_dataset


@pytest.fixture(scope="session")
def fashion_mnist() -> Dataset:
    return load_dataset(DataConfig(source="fashion-mnist"))


@pytest.fixture(scope="session")
def newsgroups() -> Dataset:
    return load_dataset(DataConfig(source="newsgroups"))
