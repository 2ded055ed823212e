"""A second data set: named in three ways, brought to the network's size and mode, refused where it does not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.manifest import ImagePreprocessing
from runtime.preprocess import ImagePreprocessor
from training.checkpoint import Checkpoint
from training.data import DataConfig, Examples
from training.errors import ConfigError
from training.evaluation.foreign import data_config, foreign_data, in_shape

NETWORK = ImagePreprocessing(mode="RGB", height=12, width=12, resize_shorter=12, mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A folder of six grey pictures of noise, 20 x 30 pixels, of two classes."""
    generator = np.random.default_rng(0)
    for index in range(6):
        folder = tmp_path / "noise" / f"class-{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 30), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "noise"


def test_a_folder_is_decoded_as_the_server_decodes(image_run: Path, noise: Path) -> None:
    description = Checkpoint.open(image_run).description
    assert isinstance(description.preprocessing, ImagePreprocessing)
    dataset, examples = foreign_data(f"image-folder={noise}", description)
    assert dataset.name == "noise"
    reader = ImagePreprocessor(description.preprocessing)
    files = sorted(noise.rglob("*.png"))
    expected = np.stack([np.asarray(reader.resize(reader.decode(path.read_bytes()))) for path in files])
    assert not isinstance(examples.inputs, tuple)
    np.testing.assert_array_equal(np.asarray(examples.inputs), expected)
    assert expected.shape == (6, 12, 12, 3)


def test_a_recipes_data_are_brought_to_the_networks_size_too(image_run: Path, noise: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "noise.yaml"
    recipe.write_text(
        f"name: noise\ndata: {{source: image-folder, path: {noise}, image: {{mode: L, height: 8, width: 8}}}}\n"
    )
    description = Checkpoint.open(image_run).description
    _, by_recipe = foreign_data(str(recipe), description)
    _, by_source = foreign_data(f"image-folder={noise}", description)
    np.testing.assert_array_equal(np.asarray(by_recipe.inputs), np.asarray(by_source.inputs))


def test_pictures_of_another_size_and_mode_are_resized_and_others_stay() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    targets = np.zeros(3, dtype=np.int64)
    resized = in_shape(Examples(pixels, targets), NETWORK)
    expected = [Image.fromarray(image).convert("RGB").resize((12, 12), Image.Resampling.BILINEAR) for image in pixels]
    np.testing.assert_array_equal(np.asarray(resized.inputs), np.stack([np.asarray(image) for image in expected]))
    assert in_shape(resized, NETWORK) is resized


def test_sources_are_named_with_and_without_a_path(tmp_path: Path) -> None:
    assert data_config("newsgroups", None) == DataConfig(source="newsgroups")
    assert data_config("fashion-mnist=some/folder", NETWORK).path == Path("some/folder")
    assert data_config(f"text-table={tmp_path}/a=b.csv", None).path == tmp_path / "a=b.csv"
    assert data_config("recipes/newsgroups.yaml", None).source == "newsgroups"


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("mnist", "'mnist' names no data: give a recipe"),
        ("newsgroups", "newsgroups holds texts, but the network reads images"),
        ("image-folder", "needs `path`"),
        ("missing.yaml", "missing.yaml cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(against: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_config(against, NETWORK)


def test_pictures_are_nothing_for_a_network_that_reads_texts(noise: Path) -> None:
    with pytest.raises(ConfigError, match="holds images, but the network reads texts"):
        data_config(f"image-folder={noise}", None)


def test_a_recipe_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("name: empty\n")
    with pytest.raises(ConfigError, match="no section `data`"):
        data_config(str(tmp_path / "empty.yaml"), NETWORK)


def test_the_runs_own_data_are_refused(image_run: Path) -> None:
    description = Checkpoint.open(image_run).description
    with pytest.raises(ConfigError, match="is the data that this run was trained on"):
        foreign_data(f"image-folder={description.config.data.path}", description)
