"""The shipped artifacts are what their manifests say, and answer the shipped examples."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.graph import load_graph, stored_weights
from runtime.predictor import Predictor
from runtime.preprocess import ImagePreprocessor, Row
from tests.engines import ENGINE_NAMES

MODELS = sorted(path.parent for path in Path("models").glob("*/manifest.json"))
EXAMPLES = json.loads(Path("examples/expected.json").read_text())
REQUIRED = {"fashion-mnist": 0.925, "newsgroups": 0.80}
"""Test accuracy of the vote that a shipped artifact must reach."""


@pytest.fixture(params=MODELS, ids=lambda path: path.name)
def artifact(request: pytest.FixtureRequest) -> Artifact:
    return Artifact.open(request.param)


def test_both_artifacts_are_shipped() -> None:
    assert {path.name for path in MODELS} == set(REQUIRED)


def test_size_heads_density_and_accuracy(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert sum(path.stat().st_size for path in artifact.folder.iterdir()) < 6_000_000
    assert len(manifest.heads) == 3
    assert manifest.sparsity.density <= 0.2 + 1 / manifest.sparsity.weights
    test = next(metrics for metrics in manifest.evaluation if metrics.split == "test")
    assert test.accuracy >= REQUIRED[manifest.name]
    assert manifest.provenance.command == f"neurotrails train recipes/{manifest.name}.yaml --run runs/{manifest.name}"


def test_values_counted_from_the_files_equal_the_manifest(artifact: Artifact) -> None:
    sparsity = artifact.manifest.sparsity
    counted = 0
    for stage in artifact.manifest.stages:
        stored = stored_weights(load_graph(artifact.path(stage.file)))
        for layer in sparsity.layers:
            if layer.stage == stage.file:
                assert stored[layer.name].nonzero == layer.nonzero
                assert not stored[layer.name].sparse or stored[layer.name].entries == layer.kept
                counted += stored[layer.name].nonzero
    assert counted == sparsity.nonzero
    assert sparsity.kept == round(0.2 * sparsity.weights)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_every_engine_answers_the_examples(artifact: Artifact, engine: str) -> None:
    options = EngineOptions(cores=core_budget().cores, batch_sizes=(1,))
    predictor = Predictor(artifact, load_engine(artifact, engine, options))
    named = {file: answer["label"] for file, answer in EXAMPLES.items() if answer["model"] == artifact.manifest.name}
    assert named
    for file, label in named.items():
        row = artifact.preprocessor.prepare((Path("examples") / file).read_bytes())
        [prediction] = predictor.predict([row]).predictions
        assert artifact.manifest.labels[prediction.top(1)[0]] == label, file


def test_the_verb_verify_accepts_them(artifact: Artifact) -> None:
    command = [sys.executable, "-m", "neurotrails", "verify", str(artifact.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.large
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_accuracy_on_the_whole_test_set_is_the_manifests(artifact: Artifact, engine: str) -> None:
    """Genuine test data through the served preprocessing and engine; parity keeps all but borderline rows."""
    from training.config import load_config
    from training.data import load_dataset

    manifest = artifact.manifest
    dataset = load_dataset(load_config(f"recipes/{manifest.name}.yaml").data)
    assert dataset.test is not None
    predictor = Predictor(
        artifact, load_engine(artifact, engine, EngineOptions(cores=core_budget().cores, batch_sizes=(16,)))
    )
    rows: list[Row]
    if isinstance(artifact.preprocessor, ImagePreprocessor):
        rows = [{"image": image} for image in artifact.preprocessor.normalize(np.asarray(dataset.test.inputs))]
    else:
        rows = [artifact.preprocessor.prepare(str(text)) for text in dataset.test.inputs]
    answers = []
    for start in range(0, len(rows), 16):
        answers += [p.top(1)[0] for p in predictor.predict(rows[start : start + 16]).predictions]
    test = next(metrics for metrics in manifest.evaluation if metrics.split == "test")
    assert test.rows == len(rows)
    assert abs(float((np.array(answers) == dataset.test.targets).mean()) - test.accuracy) <= 2 / len(rows)
