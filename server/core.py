"""The facade of the service, the same for every protocol: predict, describe, ready, drain. Knows no HTTP."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal

from runtime.errors import InputError
from runtime.predictor import Predictions
from runtime.preprocess import Row
from server.decode import Decoder
from server.errors import EngineFailure, InvalidRequest, NotReady, StartupError, from_input_error
from server.metrics import Observer
from server.models import Models, ServedModel, load_models, open_artifacts
from server.settings import Settings
from server.work import Answer, ModelCard, Timing, Work, modality_of

logger = logging.getLogger("neurotrails")


class Core:
    """Predicts with the models of `settings.models`, from `start` to `drain`."""

    def __init__(self, settings: Settings, decoder: Decoder, observer: Observer) -> None:
        self._settings = settings
        self._decoder = decoder
        self._observer = observer
        self._models = Models([])
        self._state: Literal["loading", "ready", "failed", "draining"] = "loading"
        self._failure = ""
        self._loading: asyncio.Task[None] | None = None
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, on_failure: Callable[[StartupError], None]) -> None:
        """Check and load all models in the background, so that the probes can answer meanwhile.

        A failure is logged and reported to `on_failure`, and nothing is ever served. Needs a running event loop.
        """
        self._loading = asyncio.create_task(self._load(on_failure))

    async def predict(self, work: Work) -> Answer:
        """Predict all inputs of a request with one model. Raises ServerError."""
        self._require_ready()
        self._open += 1
        self._idle.clear()
        try:
            return await self._predict(work)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    def describe(self) -> tuple[ModelCard, ...]:
        """Describe the served models. Raises NotReady."""
        self._require_ready()
        return self._models.cards

    def ready(self) -> str | None:
        """Return None when every model is warm, else one sentence that says why requests are not answered."""
        match self._state:
            case "ready":
                return None
            case "loading":
                return "The models are still loading."
            case "draining":
                return "The server is shutting down."
            case "failed":
                return f"The server could not start: {self._failure}"

    async def drain(self) -> None:
        """Accept nothing more, finish what was accepted, and release the models."""
        self._state = "draining"
        if self._loading is not None:
            await self._loading  # a compilation cannot be interrupted
        await self._idle.wait()
        await asyncio.to_thread(self._models.close)
        self._decoder.close()

    async def _load(self, on_failure: Callable[[StartupError], None]) -> None:
        try:
            artifacts = await asyncio.to_thread(open_artifacts, self._settings)
            self._models = await asyncio.to_thread(load_models, artifacts, self._settings)
        except StartupError as error:
            logger.error("%s", error)
            self._state, self._failure = "failed", str(error)
            on_failure(error)
            return
        for card in self._models.cards:
            manifest, engine = card.manifest, card.engine
            logger.info(
                "Serving %s version %s (%s, %d heads, %s) with %s %s on %d core(s).",
                manifest.name, manifest.version, manifest.modality, len(manifest.heads), manifest.precision,
                engine.name, engine.version, engine.cores,
            )  # fmt: skip
            self._observer.model_loaded(card)
        engines = [card.engine for card in self._models.cards]
        for name, note in sorted({(engine.name, note) for engine in engines for note in engine.notes}):
            logger.warning("%s: %s", name, note)
        if self._state == "loading":
            self._state = "ready"
            logger.info("All models are ready.")

    def _require_ready(self) -> None:
        reason = self.ready()
        if reason is not None:
            raise NotReady("not_ready", reason, {"retry-after": "1"})

    async def _predict(self, work: Work) -> Answer:
        modalities = {modality_of(value) for value in work.inputs}
        if len(modalities) != 1:
            raise InvalidRequest(
                "mixed_inputs", "The request mixes images and texts; one request goes to one model, so send two."
            )
        model = self._models.resolve(work.model, modalities.pop())
        try:
            model.predictor.check(work.wish)
        except InputError as error:
            raise from_input_error(error) from error

        # Bodies were read in the pool too: that time, since work.started, counts as decoding.
        rows = await self._decoder.prepare(model.predictor.artifact.preprocessor, work.inputs)
        decoded = time.perf_counter()
        self._observer.decoded(model.name, decoded - work.started)
        began, predictions = await self._compute(model, rows, work)
        finished = time.perf_counter()
        self._observer.queued(model.name, began - decoded)
        self._observer.computed(model.name, predictions.predictions, predictions.timing)
        timing = Timing(
            decode_seconds=decoded - work.started,
            queue_seconds=began - decoded,
            compute_seconds=finished - began,
            total_seconds=finished - work.started,
        )
        return Answer(work.id, model.card, tuple(predictions.predictions), timing)

    async def _compute(self, model: ServedModel, rows: list[Row], work: Work) -> tuple[float, Predictions]:
        try:
            return await asyncio.get_running_loop().run_in_executor(model.pool, model.compute, rows, work.wish)
        except InputError as error:
            raise from_input_error(error) from error
        except Exception as error:  # engines raise errors of many kinds; none may reach another request
            logger.exception("Request %s: the engine of model %s failed.", work.id, model.name)
            raise EngineFailure(
                "engine_failure",
                f"The engine failed on this request to model {model.name!r}; the server's log has more.",
            ) from error
