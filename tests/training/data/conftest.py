"""The genuine data sets, obtained by the code under test, and machines without data."""

from pathlib import Path

import datasets
import pytest

from training.data import DataConfig, Dataset, load_dataset


@pytest.fixture(scope="session")
def fashion_mnist() -> Dataset:
    return load_dataset(DataConfig(source="fashion-mnist"))


@pytest.fixture(scope="session")
def newsgroups() -> Dataset:
    return load_dataset(DataConfig(source="newsgroups"))


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that holds no data at all; returns a folder for it."""
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NEUROTRAILS_DATA", raising=False)
    return tmp_path


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` caches out of the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub-cache"))
