"""The facade of the service, the same for every protocol: predict, describe, ready, drain. Knows no HTTP."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from runtime.errors import InputError
from server.admission import Refusal, admit
from server.batcher import Expired, RowFailed
from server.decode import Decoder
from server.errors import (
    EngineFailure,
    InvalidRequest,
    NotReady,
    Overloaded,
    ServerError,
    StartupError,
    from_input_error,
)
from server.metrics import Observer
from server.models import Models, ServedModel, fitting
from server.reconcile import ModelState, Reconciler
from server.serving_file import Entry
from server.settings import Settings
from server.work import Answer, Deadline, ModelCard, Timing, Work, modality_of

logger = logging.getLogger("neurotrails")

LAG_INTERVAL_SECONDS = 0.25
"""Time between samples of the event loop's lag."""
LEAST_RETRY_SECONDS = 0.05
"""Shortest time after which a refused client is asked to come again."""


class Core:
    """Predicts with the models that `serving.yaml` names, from `start` to `drain`."""

    def __init__(
        self, settings: Settings, decoder: Decoder, observer: Observer, jitter: random.Random | None = None
    ) -> None:
        self._jitter = jitter or random.Random()
        self._settings = settings
        self._decoder = decoder
        self._observer = observer
        self._models = Models()
        self._reconciler = Reconciler(settings, self._models, observer)
        self._state: Literal["loading", "ready", "leaving", "failed", "draining"] = "loading"
        self._failure = ""
        self._loading: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, on_failure: Callable[[StartupError], None]) -> None:
        """Check and load all models in the background, so that the probes can answer meanwhile; then follow changes.

        A failure is logged and reported to `on_failure`, and nothing is ever served. A later change that fails changes
        nothing. Needs a running event loop.
        """
        self._loading = asyncio.create_task(self._load(on_failure))
        self._watching = asyncio.create_task(self._watch())

    def deadline(self, arrived: float, timeout_seconds: float | None) -> Deadline:
        """When a request that arrived at `arrived` (`time.monotonic()`) must be answered. Raises InvalidRequest."""
        longest = self._settings.max_timeout_seconds
        if timeout_seconds is None:
            return Deadline(arrived, self._settings.timeout_seconds)
        if not 0 < timeout_seconds <= longest:
            raise InvalidRequest(
                "bad_timeout_ms",
                f"timeout_ms must be more than 0 and at most {1000 * longest:g}, not {1000 * timeout_seconds:g}.",
            )
        return Deadline(arrived, timeout_seconds)

    @property
    def longest_timeout_seconds(self) -> float:
        """The longest timeout that a request may name."""
        return self._settings.max_timeout_seconds

    def admit_headers(self, model: str | None, deadline: Deadline) -> None:
        """Refuse a request before its body is read, where every model it may be for would refuse a single input.

        Raises NotReady, Overloaded or DeadlineExceeded.
        """
        self._require_ready()
        refusals = [(served, self._refusal(served, 1, None, deadline)) for served in self._models.candidates(model)]
        if refusals and all(refusal for _, refusal in refusals):
            served, refusal = min(refusals, key=lambda each: each[1].retry_seconds if each[1] else 0.0)
            assert refusal is not None
            raise self._overloaded(served, refusal)

    @contextmanager
    def pinned(self, name: str) -> Iterator[ServedModel]:
        """Keep the model with this name, in the version that is served now, until the end of the block.

        For requests whose body is read by what the model takes. Raises NotReady or UnknownModel.
        """
        self._require_ready()
        model = self._models.named(name)
        with model.pins.held():
            yield model

    async def predict(self, work: Work, pinned: ServedModel | None = None) -> Answer:
        """Predict all inputs of a request with one model: the one that is `pinned`, or the one that `work` names.

        Raises ServerError.
        """
        self._require_ready()
        self._open += 1
        self._idle.clear()
        try:
            return await self._predict(work, pinned)
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
            case "leaving" | "draining":
                return "The server is shutting down."
            case "failed":
                return f"The server could not start: {self._failure}"

    async def reconcile(self) -> None:
        """Look now at what should be served, and do it, instead of when it is time to."""
        await self._reconciler.reconcile()

    def states(self) -> tuple[ModelState, ...]:
        """Say of every model, served or not, what is desired and what is."""
        return self._reconciler.states()

    def problems(self) -> tuple[str, ...]:
        """Return the reasons why what is served is not what is desired."""
        return self._reconciler.problems()

    async def want(self, name: str, entry: Entry | None) -> None:
        """Write to `serving.yaml` that a model is desired: as `entry` says, or as before. Raises ServerError."""
        await self._reconciler.want(name, entry)

    async def unwant(self, name: str) -> None:
        """Write to `serving.yaml` that a model is not desired. Raises ServerError."""
        await self._reconciler.unwant(name)

    def leave(self) -> None:
        """Say that the server is not ready any more, and go on answering until `drain`."""
        if self._state == "ready":
            self._state = "leaving"

    async def drain(self) -> None:
        """Accept nothing more, finish what was accepted, and release the models."""
        self._state = "draining"
        self._reconciler.stop()
        if self._loading is not None:
            await self._loading  # a compilation cannot be interrupted
        if self._following is not None:
            await self._following
        await self._idle.wait()
        await self._models.close()
        if self._watching is not None:
            self._watching.cancel()
        self._decoder.close()

    async def _load(self, on_failure: Callable[[StartupError], None]) -> None:
        try:
            await self._reconciler.start_up()
        except StartupError as error:
            logger.error("%s", error)
            self._state, self._failure = "failed", str(error)
            on_failure(error)
            return
        if self._state == "loading":
            self._state = "ready"
            logger.info("All models are ready.")
            self._following = asyncio.create_task(self._reconciler.follow())

    async def _watch(self) -> None:
        """Report by how much the event loop is late, as it must never compute, and which workers were replaced."""
        while True:
            due = time.perf_counter() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            self._observer.loop_lagged(max(0.0, time.perf_counter() - due))
            for model in self._models.candidates(None):
                replaced = model.predictor.engine.replaced - model.replaced
                if replaced:
                    model.replaced += replaced
                    self._observer.workers_replaced(model.name, replaced)

    def _require_ready(self) -> None:
        reason = None if self._state == "leaving" else self.ready()
        if reason is not None:
            raise NotReady("not_ready", reason, {"retry-after": "1"})

    async def _predict(self, work: Work, pinned: ServedModel | None) -> Answer:
        modalities = {modality_of(value) for value in work.inputs}
        if len(modalities) != 1:
            raise InvalidRequest(
                "mixed_inputs", "The request mixes images and texts; one request goes to one model, so send two."
            )
        modality = modalities.pop()
        model = self._models.resolve(work.model, modality) if pinned is None else fitting(pinned, modality)
        with model.pins.held():
            return await self._predict_with(model, work)

    async def _predict_with(self, model: ServedModel, work: Work) -> Answer:
        try:
            model.predictor.check(work.wish)
        except InputError as error:
            raise from_input_error(error) from error

        count = len(work.inputs)
        refusal = self._refusal(model, count, work.wish.heads, work.deadline)
        if refusal is not None:
            raise self._overloaded(model, refusal)
        longest = model.costs.longest
        model.batcher.waiting.add(count, work.wish.heads, longest)
        try:
            rows = await self._decoder.prepare(model.predictor.artifact.preprocessor, work.inputs, work.deadline)
        finally:
            model.batcher.waiting.remove(count, work.wish.heads, longest)
        # Bodies were read in the pool too: that time, since work.started, counts as decoding.
        decoded = time.perf_counter()
        self._observer.decoded(model.name, decoded - work.started)
        work.deadline.seconds_left()
        try:
            answered = await model.batcher.submit(rows, work.wish, work.deadline.at).wait()
        except RowFailed as failure:
            raise self._failure_of(work, model, failure) from failure.__cause__
        finished = time.perf_counter()
        began = min(answer.began for answer in answered)
        timing = Timing(
            decode_seconds=decoded - work.started,
            queue_seconds=began - decoded,
            compute_seconds=finished - began,
            total_seconds=finished - work.started,
        )
        return Answer(work.id, model.card, tuple(answer.prediction for answer in answered), timing)

    def _refusal(self, model: ServedModel, rows: int, heads: int | None, deadline: Deadline) -> Refusal | None:
        return admit(
            model.costs,
            model.batcher.load,
            model.policy,
            rows=rows,
            heads=heads,
            tokens=model.costs.longest,
            seconds_left=deadline.seconds_left(),
        )

    def _overloaded(self, model: ServedModel, refusal: Refusal) -> Overloaded:
        """Say when to ask again: when there probably is room, and not all at the same moment."""
        wait = max(refusal.retry_seconds, LEAST_RETRY_SECONDS) * self._jitter.uniform(1.0, 2.0)
        rows = model.batcher.load.rows
        why = {
            "queue_full": f"{rows} inputs wait for model {model.name!r}; at most {model.policy.most_waiting} may",
            "too_slow": f"Model {model.name!r} would answer in {refusal.seconds:.3g} seconds, which is too late",
        }[refusal.reason]
        return Overloaded(
            "overloaded",
            f"{why}. Ask again in {wait:.3g} seconds.",
            {"retry-after": str(math.ceil(wait))},
            {"retry_after_ms": math.ceil(1000 * wait)},
        )

    def _failure_of(self, work: Work, model: ServedModel, failure: RowFailed) -> ServerError:
        error = failure.__cause__
        if isinstance(error, Expired):
            return work.deadline.exceeded()
        if isinstance(error, InputError):
            refused = from_input_error(error)
            return refused.at(failure.index) if len(work.inputs) > 1 else refused
        logger.error("Request %s: the engine of model %s failed.", work.id, model.name, exc_info=error)
        return EngineFailure(
            "engine_failure", f"The engine failed on this request to model {model.name!r}; the server's log has more."
        )
