"""Every kind of network that training makes, on every engine in every precision it offers: the logits of PyTorch.

The networks have live random weights, so nothing is trained for it. `verify` compares batches, single rows and, for
texts with padding, every length bucket with what PyTorch computed.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from live_networks import LIVE, LiveRecipe
from live_quantized import write_quantized
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


INT8_ENGINES = [engine for engine in ENGINE_NAMES if "int8" in engine_class(engine).precisions]


@dataclass(frozen=True)
class Live:
    """A network with live random weights."""

    recipe: LiveRecipe
    artifact: Artifact

    @classmethod
    def write(cls, recipe: LiveRecipe, folder: Path) -> Self:
        recipe.write(folder)
        return cls(recipe, Artifact.open(folder))

    def in_int8(self, *, cores: int) -> Artifact:
        folder = self.artifact.folder.parent / "int8"
        write_quantized(self.artifact.folder, folder, self.recipe, cores=cores)
        return Artifact.open(folder)


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live.write(SMALL[request.param], tmp_path_factory.mktemp("live") / "fp32")


@pytest.fixture(scope="module")
def small_int8(small: Live) -> Artifact:
    return small.in_int8(cores=1)


@pytest.fixture(scope="module", params=LARGE)
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live.write(LIVE[request.param], tmp_path_factory.mktemp("live") / "fp32")


@pytest.fixture(scope="module")
def large_int8(large: Live) -> Artifact:
    return large.in_int8(cores=2)


def _require_parity(artifact: Artifact, engine: str, capsys: pytest.CaptureFixture[str], cores: int) -> None:
    """`verify` in every precision; it raises EngineError where logits differ."""
    capsys.readouterr()
    verify(str(artifact.folder), engine=[engine], cores=cores)
    told = [line.split(":")[0].split() for line in capsys.readouterr().out.splitlines()]
    offered = engine_class(engine).precisions[artifact.manifest.precision]
    assert {words[-1] for words in told if words[1] == engine} == set(offered)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_small_networks(small: Live, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    _require_parity(small.artifact, engine, capsys, cores=1)


@pytest.mark.parametrize("engine", INT8_ENGINES)
def test_small_networks_in_int8(small_int8: Artifact, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    _require_parity(small_int8, engine, capsys, cores=1)


def test_the_references_tell_rows_and_heads_apart(small: Live) -> None:
    """Otherwise agreement would prove nothing; texts must have padding, too."""
    inputs, logits = read_reference(small.artifact)
    for head in logits:
        assert head.std(axis=0).mean() > 0.05
    assert all(np.abs(one - other).max() > 0.5 for one, other in itertools.pairwise(logits))
    if "attention_mask" in inputs:
        lengths = inputs["attention_mask"].sum(axis=1)
        assert lengths.min() <= 8 < lengths.max()


@pytest.mark.large
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_large_networks(large: Live, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    _require_parity(large.artifact, engine, capsys, cores=2)


@pytest.mark.large
@pytest.mark.parametrize("engine", INT8_ENGINES)
def test_large_networks_in_int8(large_int8: Artifact, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    _require_parity(large_int8, engine, capsys, cores=2)
