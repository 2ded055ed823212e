"""What is compared: the artifacts of a network and its dense counterpart, and their MACs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from environment import REPOSITORY
from export.artifact import ArtifactDescription, write_artifact
from live_weights import live_network, random_images, random_tokens
from networks import BenchmarkError, macs, network_names, prepare, recipe_of
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.manifest import Calibration, EarlyExit, ExitPoint, ImagePreprocessing, Provenance, TextPreprocessing
from runtime.predictor import Predictor
from tests.artifacts import write_tiny_image_artifact
from training.config import load_config
from training.data.tokenizer import train_tokenizer

WORDS = [f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop"]
SMALL_TEXT = ("network.vocabulary=80", "network.width=16", "network.lengths=[64,128,256]")
SMALL_IMAGE = ("network.width=1",)


def write_model(models: Path, recipe: str, overrides: tuple[str, ...], *, named: str | None = None) -> Path:
    """Write an artifact as training by a recipe would have made it, but with live random weights."""
    config = load_config(REPOSITORY / "recipes" / recipe, overrides)
    tokenizer = None
    preprocessing: ImagePreprocessing | TextPreprocessing
    inputs: tuple[torch.Tensor, ...]
    if config.network.kind == "text_encoder":
        tokenizer = train_tokenizer(WORDS, config.network.vocabulary).to_str()
        preprocessing = TextPreprocessing(pad_id=0, lengths=config.network.lengths)
        inputs = random_tokens(8, 32, 60, seed=1)
    else:
        preprocessing = ImagePreprocessing(mode="L", height=12, width=12, resize_shorter=12, mean=(0.5,), std=(0.25,))
        inputs = random_images(8, (1, 12, 12), seed=1)
    embeddings = config.sparsity.embeddings
    network, masks = live_network(
        config.network, config.ensemble, density=config.sparsity.density, classes=4, inputs=inputs, seed=0,
        embeddings=embeddings,
    )  # fmt: skip
    heads = config.ensemble.heads
    words = ["neurotrails", "train", f"recipes/{named or recipe}", *overrides, "--run", "runs/a b"]
    description = ArtifactDescription(
        name=config.name,
        labels=("a", "b", "c", "d"),
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        calibration=Calibration(temperatures=(1.0,) * heads, split="none", rows=0),
        early_exit=EarlyExit(
            split="none", rows=0, points=(ExitPoint(min_confidence=1, accuracy=0, mean_heads=heads),)
        ),
        provenance=Provenance(
            config_sha256=config.sha256, code_version="tests", command=" ".join([*words[:-1], "'runs/a b'"]), seed=0,
            data_source="none", steps=0, packages={},
        ),
    )  # fmt: skip
    write_artifact(models / config.name, network, masks, description, embeddings=embeddings)
    return models


@pytest.fixture(scope="module")
def image_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("image"), "fashion-mnist.yaml", SMALL_IMAGE)


@pytest.fixture(scope="module")
def text_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("text"), "newsgroups.yaml", SMALL_TEXT)


@pytest.mark.parametrize(("name", "tokens"), [("tiny", None), ("tiny-encoder", 16)])
def test_live_network_and_its_dense_ensemble(tmp_path: Path, name: str, tokens: int | None) -> None:
    found = prepare(name, tmp_path, tmp_path, threads=1)
    sparse, dense = (Artifact.open(found.folders[kind]).manifest for kind in ("sparse", "dense"))
    assert (found.heads, found.tokens) == (3, tokens)
    assert sparse.trunk is not None
    assert dense.trunk is None
    assert len(dense.heads) == 3
    assert sparse.sparsity.kept == round(0.3 * sparse.sparsity.weights)
    assert dense.sparsity.kept == dense.sparsity.weights
    # The dense members are whole networks of the same architecture: each does what trunk and one head do.
    assert {head.dense_macs for head in dense.heads} == {sparse.trunk.dense_macs + sparse.heads[0].dense_macs}
    assert found.weights == {"sparse": "live random", "dense": "live random"}


def test_macs_are_those_of_the_manifest(image_models: Path, tmp_path: Path) -> None:
    found = prepare("fashion-mnist", image_models, tmp_path, threads=1)
    manifest = found.manifests["sparse"]
    document = json.loads((image_models / "fashion-mnist" / "manifest.json").read_text())
    for heads in (1, 2, 3):
        stages = [document["trunk"], *document["heads"][:heads]]
        expected = tuple(sum(stage[kind] for stage in stages) for kind in ("dense_macs", "effective_macs"))
        assert macs(manifest, heads, None) == expected
        assert expected[1] < expected[0]
    dense, effective = macs(found.manifests["dense"], 3, None)
    assert dense == effective == 3 * macs(manifest, 1, None)[0]


def test_macs_of_texts_scale_with_their_tokens(text_models: Path, tmp_path: Path) -> None:
    found = prepare("newsgroups", text_models, tmp_path, threads=1)
    assert found.tokens == 128
    assert found.weights == {"sparse": "trained", "dense": "live random"}
    manifest = found.manifests["sparse"]
    stages = manifest.stages
    products = sum(stage.activation_macs for stage in stages)
    assert products > 0
    assert macs(manifest, 3, 256) == (
        sum(stage.dense_macs for stage in stages) + products,
        sum(stage.effective_macs for stage in stages) + products,
    )
    half = macs(manifest, 3, 128)[1]
    assert half == round(sum(stage.effective_macs for stage in stages) / 2 + products / 4)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_text_counterparts_read_the_same_texts(text_models: Path, tmp_path: Path, kind: str) -> None:
    found = prepare("newsgroups", text_models, tmp_path, threads=1)
    artifact = Artifact.open(found.folders["sparse" if kind == "sparse" else "dense"])
    engine = load_engine(artifact, "onnxruntime", EngineOptions(cores=1, batch_sizes=(1,), lengths=(64,)))
    predictor = Predictor(artifact, engine)
    [prediction] = predictor.predict([artifact.preprocessor.prepare("ai bj ck")]).predictions
    assert prediction.heads_used == 3
    assert np.isfinite(prediction.probabilities).all()


def test_a_recipe_that_no_longer_fits_is_refused(tmp_path: Path) -> None:
    models = write_model(tmp_path / "models", "fashion-mnist.yaml", SMALL_IMAGE)
    manifest = Artifact.open(models / "fashion-mnist").manifest
    assert recipe_of(manifest).network == load_config(REPOSITORY / "recipes/fashion-mnist.yaml", SMALL_IMAGE).network
    other = manifest.provenance.model_copy(
        update={"command": manifest.provenance.command.replace("width=1", "width=3")}
    )
    altered = manifest.model_copy(update={"provenance": other})
    (models / "fashion-mnist" / "manifest.json").write_text(altered.model_dump_json())
    with pytest.raises(BenchmarkError, match="was not made from the recipe"):
        prepare("fashion-mnist", models, tmp_path, threads=1)


def test_an_artifact_without_recipe_is_refused(tmp_path: Path) -> None:
    write_tiny_image_artifact(tmp_path / "tiny-image")
    with pytest.raises(BenchmarkError, match="tiny-image names no recipe"):
        prepare("tiny-image", tmp_path, tmp_path, threads=1)


def test_names_of_networks(image_models: Path, tmp_path: Path) -> None:
    assert network_names(image_models, ("shipped", "resnet50", "fashion-mnist")) == ["fashion-mnist", "resnet50"]
    with pytest.raises(BenchmarkError, match="no network 'resnet51'"):
        network_names(image_models, ("resnet51",))
    with pytest.raises(BenchmarkError, match="holds no artifact"):
        network_names(tmp_path, ("shipped",))
