"""Fixtures: engines in two workers, whatever CPUs there are; and waiting for what other processes do."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.workers.engine import WorkerEngine
from runtime.workers.slices import Slice, allowed_cpus


def start(artifact: Artifact, name: str, workers: int = 2, *, streams: int = 1) -> WorkerEngine:
    """An engine in workers of one core each: on CPUs of their own if there are so many, else on the same one."""
    cpus = allowed_cpus()
    parts = [Slice((cpus[index % len(cpus)],), 1) for index in range(workers)]
    options = EngineOptions(cores=workers, streams=streams, batch_sizes=(1, 4))
    with ThreadPoolExecutor(1) as pool:  # the thread that loads ends, and the workers must not
        return pool.submit(
            WorkerEngine, artifact, name, options, parts, call_timeout_seconds=120.0, load_timeout_seconds=600.0
        ).result()


@pytest.fixture(scope="package", params=["native-image", "onnxruntime-text"])
def workers(
    request: pytest.FixtureRequest, image_artifact: Artifact, text_artifact: Artifact
) -> Iterator[WorkerEngine]:
    name, modality = request.param.split("-")
    engine = start(image_artifact if modality == "image" else text_artifact, name, streams=2)
    yield engine
    engine.close()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something is so; far longer than it takes anywhere, so that only what never comes fails."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def state(process: Path) -> str:
    """State of a process or thread by its folder in /proc, as one letter; X: it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def freeze(pid: int) -> None:
    """Stop a process and wait until all its threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(state(thread) == "T" for thread in Path(f"/proc/{pid}/task").iterdir()))
