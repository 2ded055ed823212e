"""What tests share: hypothesis without deadlines, and tiny genuine runs, trained once for the whole session."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from runtime.caches import cache_folder

settings.register_profile("neurotrails", deadline=None, derandomize=True)
settings.load_profile("neurotrails")

IMAGE_RECIPE = """
name: stripes
seed: 3
data: {source: image-folder, path: PATH, held_out: 0.2, image: {mode: RGB, height: 12, width: 12}}
network: {kind: wide_resnet, depth: 10, width: 1}
ensemble: {heads: 3, blocks_in_head: 2}
sparsity: {density: 0.25, update_every: 3}
optimizer: {kind: sgd, lr: 0.05, weight_decay: 0.0005}
augment: {crop_padding: 1, flip: true}
epochs: 3
batch_size: 16
threads: 1
checkpoint_every: 2
"""

TEXT_RECIPE = """
name: words
seed: 5
data: {source: text-table, path: PATH, held_out: 0.2}
network: {kind: text_encoder, vocabulary: 120, width: 16, blocks: 2, attention_heads: 2, lengths: [8, 16], dropout: 0.1}
ensemble: {heads: 2, blocks_in_head: 1}
sparsity: {density: 0.25, embeddings: true, update_every: 3, regrow: random}
optimizer: {kind: adamw, lr: 0.003, weight_decay: 0.01}
clip_norm: 1.0
epochs: 3
batch_size: 16
threads: 1
"""


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No tuning that this user has made decides what `auto` is in tests. Data sets that were fetched stay at hand."""
    folder = tmp_path_factory.mktemp("caches")
    fetched = cache_folder("datasets")
    if fetched is not None and fetched.is_dir():
        (folder / "datasets").symlink_to(fetched)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROTRAILS_CACHE", str(folder))
        yield


def train_in_a_process(recipe: Path, run: Path, *more: str) -> Path:
    """Train as a user does. In this process an engine may have changed how the CPU rounds tiny numbers."""
    subprocess.run([sys.executable, "-m", "neurotrails", "train", str(recipe), "--run", str(run), *more], check=True)
    return run


@pytest.fixture(scope="session")
def image_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on 120 small pictures: horizontal, vertical or no stripes, with noise."""
    folder = tmp_path_factory.mktemp("stripes")
    generator = np.random.default_rng(0)
    for index in range(120):
        pixels = generator.integers(0, 120, size=(12, 12, 3))
        kind = ("across", "down", "plain")[index % 3]
        if kind == "across":
            pixels[::2] += 120
        elif kind == "down":
            pixels[:, ::2] += 120
        (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{index}.png")
    recipe = tmp_path_factory.mktemp("recipes") / "stripes.yaml"
    recipe.write_text(IMAGE_RECIPE.replace("PATH", str(folder)))
    return recipe


@pytest.fixture(scope="session")
def text_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on 120 short texts about three things."""
    folder = tmp_path_factory.mktemp("words")
    generator = np.random.default_rng(0)
    vocabulary = {"sea": "wave salt ship", "sky": "cloud bird wind", "soil": "root worm seed"}
    lines = ["text,label"]
    for index in range(120):
        label = ("sea", "sky", "soil")[index % 3]
        words = [*vocabulary[label].split(), "the", "of", "and", "a", "near", "old", "quiet"]
        count = int(generator.integers(3, 20))
        lines.append(f"{' '.join(words[word] for word in generator.integers(0, len(words), count))},{label}")
    (folder / "words.csv").write_text("\n".join(lines) + "\n")
    recipe = folder / "words.yaml"
    recipe.write_text(TEXT_RECIPE.replace("PATH", str(folder / "words.csv")))
    return recipe


@pytest.fixture(scope="session")
def image_run(image_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the pictures."""
    return train_in_a_process(image_recipe, tmp_path_factory.mktemp("runs") / "stripes")


@pytest.fixture(scope="session")
def text_run(text_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the texts."""
    return train_in_a_process(text_recipe, tmp_path_factory.mktemp("runs") / "words")
