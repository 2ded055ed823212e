import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from runtime.artifact import Artifact
from runtime.engines import engine_class, installed_engines, load_engine, native_obstacle
from runtime.engines.base import Engine, EngineOptions, Features
from runtime.errors import ArtifactError, EngineError, EngineNotInstalled, UnsupportedModel
from runtime.graph import load_graph
from runtime.parity import compare
from runtime.preprocess import Batch
from runtime.verify import read_reference
from tests.engines import ENGINE_NAMES, needs_deepsparse
from tests.runtime.conftest import CORES
from tests.runtime.tampering import edit_graph

needs_fast_native = pytest.mark.skipif(native_obstacle() is not None, reason=str(native_obstacle()))


def _logits(engine: Engine, inputs: Batch) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    features = engine.trunk(inputs)
    return [engine.head(index, features) for index in range(len(engine.artifact.manifest.heads))]


def _rows(inputs: Batch, start: int, stop: int) -> Batch:
    return {name: tensor[start:stop] for name, tensor in inputs.items()}


def test_engines_compute_what_numpy_computes(engine: Engine) -> None:
    inputs, expected = read_reference(engine.artifact)
    assert np.ptp(expected[0], axis=0).max() > 0.1, "the network is dead: agreement would prove nothing"
    for reference, found in zip(expected, _logits(engine, inputs), strict=True):
        assert found.dtype == np.float32
        assert compare(reference, found).holds


@pytest.mark.parametrize("rows", range(1, 18))
def test_any_batch_gives_the_logits_of_its_rows(engine: Engine, rows: int) -> None:
    inputs, expected = read_reference(engine.artifact)
    for reference, found in zip(expected, _logits(engine, _rows(inputs, 5, 5 + rows)), strict=True):
        assert compare(reference[5 : 5 + rows], found).holds


@pytest.mark.parametrize("costs", [{1: 1, 4: 9, 16: 99}, {1: 9, 4: 9, 16: 99}, {1: 99, 4: 99, 16: 1}])
def test_splitting_and_padding_never_change_the_logits(engine: Engine, costs: dict[int, float]) -> None:
    inputs, expected = read_reference(engine.artifact)
    measured = dict(engine._costs)
    try:
        engine._costs = dict.fromkeys(measured, costs)
        for rows in (2, 7, 21):
            for reference, found in zip(expected, _logits(engine, _rows(inputs, 0, rows)), strict=True):
                assert compare(reference[:rows], found).holds
    finally:
        engine._costs = measured


@pytest.mark.parametrize("costs", [{1: 1.0, 4: 2.0, 16: 3.0}, {1: 1.0, 4: 3.9, 16: 17.0}, {1: 5.0, 4: 2.0, 16: 9.0}])
def test_splits_have_the_lowest_cost(image_artifact: Artifact, costs: dict[int, float]) -> None:
    engine = load_engine(image_artifact, "onnxruntime", EngineOptions(cores=CORES))
    stage = image_artifact.manifest.heads[0]
    engine._costs[stage.file] = costs

    @cache
    def lowest(rows: int) -> float:
        return 0.0 if rows <= 0 else min(cost + lowest(rows - size) for size, cost in costs.items())

    for rows in range(1, 50):
        sizes = engine._split(stage, rows)
        assert sum(sizes) >= rows
        assert sum(sizes[:-1]) < rows, "a piece would hold nothing but padding"
        assert sum(costs[size] for size in sizes) == pytest.approx(lowest(rows))
    assert engine.cheaper(stage, 16, 3) == (lowest(3) < 0.95 * lowest(16))
    assert not engine.cheaper(stage, 3, 3)


@pytest.mark.parametrize("name", ENGINE_NAMES)
@pytest.mark.parametrize("streams", [1, 2])
def test_threads_do_not_disturb_each_other(artifact: Artifact, name: str, streams: int) -> None:
    engine = load_engine(artifact, name, EngineOptions(cores=2, streams=streams, batch_sizes=(1, 4)))
    assert engine.concurrency == (1 if name == "native" else streams)  # a call of native uses all cores
    inputs, expected = read_reference(artifact)

    def run(task: int) -> bool:
        start, rows = task % 25, 1 + task % 7
        found = _logits(engine, _rows(inputs, start, start + rows))
        return all(compare(e[start : start + rows], f).holds for e, f in zip(expected, found, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(50)))
    engine.close()


@pytest.mark.parametrize("shared", [False, True])
def test_onnxruntime_engines_of_different_sizes_share_a_process(image_artifact: Artifact, shared: bool) -> None:
    script = f"""
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.onnxruntime import OnnxRuntimeEngine, Threads
from runtime.engines.base import EngineOptions
from runtime.parity import compare
from runtime.verify import read_reference
artifact = Artifact.open({str(image_artifact.folder)!r})
inputs, logits = read_reference(artifact)
OnnxRuntimeEngine.threads = Threads(shared={shared}, spinning="never" if not {shared} else "always")
engines = [load_engine(artifact, "onnxruntime", EngineOptions(cores=cores)) for cores in (1, 2, 1, 3)]
for engine in engines:
    assert compare(logits[0], engine.head(0, engine.trunk(inputs))).holds
    print(engine.info().cores, *engine.notes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    note = "computes on the 2 cores of the process-wide pool, which cannot be resized"
    notes = [f" {note}" if shared else ""] * 2
    assert done.stdout.splitlines() == ["1", "2", f"1{notes[0]}", f"3{notes[1]}"]


def test_strided_inputs(engine: Engine) -> None:
    inputs, expected = read_reference(engine.artifact)
    strided = {name: np.asfortranarray(tensor)[::2] for name, tensor in inputs.items()}
    assert compare(expected[0][::2], engine.head(0, engine.trunk(strided))).holds


def test_results_stay_when_the_engine_computes_on(engine: Engine) -> None:
    """Nothing that was returned lies in memory that a later call overwrites, and no input is written to."""
    inputs, _ = read_reference(engine.artifact)
    for rows in (1, 4, 7):  # compiled sizes, and one that is split
        first, second = _rows(inputs, 0, rows), _rows(inputs, 9, 9 + rows)
        before = {name: tensor.copy() for name, tensor in first.items()}
        features = engine.trunk(first)
        logits = engine.head(0, features)
        kept = {name: tensor.copy() for name, tensor in features.tensors.items()}
        expected = logits.copy()
        for _ in range(3):
            engine.head(0, engine.trunk(second))
        np.testing.assert_array_equal(logits, expected)
        for name, tensor in features.tensors.items():
            np.testing.assert_array_equal(tensor, kept[name])
        for name, tensor in first.items():
            np.testing.assert_array_equal(tensor, before[name])
        again = engine.head(0, features)
        assert compare(expected, again).holds


def test_features_can_be_taken(engine: Engine) -> None:
    inputs, expected = read_reference(engine.artifact)
    features = engine.trunk(inputs)
    chosen = np.array([7, 0, 30])
    assert features.rows == 32
    assert compare(expected[1][chosen], engine.head(1, features.take(chosen))).holds
    assert Features({"x": np.zeros((3, 2))}).take(np.array([], dtype=np.intp)).rows == 0


@pytest.mark.parametrize("rows", [1, 2, 5, 32])
def test_trunk_and_heads_in_one_call(engine: Engine, rows: int) -> None:
    inputs, expected = read_reference(engine.artifact)
    for heads in range(1, len(expected) + 1):
        found = engine.logits(_rows(inputs, 0, rows), heads)
        assert len(found) == heads
        assert all(compare(e[:rows], f).holds for e, f in zip(expected, found, strict=False))


def test_info(engine: Engine) -> None:
    info = engine.info()
    assert (info.name, info.precision, info.cores, info.batch_sizes) == (engine.name, "fp32", CORES, (1, 4, 16))
    assert info.version[0].isdigit()
    assert any("not for production use" in note for note in info.notes) == (info.name == "deepsparse")


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_another_precision_is_refused(image_artifact: Artifact, name: str) -> None:
    engine = engine_class(name)
    offered = f"{name} in {' or '.join(engine.precisions['fp32'])}"
    with pytest.raises(
        UnsupportedModel, match=f"tiny-image is stored as fp32, which {name} does not execute in fp8.*{offered}"
    ):
        load_engine(image_artifact, name, EngineOptions(cores=CORES, precision="fp8"))


def test_auto_says_that_no_engine_has_a_precision(image_artifact: Artifact) -> None:
    with pytest.raises(UnsupportedModel, match=r"onnxruntime: it does not execute fp32 artifacts in fp8"):
        load_engine(image_artifact, "auto", EngineOptions(cores=CORES, precision="fp8"))


def test_an_unknown_engine(image_artifact: Artifact) -> None:
    with pytest.raises(EngineError, match=r"no engine 'abacus'. Choose one of: auto, deepsparse, native, onnxruntime"):
        load_engine(image_artifact, "abacus", EngineOptions(cores=CORES))


@needs_fast_native
def test_auto_is_native_where_its_fast_code_runs(artifact: Artifact) -> None:
    options = EngineOptions(cores=CORES, batch_sizes=(1,), accept_deepsparse_licence=True)
    engine = load_engine(artifact, "auto", options)
    assert engine.name == "native"
    assert not any("instead of" in note for note in engine.notes)
    engine.close()


def _with_an_operator_that_native_lacks(folder: Path) -> Artifact:
    def replace_relu(model: ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Softsign"

    edit_graph(folder, "trunk.onnx", replace_relu)
    return Artifact.open(folder)


@needs_fast_native
def test_auto_says_what_the_native_engine_does_not_support(image_folder: Path) -> None:
    artifact = _with_an_operator_that_native_lacks(image_folder)
    with pytest.raises(UnsupportedModel) as refused:
        load_engine(artifact, "native", EngineOptions(cores=CORES))
    engine = load_engine(artifact, "auto", EngineOptions(cores=CORES))
    assert engine.name == "onnxruntime"
    assert "Softsign" in str(refused.value)
    assert f"chosen instead of native for tiny-image: {refused.value}" in engine.info().notes


@pytest.mark.parametrize("flags", [[], ["avx2"], ["asimd", "sve"]])
def test_auto_is_not_native_without_avx2(
    image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setattr("runtime.engines.cpu", lambda: ("Neoverse", flags))
    engine = load_engine(image_artifact, "auto", EngineOptions(cores=CORES))
    assert engine.name == "onnxruntime"
    [note] = [note for note in engine.notes if "native" in note]
    assert "avx2 and fma; Neoverse is not known to have them" in note


@needs_deepsparse
def test_auto_is_deepsparse_only_once_its_licence_is_accepted(
    image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.engines.cpu", lambda: ("Neoverse", []))
    options = EngineOptions(cores=CORES, batch_sizes=(1,))
    assert load_engine(image_artifact, "auto", options).name == "onnxruntime"
    engine = load_engine(image_artifact, "auto", replace(options, accept_deepsparse_licence=True))
    assert engine.name == "deepsparse"
    assert any("not for production use" in note for note in engine.notes)
    assert any("instead of native" in note for note in engine.notes)
    engine.close()
    assert len(engine_class("deepsparse").notes) == 1, "the note of one engine became that of all"


@needs_fast_native
def test_auto_replaces_no_engine_that_fails(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("the compiler gave up")

    monkeypatch.setattr(engine_class("native"), "_load", fail)
    with pytest.raises(EngineError, match="the compiler gave up"):
        load_engine(image_artifact, "auto", EngineOptions(cores=CORES))


def test_installed_engines() -> None:
    found = installed_engines()
    assert set(found) == {"deepsparse", "native", "onnxruntime", "openvino"}
    assert not isinstance(found["onnxruntime"], EngineNotInstalled)
    assert not isinstance(found["native"], EngineNotInstalled)


def test_a_missing_engine_says_what_to_install(image_artifact: Artifact) -> None:
    script = f"""
import sys
sys.modules["deepsparse"] = sys.modules["llvmlite"] = None  # what an import finds when there is no such package
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import EngineNotInstalled
artifact = Artifact.open({str(image_artifact.folder)!r})
accepted = EngineOptions(cores=1, accept_deepsparse_licence=True)
automatic = load_engine(artifact, "auto", accepted)
print(automatic.name)
print(*automatic.notes)
for name in ("deepsparse", "native"):
    try:
        load_engine(artifact, name, accepted)
    except EngineNotInstalled as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    auto, note, deepsparse, native = done.stdout.splitlines()
    assert auto == "onnxruntime"
    assert note == f"chosen instead of native for tiny-image: {native}"
    assert "pip install 'neurotrails[deepsparse]'" in deepsparse
    assert "pip install 'llvmlite" in native


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cores": 0}, "cores and streams must be at least 1"),
        ({"cores": 1, "streams": 0}, "cores and streams must be at least 1"),
        ({"cores": 1, "batch_sizes": ()}, "batch_sizes must be positive"),
        ({"cores": 1, "batch_sizes": (4, 0)}, "batch_sizes must be positive"),
    ],
)
def test_impossible_options(options: dict[str, int], problem: str) -> None:
    with pytest.raises(EngineError, match=problem):
        EngineOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_no_engine_sees_an_unsafe_graph(image_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def shrink(model: ModelProto) -> None:
        model.graph.node[0].attribute[0].sparse_tensor.dims[0] = 1  # most indices now lie outside

    edit_graph(image_folder, "head_1.onnx", shrink)
    with pytest.raises(ArtifactError, match=r"head_1\.onnx.*sparse indices must be sorted, unique and inside"):
        load_engine(Artifact.open(image_folder), name, EngineOptions(cores=CORES))
    found = engine_class(name)
    monkeypatch.setattr(found, "_load", lambda _: pytest.fail("the engine was let at it"))
    with pytest.raises(ArtifactError, match=r"head_1\.onnx"):
        found(Artifact.open(image_folder), EngineOptions(cores=CORES))


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_each_graph_is_read_once_and_then_dropped(
    image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    read = []

    def counted(path: Path) -> ModelProto:
        read.append(path.name)
        return load_graph(path)

    monkeypatch.setattr("runtime.graph_sizes.load_graph", counted)
    engine = load_engine(image_artifact, name, EngineOptions(cores=CORES, batch_sizes=(1,)))
    stages = image_artifact.manifest.stages
    assert read == [stage.file for stage in stages]
    with pytest.raises(KeyError):
        engine.model(stages[0])
    engine.close()


@pytest.mark.parametrize("name", ENGINE_NAMES)
@pytest.mark.parametrize("wrong", [-1, 29, 2**40])
def test_token_ids_outside_of_the_vocabulary_are_refused(text_artifact: Artifact, name: str, wrong: int) -> None:
    """DeepSparse would end the process."""
    engine = load_engine(text_artifact, name, EngineOptions(cores=CORES, batch_sizes=(1,), lengths=(8,)))
    inputs, _ = read_reference(text_artifact)
    inputs["input_ids"][3, 0] = wrong
    with pytest.raises(EngineError, match=r"input_ids holds .*; token ids go from 0 to 28"):
        engine.trunk(inputs)
    engine.close()
