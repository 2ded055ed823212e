"""Faults injected on purpose: workers are killed, stopped and kept from loading, and parents end without a word."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.errors import EngineError, WorkerDied, WorkersFailed, WorkerStuck
from runtime.verify import read_reference
from runtime.workers.engine import RemoteFeatures, WorkerEngine
from runtime.workers.slices import Slice, allowed_cpus
from tests.runtime.workers.conftest import eventually, freeze, start, state


@pytest.fixture(autouse=True)
def _whole_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the shared engine as it was: with both workers, which have nothing to do."""
    yield
    if "workers" in request.fixturenames:
        engine: WorkerEngine = request.getfixturevalue("workers")
        eventually(lambda: len(engine.pids) == 2)
        assert [worker.load for worker in engine._pool.workers] == [0, 0]


def _features(engine: WorkerEngine) -> RemoteFeatures:
    features = engine.trunk(read_reference(engine.artifact)[0])
    assert isinstance(features, RemoteFeatures)
    return features


def test_every_call_gets_its_answer_or_hears_of_the_death(workers: WorkerEngine) -> None:
    inputs, _ = read_reference(workers.artifact)
    expected = [logits.tobytes() for logits in workers.logits(inputs, 3)]
    before = set(workers.pids)
    told: Counter[str] = Counter()
    asked: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            asked.append(1)
            try:
                found = [logits.tobytes() for logits in workers.logits(inputs, 3)]
                told["right" if found == expected else "wrong"] += 1
            except WorkerDied as error:
                told["died" if "SIGKILL" in str(error) else "wrong"] += 1

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: told["right"] >= 10)
    for pid in before:  # both, so that for a while there may be none
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(workers.pids) == 2 and not before & set(workers.pids))
    answered = told["right"]
    eventually(lambda: told["right"] >= answered + 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert told["wrong"] == 0
    assert sum(told.values()) == len(asked), "a call got no answer, or two"
    assert told["died"] <= 4 * 2, "more calls than were in flight in the two workers have heard of a death"


def test_a_stuck_call_ends_its_worker_and_no_other(workers: WorkerEngine) -> None:
    stuck, other = _features(workers), _features(workers)
    assert stuck.lease.worker is not other.lease.worker
    pid = stuck.lease.worker.pid
    freeze(pid)
    limit, workers._timeout_seconds = workers._timeout_seconds, 0.5
    try:
        with pytest.raises(WorkerStuck, match=rf"\(process {pid}\) did not answer within 0\.5 s"):
            workers.head(0, stuck)
    finally:
        workers._timeout_seconds = limit
    assert workers.head(0, other).shape[0] == 32
    with pytest.raises(WorkerDied, match="has ended, and its features with it"):
        workers.head(0, stuck)
    eventually(lambda: len(workers.pids) == 2)
    assert pid not in workers.pids
    assert not Path(f"/proc/{pid}").exists()
    assert _features(workers).rows == 32


def test_a_crash_is_logged_with_its_place(workers: WorkerEngine, caplog: pytest.LogCaptureFixture) -> None:
    features = _features(workers)
    os.kill(features.lease.worker.pid, signal.SIGSEGV)
    eventually(lambda: features.lease.worker.dead)
    with pytest.raises(WorkerDied):
        workers.head(0, features)
    eventually(lambda: any("ended by signal SIGSEGV" in line for line in caplog.messages))
    assert any(line.endswith("Fatal Python error: Segmentation fault") for line in caplog.messages)
    assert any("runtime/workers/child.py" in line for line in caplog.messages)


def test_a_worker_that_does_not_load_in_time_is_an_error(image_artifact: Artifact) -> None:
    parts = [Slice(allowed_cpus()[:1], 1)]
    with pytest.raises(WorkerStuck, match=r"Worker 0 of tiny-image did not load within 0\.01 s"):
        WorkerEngine(
            image_artifact, "native", EngineOptions(cores=1), parts, call_timeout_seconds=1, load_timeout_seconds=0.01
        )


def test_a_worker_whose_cpus_are_gone_says_so_and_computes(
    image_artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [Slice((1000,), 1)]
    options = EngineOptions(cores=1)
    engine = WorkerEngine(image_artifact, "native", options, parts, call_timeout_seconds=60, load_timeout_seconds=600)
    assert _features(engine).rows == 32
    engine.close()
    assert any(line.startswith("Worker 0 of tiny-image: Not pinned to CPU(s) 1000") for line in caplog.messages)


def test_calls_wait_while_there_is_no_worker(workers: WorkerEngine) -> None:
    for pid in workers.pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not workers.pids)
    assert _features(workers).rows == 32


def test_close_ends_workers_and_calls(image_artifact: Artifact) -> None:
    engine = start(image_artifact, "native")
    pids = engine.pids
    features = [_features(engine), _features(engine)]
    for pid in pids:
        freeze(pid)
    errors: list[Exception] = []

    def ask(one: RemoteFeatures) -> None:
        try:
            engine.head(0, one)
        except EngineError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(one,)) for one in features * 2]  # two compute, two wait for a lane
    for thread in threads:
        thread.start()
    eventually(lambda: [len(worker.free) for worker in engine._pool.workers] == [0, 0])
    engine.close()
    for thread in threads:
        thread.join()
    assert len(errors) == 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(EngineError, match="have been closed"):
        _features(engine)
    engine.close()


def test_without_its_keeper_a_pool_ends_rather_than_hangs(
    image_artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(image_artifact, "native", workers=1)
    [pid] = engine.pids
    engine._pool._selector.close()
    os.kill(pid, signal.SIGKILL)  # wakes the keeper up
    eventually(lambda: engine._pool._closed)
    with pytest.raises(EngineError, match="have been closed"):
        _features(engine)
    assert any("no longer kept" in line for line in caplog.messages)
    engine.close()
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_workers_that_cannot_load_fail_the_engine_until_they_can(image_folder: Path) -> None:
    engine = start(Artifact.open(image_folder), "native", workers=1)
    try:
        image = {"image": np.zeros((1, 1, 12, 12), np.float32)}
        graph = image_folder / "head_1.onnx"
        content = graph.read_bytes()
        graph.write_bytes(b"broken")
        os.kill(engine.pids[0], signal.SIGKILL)
        with contextlib.suppress(WorkerDied):  # if the pool has not noticed yet
            engine.trunk(image)
        with pytest.raises(WorkersFailed, match=r"could not be started in a row.*head_1\.onnx"):
            engine.trunk(image)
        graph.write_bytes(content)
        eventually(lambda: len(engine.pids) == 1)
        assert engine.trunk(image).rows == 1
    finally:
        engine.close()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "pass"])
def test_no_worker_outlives_its_parent(image_artifact: Artifact, end: str) -> None:
    """Not even one that is stopped, or whose parent forgets to close it."""
    script = f"""
import os, signal
from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.workers.engine import WorkerEngine
from runtime.workers.slices import Slice, allowed_cpus
part = Slice(allowed_cpus()[:1], 1)
artifact = Artifact.open({str(image_artifact.folder)!r})
engine = WorkerEngine(artifact, "native", EngineOptions(cores=1, batch_sizes=(1,)), [part],
                      call_timeout_seconds=60, load_timeout_seconds=600)
os.kill(engine.pids[0], signal.SIGSTOP)
print(*engine.pids, flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not done.stderr, done.stderr
    (pid,) = map(int, done.stdout.split())
    eventually(lambda: state(Path(f"/proc/{pid}")) in "ZX")  # Z: nobody has reaped it yet
