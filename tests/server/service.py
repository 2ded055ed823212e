"""Runs the real application with uvicorn on a real socket, in a thread of the test process."""

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import uvicorn

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.predictor import Prediction, Predictor, Wish
from runtime.preprocess import Input
from server.app import create_app
from server.core import Core
from server.errors import StartupError
from server.process import http_config
from server.reconcile import ModelState
from server.settings import Settings
from tests.server.inputs import Expected

CORES = 2
"""Cores of every engine in these tests: ONNX Runtime has one thread pool for the process, of one size."""


class Service:
    """A running service; `client` talks to it, `core` is its inside."""

    def __init__(self, models: Path, *, engine: str = "onnxruntime", **settings: Any) -> None:
        self.failures: list[StartupError] = []
        self.settings = Settings(models=(models,), cores=CORES, engine=engine, port=0, **settings)
        app = create_app(self.settings, self.failures.append)
        self.core: Core = app.state.core
        self._server = uvicorn.Server(http_config(app, self.settings))
        self._thread = threading.Thread(target=self._server.run, name="service")
        self._state = app.state

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.005)
            assert self._thread.is_alive(), "uvicorn ended before it listened"
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.admin_port: int | None = self._state.admin_port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.stop()
        self._thread.join()

    def reconciling(self) -> "Future[None]":
        """Let the service look after its models now, as polling does; it has when the future is done."""
        assert self.core._watching is not None
        return asyncio.run_coroutine_threadsafe(self.core.reconcile(), self.core._watching.get_loop())

    def state(self, model: str) -> ModelState:
        """What is desired of a model, and what is."""
        [found] = [state for state in self.core.states() if state.name == model]
        return found

    def stop(self) -> None:
        """Tell the service to stop, as SIGTERM does; does not wait."""
        self._server.should_exit = True

    def wait(self) -> Self:
        """Wait until the models are loaded, or have failed to."""
        while self.core.ready() is not None and not self.failures:
            self._thread.join(0.005)
        return self

    def wait_for(self, rows: int, model: str) -> None:
        """Wait until so many inputs are decoded and in line."""
        [served] = self.core._models.candidates(model)
        while sum(len(line) for line in served.batcher._lines.values()) != rows:
            self._thread.join(0.005)
            assert self._thread.is_alive()


class Direct:
    """A bare predictor of the same artifact on the same engine: what the service must answer."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.artifact = artifact = Artifact.open(folder)
        options = EngineOptions(cores=CORES)
        self.labels = artifact.manifest.labels
        self._predictor = Predictor(artifact, load_engine(artifact, engine, options))

    def predict(self, data: Input, **wish: Any) -> Prediction:
        """Predict one input."""
        row = self._predictor.artifact.preprocessor.prepare(data)
        return self._predictor.predict([row], Wish(**wish)).predictions[0]

    def close(self) -> None:
        """Release the engine."""
        self._predictor.engine.close()

    def check(self, reply: Expected, data: bytes | str, **wish: Any) -> None:
        """Assert that one element of a reply's `predictions` is the answer for `data`."""
        expected = self.predict(data, **wish)
        best = expected.top(1)[0]
        assert reply["label"] == self.labels[best]
        assert reply["index"] == best
        np.testing.assert_allclose(reply["probability"], expected.probabilities[best], atol=1e-5)
        assert reply["heads_used"] == expected.heads_used == len(reply["heads"])
        assert reply["heads_total"] == expected.heads_total
        assert reply["stopped_by"] == expected.stopped_by
        assert reply["disagreement"] == (None if expected.disagreement is None else round(expected.disagreement, 6))
        for head, probabilities in enumerate(expected.head_probabilities):
            top = int(probabilities.argmax())
            assert reply["heads"][head]["head"] == head
            assert reply["heads"][head]["label"] == self.labels[top]
            np.testing.assert_allclose(reply["heads"][head]["probability"], probabilities[top], atol=1e-5)
