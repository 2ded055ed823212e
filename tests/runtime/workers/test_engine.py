import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.artifact import Artifact
from runtime.costs import measure_costs
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import ArtifactError, EngineError
from runtime.predictor import Predictor, Wish
from runtime.preprocess import Batch
from runtime.verify import read_reference
from runtime.workers.engine import WorkerEngine, load_workers
from runtime.workers.slices import allowed_cpus
from tests.runtime.workers.conftest import eventually, start

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def local(workers: WorkerEngine) -> Iterator[Engine]:
    """The same engine in this process."""
    options = replace(workers.options, cores=1, streams=1)
    engine = load_engine(workers.artifact, workers.name, options)
    engine._costs = workers._costs  # so that both split batches alike, whatever they measured
    yield engine
    engine.close()


def _inputs(engine: Engine, rows: slice = slice(None)) -> Batch:
    return {name: tensor[rows] for name, tensor in read_reference(engine.artifact)[0].items()}


@pytest.mark.parametrize("rows", [1, 2, 7, 32])
def test_the_logits_are_those_of_the_engine_in_this_process(workers: WorkerEngine, local: Engine, rows: int) -> None:
    inputs = _inputs(local, slice(rows))
    here, there = local.trunk(inputs), workers.trunk(inputs)
    assert there.rows == rows
    chosen = np.arange(rows)[::-2]
    for index in range(3):
        expected, found = local.head(index, here), workers.head(index, there)
        assert found.dtype == np.float32
        assert found.flags.writeable
        assert found.tobytes() == expected.tobytes()
        expected = local.head(index, here.take(chosen))
        assert workers.head(index, there.take(chosen)).tobytes() == expected.tobytes()
    twice = there.take(chosen).take(np.array([0, 0]))
    assert twice.rows == 2
    np.testing.assert_array_equal(workers.head(2, twice), local.head(2, here.take(chosen[[0, 0]])))
    for expected, found in zip(local.logits(inputs, 2), workers.logits(inputs, 2), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_features_outlive_other_calls(workers: WorkerEngine, local: Engine) -> None:
    """Heads of the text artifact read an input, which lies in memory that the next call overwrites."""
    one, other = _inputs(local, slice(0, 4)), _inputs(local, slice(4, 8))
    kept = [workers.trunk(one) for _ in range(5)]
    for _ in range(5):
        workers.trunk(other)
    expected = local.head(0, local.trunk(one))
    assert all(workers.head(0, features).tobytes() == expected.tobytes() for features in kept)


def test_predictions_with_early_exit_are_the_same(workers: WorkerEngine, local: Engine) -> None:
    inputs = _inputs(local)
    wishes = [Wish(min_confidence=(row % 5) / 4) for row in range(32)]
    expected, found = (Predictor(local.artifact, one).predict_batch(inputs, wishes) for one in (local, workers))
    assert {prediction.heads_used for prediction in expected.predictions} > {1}
    for one, other in zip(expected.predictions, found.predictions, strict=True):
        assert (one.heads_used, one.stopped_by) == (other.heads_used, other.stopped_by)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_many_threads_get_their_own_answers(workers: WorkerEngine, local: Engine) -> None:
    expected = [local.head(1, local.trunk(_inputs(local, slice(row, row + 3)))).tobytes() for row in range(29)]

    def ask(row: int) -> bool:
        return workers.head(1, workers.trunk(_inputs(local, slice(row, row + 3)))).tobytes() == expected[row]

    async def ask_all() -> list[bool]:
        return await asyncio.gather(*(asyncio.to_thread(ask, row) for row in range(29)))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, [*range(29)] * 3))
    assert all(asyncio.run(ask_all()))
    assert [worker.load for worker in workers._pool.workers] == [0, 0]


def test_predictions_side_by_side_go_to_different_workers(workers: WorkerEngine) -> None:
    features = [workers.trunk(_inputs(workers, slice(1))) for _ in range(4)]
    worked = [one.lease.worker.pid for one in features]  # type: ignore[attr-defined]
    assert sorted(worked) == sorted(workers.pids * 2)


def test_they_say_what_the_engine_says(workers: WorkerEngine, local: Engine) -> None:
    info, expected = workers.info(), local.info()
    assert (info.name, info.version, info.precision) == (expected.name, expected.version, expected.precision)
    assert (info.cores, info.batch_sizes) == (2, (1, 4))
    assert info.concurrency == workers.concurrency == (2 if info.name == "native" else 4)
    assert info.load_seconds > 0
    assert (workers.name, workers.one_program, workers.sizes) == (local.name, local.one_program, local.sizes)
    stage = workers.artifact.manifest.heads[0]
    assert workers.cheaper(stage, 32, 1)
    assert not workers.cheaper(stage, 2, 2)
    surface = measure_costs(workers, budget_seconds=0.0)
    assert surface.batch_sizes == local.sizes
    assert min(min(head) for head in surface.heads) > 0


def test_every_thread_is_pinned_to_the_cpus_of_its_worker(workers: WorkerEngine) -> None:
    cpus = allowed_cpus()
    for index, pid in enumerate(workers.pids):
        workers.logits(_inputs(workers), 1)
        found = [
            re.search(r"^Cpus_allowed_list:\s*(.*)$", (task / "status").read_text(), re.MULTILINE)
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
        assert len(found) > 2
        assert {match and match[1] for match in found} == {str(cpus[index % len(cpus)])}


def test_signals_that_are_meant_for_the_parent_do_nothing(workers: WorkerEngine) -> None:
    pids = workers.pids
    for pid in pids:
        assert os.getsid(pid) != os.getsid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    assert len(workers.logits(_inputs(workers), 3)) == 3
    assert workers.pids == pids


def test_an_error_of_the_engine_belongs_to_its_call(workers: WorkerEngine, caplog: pytest.LogCaptureFixture) -> None:
    pids = workers.pids
    with pytest.raises(EngineError, match="KeyError"):
        workers.trunk({})
    assert len(workers.logits(_inputs(workers), 3)) == 3
    assert workers.pids == pids
    prefix = f"Worker 0 of {workers.artifact.manifest.name}: "
    eventually(lambda: any(line.startswith(f"{prefix}KeyError") for line in caplog.messages))
    assert f"{prefix}Traceback (most recent call last):" in caplog.messages, "what workers print is logged"


def test_features_of_another_engine_are_refused(workers: WorkerEngine, local: Engine) -> None:
    with pytest.raises(EngineError, match="come from another engine"):
        workers.head(0, local.trunk(_inputs(local)))


def _shared_maps(pid: int) -> dict[str, int]:
    """KiB by field of the shared constants in a process, from /proc/PID/smaps."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)
    (found,) = (part for part in parts if "memfd:neurotrails-constants" in part.partition("\n")[0])
    assert found.splitlines()[0].split()[1] == "r--s"
    return {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", found, re.MULTILINE)}


def test_workers_of_the_native_engine_hold_its_constants_once() -> None:
    artifact = Artifact.open(ROOT / "models" / "fashion-mnist")
    workers = start(artifact, "native")
    try:
        pids = workers.pids
        for _ in range(2):  # one trunk and its heads in each worker
            features = [workers.trunk(_inputs(workers, slice(1))) for _ in pids]
            for one in features:
                for head in range(3):
                    workers.head(head, one)
        weights = sum(layer.nonzero for layer in artifact.manifest.sparsity.layers)
        for sizes in map(_shared_maps, pids):
            assert sizes["Size"] * 1024 > 4 * weights, "some weights are not in there"
            assert sizes["Rss"] > 0
            assert sizes["Private_Clean"] == sizes["Private_Dirty"] == 0
            assert sizes["Pss"] < 0.75 * sizes["Rss"], "each page belongs to both"
    finally:
        workers.close()


def test_load_workers_divides_the_cores(image_artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="3 workers need as many cores, but the engine has 2"):
        load_workers(image_artifact, "native", EngineOptions(cores=2), workers=3)
    engine = load_workers(image_artifact, "auto", EngineOptions(cores=1), workers=1)
    assert engine.name in ("native", "onnxruntime")
    assert engine.concurrency == 1
    engine.close()


def test_what_cannot_be_loaded_is_the_same_error(image_artifact: Artifact, image_folder: Path) -> None:
    with pytest.raises(EngineError, match="There is no engine 'nonsense'"):
        start(image_artifact, "nonsense")
    artifact = Artifact.open(image_folder)
    (image_folder / "head_0.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"head_0\.onnx has 0 bytes"):
        start(artifact, "native")


def test_the_example_of_the_documentation_runs() -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "workers.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    probabilities = [float(number) for number in re.findall(r"[\d.]+(?:e-\d+)?", done.stdout)]
    assert len(probabilities) == 10
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
