"""Whole networks: the logits of PyTorch, at every batch size, thread count and instruction set."""

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.engines.native.compile import instruction_sets
from runtime.engines.native.engine import NativeEngine
from runtime.parity import compare
from tests.runtime.native.conftest import NETWORKS

Inputs = dict[str, NDArray[np.generic]]


def _load(
    artifact: Artifact, *, instruction_set: str | None = None, cores: int = 2, sizes: tuple[int, ...] = (1, 4)
) -> NativeEngine:
    chosen = type("Chosen", (NativeEngine,), {"instruction_set": instruction_set})
    engine: NativeEngine = chosen(artifact, EngineOptions(cores=cores, batch_sizes=sizes))
    return engine


def _inputs(artifact: Artifact, rows: int) -> Inputs:
    reference = artifact.reference()
    return {spec.name: reference[f"input.{spec.name}"][:rows] for spec in artifact.manifest.inputs}


def _require_parity(engine: NativeEngine, artifact: Artifact, rows: int) -> None:
    reference = artifact.reference()
    features = engine.trunk(_inputs(artifact, rows))
    for head in range(len(artifact.manifest.heads)):
        expected = reference[f"logits.{head}"][:rows].astype(np.float32)
        parity = compare(expected, engine.head(head, features))
        assert parity.holds, (rows, head, parity)


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_pytorch_at_every_batch_size(
    live_artifacts: dict[str, Artifact], name: str, instruction_set: str
) -> None:
    engine = _load(live_artifacts[name], instruction_set=instruction_set)
    for rows in range(1, 18):
        _require_parity(engine, live_artifacts[name], rows)
    engine.close()


@pytest.mark.parametrize("cores", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_pytorch_on_any_number_of_threads(
    live_artifacts: dict[str, Artifact], name: str, cores: int
) -> None:
    engine = _load(live_artifacts[name], cores=cores, sizes=(1, 3))
    for rows in (1, 3, 7):
        _require_parity(engine, live_artifacts[name], rows)
    engine.close()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_that_is_not_finite_changes_no_other_row(live_artifacts: dict[str, Artifact], name: str) -> None:
    artifact = live_artifacts[name]
    engine = _load(artifact, sizes=(5,))
    features = engine.trunk(_inputs(artifact, 5))
    tensor = features.tensors.get("features", next(iter(features.tensors.values())))
    clean = engine.head(0, features)
    tensor[2] = np.nan
    dirty = engine.head(0, features)
    np.testing.assert_array_equal(np.delete(dirty, 2, axis=0), np.delete(clean, 2, axis=0))
    assert not np.isfinite(dirty[2]).any()
    engine.close()


def test_text_shorter_than_compiled_lengths_predicts_as_pytorch_does(live_artifacts: dict[str, Artifact]) -> None:
    artifact = live_artifacts["text"]
    engine = _load(artifact)
    reference = artifact.reference()
    short = reference["input.attention_mask"].sum(axis=1) <= 8
    inputs = {
        spec.name: np.ascontiguousarray(reference[f"input.{spec.name}"][short, :8]) for spec in artifact.manifest.inputs
    }
    features = engine.trunk(inputs)
    assert short.sum() > 2
    assert compare(reference["logits.1"][short].astype(np.float32), engine.head(1, features)).holds
    engine.close()


def test_engines_in_many_python_threads_with_more_threads_than_cores_agree(live_artifacts: dict[str, Artifact]) -> None:
    artifact = live_artifacts["wide_resnet"]
    engines = [_load(artifact, cores=4, sizes=(1,)) for _ in range(2)]
    expected = engines[0].head(0, engines[0].trunk(_inputs(artifact, 1)))
    wrong: list[NDArray[np.float32]] = []

    def predict(engine: NativeEngine) -> None:
        for _ in range(10):
            logits = engine.head(0, engine.trunk(_inputs(artifact, 1)))
            if not np.array_equal(logits, expected):
                wrong.append(logits)

    threads = [threading.Thread(target=predict, args=(engine,)) for engine in engines for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("name", NETWORKS)
def test_packed_weights_take_at_most_six_bytes_and_five_percent(live_artifacts: dict[str, Artifact], name: str) -> None:
    engine = _load(live_artifacts[name])
    steps = engine.plan(len(engine.artifact.manifest.heads)).steps
    engine.close()
    streams = [step.fields for step in steps if step.kernel == "stream"]
    streams = [fields for fields in streams if len(fields["values"]) >= 20 * fields["row_count"]]
    assert streams or name == "text"  # too small: beginning a row takes more than its weights
    for fields in streams:
        packed = sum(fields[part].nbytes for part in ("values", "offsets", "rows", "block_bases", "parts", "starts"))
        assert packed <= 6.3 * len(fields["values"])
