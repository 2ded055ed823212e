"""The service with engines in worker processes: the same answers, and a dead worker costs at most what it computed."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from runtime.workers.engine import WorkerEngine
from runtime.workers.slices import allowed_cpus
from tests.artifacts import write_tiny_image_artifact
from tests.runtime.workers.conftest import eventually, freeze
from tests.server.inputs import image_file
from tests.server.service import CORES, Direct, Service

WORKERS = min(CORES, len(allowed_cpus()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_tiny_image_artifact(models / "tiny-image")
    return models


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    with Service(folder, engine="native", engine_workers=WORKERS, engine_timeout_seconds=5.0) as running:
        yield running.wait()


@pytest.fixture(scope="module")
def direct(folder: Path) -> Iterator[Direct]:
    one = Direct(folder / "tiny-image", "native")
    yield one
    one.close()


def _engine(service: Service) -> WorkerEngine:
    engine = service.core._models.resolve("tiny-image", "image").predictor.engine
    assert isinstance(engine, WorkerEngine)
    return engine


def _post(service: Service, data: bytes) -> httpx.Response:
    return service.client.post("/predict", content=data, headers={"content-type": "image/png"})


def test_answers_are_the_same(service: Service, direct: Direct) -> None:
    assert len(_engine(service).pids) == WORKERS
    for seed in range(5):
        data = image_file(seed)
        reply = _post(service, data).json()
        assert reply["engine"] == "native"
        direct.check(reply["predictions"][0], data)


def test_every_request_is_answered_while_workers_are_killed_and_stopped(service: Service, direct: Direct) -> None:
    engine = _engine(service)
    files = [image_file(seed) for seed in range(20)]
    told: Counter[int] = Counter()

    def ask(number: int) -> None:
        data = files[number % len(files)]
        reply = _post(service, data)
        told[reply.status_code] += 1
        if reply.status_code == 200:
            direct.check(reply.json()["predictions"][0], data)
        else:
            assert (reply.status_code, reply.json()["code"]) == (500, "engine_failure"), reply.text

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(ask, number) for number in range(150)]
        eventually(lambda: told[200] >= 10)
        before = engine.pids
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: before[0] not in engine.pids and len(engine.pids) == WORKERS)
        freeze(engine.pids[0])
        for one in running:
            one.result()
    assert sum(told.values()) == len(running)
    eventually(lambda: len(engine.pids) == WORKERS)
    for number in range(2 * WORKERS):
        ask(number)
    assert told[200] >= 10 + 2 * WORKERS
    assert engine.replaced >= 2
    shown = f'neurotrails_workers_replaced_total{{model="tiny-image"}} {float(engine.replaced)}'
    eventually(lambda: shown in service.client.get("/metrics").text)


def test_the_workers_end_with_the_service(folder: Path) -> None:
    with Service(folder, engine="native", engine_workers=1) as service:
        [pid] = _engine(service.wait()).pids
    assert not Path(f"/proc/{pid}").exists()
