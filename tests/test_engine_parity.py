"""Every kind of network that training makes, on every engine in every precision it offers: the logits of PyTorch.

The networks have live random weights, so nothing is trained for it. `verify` compares batches, single rows and, for
texts with padding, every length bucket with what PyTorch computed.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from live_networks import LIVE, LiveRecipe
from runtime.artifact import Artifact
from runtime.engines import engine_class
from runtime.verify import read_reference, verify
from tests.engines import ENGINE_NAMES
from training.config import EnsembleConfig, TextEncoderConfig

CNN, TEXT = LIVE["tiny"], LIVE["tiny-encoder"]
assert isinstance(TEXT.network, TextEncoderConfig)
BUCKETS = TEXT.network.model_copy(update={"lengths": (8, 16)})

SMALL: dict[str, LiveRecipe] = {
    "trunk and heads": CNN,
    "texts of two lengths": replace(TEXT, network=BUCKETS),
    "full ensemble": replace(CNN, ensemble=EnsembleConfig(heads=3, blocks_in_head="all"), density=1.0),
    "sparse snapshots": replace(TEXT, ensemble=EnsembleConfig(heads=2, blocks_in_head="all"), network=BUCKETS),
    "one dense network": replace(CNN, ensemble=EnsembleConfig(heads=1, blocks_in_head="all"), density=1.0),
}
LARGE = ("wrn-28-10", "resnet50", "encoder-12x768")


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _write(SMALL[request.param], tmp_path_factory)


@pytest.fixture(scope="module", params=LARGE)
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _write(LIVE[request.param], tmp_path_factory)


def _write(recipe: LiveRecipe, factory: pytest.TempPathFactory) -> Artifact:
    folder: Path = factory.mktemp("live") / "network"
    recipe.write(folder)
    return Artifact.open(folder)


def _require_parity(artifact: Artifact, engine: str, capsys: pytest.CaptureFixture[str], cores: int) -> None:
    """`verify` in every precision; it raises EngineError where logits differ."""
    capsys.readouterr()
    verify(str(artifact.folder), engine=[engine], cores=cores)
    told = [line.split(":")[0].split() for line in capsys.readouterr().out.splitlines()]
    assert {words[-1] for words in told if words[1] == engine} == set(engine_class(engine).precisions["fp32"])


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_small_networks(small: Artifact, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    _require_parity(small, engine, capsys, cores=1)


def test_the_references_tell_rows_and_heads_apart(small: Artifact) -> None:
    """Otherwise agreement would prove nothing; texts must have padding, too."""
    inputs, logits = read_reference(small)
    for head in logits:
        assert head.std(axis=0).mean() > 0.05
    assert all(np.abs(one - other).max() > 0.5 for one, other in itertools.pairwise(logits))
    if "attention_mask" in inputs:
        lengths = inputs["attention_mask"].sum(axis=1)
        assert lengths.min() <= 8 < lengths.max()


@pytest.mark.large
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_large_networks(large: Artifact, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    _require_parity(large, engine, capsys, cores=2)
