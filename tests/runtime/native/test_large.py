"""Networks of genuine size with live random weights: the logits of ONNX Runtime, however they are run."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from live_networks import LIVE
from live_weights import LEAST_SPREAD
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions
from runtime.engines.native.compile import instruction_sets
from runtime.engines.native.engine import NativeEngine
from runtime.parity import compare

pytestmark = pytest.mark.large

ROWS = 17
NETWORKS = {
    "resnet50-0.1": ("resnet50", 0.1, (1, 2, 5, 16)),
    "resnet50-0.05": ("resnet50", 0.05, (1, 2)),
    "wrn-28-10-0.2": ("wrn-28-10", 0.2, (1, 2)),
    "wrn-28-10-0.05": ("wrn-28-10", 0.05, (1, 2, 5, 16, ROWS)),
    "encoder-12x768-0.2": ("encoder-12x768", 0.2, (1, 2, 5, 16, ROWS)),
    "encoder-12x768-0.05": ("encoder-12x768", 0.05, (1, 2)),
}
"""Name -> architecture, density, batch sizes to compile."""


@dataclass(frozen=True)
class Case:
    """An artifact, inputs for it, and what ONNX Runtime makes of them."""

    artifact: Artifact
    inputs: dict[str, NDArray[np.generic]]
    logits: NDArray[np.float32]
    """[heads, rows, classes]."""
    sizes: tuple[int, ...]


@pytest.fixture(scope="session", params=NETWORKS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    network, density, sizes = NETWORKS[request.param]
    recipe = replace(LIVE[network], density=density)
    folder = tmp_path_factory.mktemp("large") / request.param
    recipe.write(folder)
    artifact = Artifact.open(folder)
    tensors = recipe.inputs(ROWS, seed=7)
    names = [spec.name for spec in artifact.manifest.inputs]
    inputs = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    engine = load_engine(artifact, "onnxruntime", EngineOptions(cores=2, batch_sizes=(1,)))
    return Case(artifact, inputs, logits_of(engine, inputs), sizes)


def logits_of(engine: Engine, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Logits of all heads, stage by stage, [heads, rows, classes]."""
    features = engine.trunk(inputs)
    return np.stack([engine.head(index, features) for index in range(len(engine.artifact.manifest.heads))])


def require_parity(
    case: Case, rows: tuple[int, ...], options: EngineOptions, instruction_set: str | None = None
) -> None:
    """Raise AssertionError unless the native engine gives the logits of ONNX Runtime."""
    chosen = type("Chosen", (NativeEngine,), {"instruction_set": instruction_set})
    engine = chosen(case.artifact, options)
    try:
        for count in rows:
            inputs = {name: tensor[-count:] for name, tensor in case.inputs.items()}
            staged, whole = logits_of(engine, inputs), np.stack(engine.logits(inputs, len(case.logits)))
            for way, found in (("staged", staged), ("one program", whole)):
                for head, (expected, logits) in enumerate(zip(case.logits[:, -count:], found, strict=True)):
                    parity = compare(expected, logits)
                    assert parity.holds, (way, count, head, parity)
    finally:
        engine.close()


def test_the_network_is_alive(case: Case) -> None:
    assert case.logits.std(axis=1).mean(axis=1).min() >= LEAST_SPREAD


def test_logits_are_those_of_onnx_runtime_at_every_batch_size(case: Case) -> None:
    rows = (*case.sizes, ROWS) if 16 in case.sizes else case.sizes
    require_parity(case, rows, EngineOptions(cores=2, batch_sizes=case.sizes))


@pytest.mark.parametrize("cores", [1, 3, 4])
def test_logits_are_those_of_onnx_runtime_on_any_number_of_threads(case: Case, cores: int) -> None:
    require_parity(case, (1, 5), EngineOptions(cores=cores, batch_sizes=(1, 4)))


@pytest.mark.parametrize("instruction_set", list(instruction_sets())[1:])
def test_logits_are_those_of_onnx_runtime_on_every_instruction_set(case: Case, instruction_set: str) -> None:
    require_parity(case, (1, 2), EngineOptions(cores=2, batch_sizes=(1,)), instruction_set)
