"""The bare predictor: what the server would do if it were a function, input in, reply object out, in its own process.

with BarePredictor(folder, "auto", cpu=0, batch_sizes=(1, 4, 16)) as bare:
    seconds = bare.measure(pngs, batch=1, calls=50)
"""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineInfo, EngineOptions
from runtime.predictor import Prediction, Predictor, Wish
from runtime.preprocess import Input
from server.predict_api import prediction_reply
from serving_machine import pinned

_predictors: list[Predictor] = []
"""Of the process that computes: one."""


class BarePredictor:
    """An artifact on an engine, in a process that is pinned to one core; calls block. A context manager."""

    def __init__(self, folder: Path, engine: str, *, cpu: int, batch_sizes: tuple[int, ...]) -> None:
        """Start the process and load. Raises what loading raises."""
        context = multiprocessing.get_context("spawn")  # forked threads and locks would be in an undefined state
        self._pool = ProcessPoolExecutor(1, mp_context=context)
        try:
            with pinned(cpu):  # the process, and the threads of the engine, stay there
                self.info: EngineInfo = self._pool.submit(_load, folder, engine, batch_sizes).result()
        except BaseException:
            self._pool.shutdown()
            raise

    def measure(self, inputs: Sequence[Input], *, batch: int, calls: int, heads: int | None = None) -> list[float]:
        """Seconds of each of `calls` calls with the next `batch` inputs, from undecoded inputs to reply objects."""
        return self._pool.submit(_measure, list(inputs), batch, calls, heads).result()

    def predict(self, inputs: Sequence[Input], wish: Wish) -> list[Prediction]:
        """Predict inputs one by one."""
        return self._pool.submit(_predict, list(inputs), wish).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()


def _load(folder: Path, engine: str, batch_sizes: tuple[int, ...]) -> EngineInfo:
    artifact = Artifact.open(folder)
    loaded = load_engine(artifact, engine, EngineOptions(cores=1, batch_sizes=batch_sizes))
    _predictors.append(Predictor(artifact, loaded))
    return loaded.info()


def _measure(inputs: list[Input], batch: int, calls: int, heads: int | None) -> list[float]:
    [predictor] = _predictors
    seconds = []
    for call in range(calls):
        chosen = [inputs[(call * batch + row) % len(inputs)] for row in range(batch)]
        started = time.perf_counter()
        _replies(predictor, chosen, Wish(heads=heads))
        seconds.append(time.perf_counter() - started)
    return seconds


def _replies(predictor: Predictor, inputs: Sequence[Input], wish: Wish) -> list[dict[str, Any]]:
    """What /predict would reply, as objects."""
    rows = [predictor.artifact.preprocessor.prepare(value) for value in inputs]
    labels = predictor.artifact.manifest.labels
    return [prediction_reply(row, labels, 1) for row in predictor.predict(rows, wish).predictions]


def _predict(inputs: list[Input], wish: Wish) -> list[Prediction]:
    [predictor] = _predictors
    prepare = predictor.artifact.preprocessor.prepare
    return [predictor.predict([prepare(value)], wish).predictions[0] for value in inputs]
