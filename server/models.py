"""The served models: checked, loaded on an engine, warmed, looked up by name, closed after their last request."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.costs import CostSurface, measure_costs, sample_inputs
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions
from runtime.predictor import Finished, Limit, Prediction, Predictions, Predictor, Wish
from runtime.preprocess import ImagePreprocessor, Row
from runtime.tuning.records import Setup
from runtime.tuning.store import find_tuning
from runtime.workers.engine import load_workers
from server.admission import Costs, Policy
from server.batcher import Batcher
from server.catalog import Version
from server.errors import InvalidRequest, ServingError, UnknownModel
from server.metrics import Observer
from server.serving_file import Entry
from server.settings import Settings
from server.work import Modality, ModelCard

PLURAL = {"image": "images", "text": "texts"}

COSTS_BUDGET_SECONDS = 0.2
"""Time to measure what a model costs, for each length of texts; a few rounds are measured in any case."""
OVERHEAD_RUNS = 5


class Pins:
    """Counts who uses a model. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the model until the end of the block, also when another version takes its place."""
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def released(self) -> None:
        """Wait until nobody uses it."""
        await self._none.wait()


@dataclass(eq=False)
class ServedModel:
    """A warm model with its line, and the threads that compute, one for each call that its engine can use at a time."""

    card: ModelCard
    predictor: Predictor
    costs: Costs
    policy: Policy
    batcher: Batcher
    pool: ThreadPoolExecutor
    pins: Pins = field(default_factory=Pins)
    """A request pins the model that it was admitted for until it is answered."""
    replaced: int = 0
    """Replaced worker processes that have been reported."""

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.card.manifest.name

    async def close(self) -> None:
        """Wait for the last request and the last batch, end the threads and release the engine."""
        await self.pins.released()
        await self.batcher.drained()
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.predictor.engine.close()


class Models:
    """The served models by name, one version of each. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """What clients may know of each model, in order of name."""
        return tuple(model.card for _, model in sorted(self._models.items()))

    def put(self, model: ServedModel) -> ServedModel | None:
        """Serve a model from now on; return the one whose place it takes, which its requests still need."""
        before = self._models.get(model.name)
        self._models[model.name] = model
        self._choose_defaults()
        return before

    def remove(self, name: str) -> ServedModel:
        """Serve a model no longer; return it: its requests still need it."""
        removed = self._models.pop(name)
        self._choose_defaults()
        return removed

    def named(self, name: str) -> ServedModel:
        """Find a model. Raises UnknownModel."""
        model = self._models.get(name)
        if model is None:
            raise UnknownModel("unknown_model", f"There is no model {name[:100]!r}; the models are: {self._listed()}.")
        return model

    def resolve(self, name: str | None, modality: Modality) -> ServedModel:
        """Find the model called `name`, or the only one of `modality`. Raises UnknownModel or InvalidRequest."""
        if name is not None:
            return fitting(self.named(name), modality)
        found = [model for model in self._models.values() if model.card.manifest.modality == modality]
        if not found:
            raise InvalidRequest(
                "no_default_model", f"No model takes {PLURAL[modality]}; the models are: {self._listed()}."
            )
        if len(found) > 1:
            names = ", ".join(sorted(model.name for model in found))
            raise InvalidRequest(
                "no_default_model", f"Several models take {PLURAL[modality]}; choose one with model=: {names}."
            )
        return found[0]

    def candidates(self, name: str | None) -> tuple[ServedModel, ...]:
        """The models that a request may be for whose inputs are not known yet: none where there is no such model."""
        return tuple(model for key, model in self._models.items() if name in (None, key))

    async def close(self) -> None:
        """Close all models."""
        for model in self._models.values():
            await model.close()

    def _choose_defaults(self) -> None:
        """A model is the default where it is the only one of its modality."""
        counts = Counter(model.card.manifest.modality for model in self._models.values())
        for model in self._models.values():
            model.card = replace(model.card, is_default=counts[model.card.manifest.modality] == 1)

    def _listed(self) -> str:
        return ", ".join(f"{card.manifest.name} ({PLURAL[card.manifest.modality]})" for card in self.cards) or "none"


def fitting(model: ServedModel, modality: Modality) -> ServedModel:
    """Return the model, if it takes inputs of this modality. Raises InvalidRequest."""
    takes = model.card.manifest.modality
    if takes != modality:
        article = {"image": "an image", "text": "a text"}[modality]
        raise InvalidRequest(
            "wrong_type", f"Model {model.name!r} takes {PLURAL.get(takes, takes)}, but the request holds {article}."
        )
    return model


def load_model(version: Version, entry: Entry, settings: Settings, observer: Observer) -> ServedModel:
    """Check, load and warm a model: hashes and compiles, so it takes seconds. Raises ServingError."""
    try:
        return _load(version, entry, settings, observer)
    except Exception as error:  # engines and file readers raise errors of many kinds; the remedy is the same
        raise ServingError(f"Model {str(version.folder)!r} cannot be served: {error}") from error


def _load(version: Version, entry: Entry, settings: Settings, observer: Observer) -> ServedModel:
    artifact = Artifact.open(version.folder)
    if artifact.sha256 != version.sha256:
        raise ServingError("its manifest was replaced while it was being loaded.")
    options = EngineOptions(
        cores=settings.cores or core_budget().cores,
        precision=entry.precision,
        batch_sizes=settings.batch_sizes,
        streams=settings.streams,
        accept_deepsparse_licence=settings.accept_deepsparse_licence,
    )
    name, heads = artifact.manifest.name, len(artifact.manifest.heads)
    if entry.min_heads is not None and entry.min_heads > heads:
        raise ServingError(f"it has {heads} heads, so min_heads cannot be {entry.min_heads}.")
    preprocessor = artifact.preprocessor
    if isinstance(preprocessor, ImagePreprocessor):
        preprocessor.max_pixels = settings.max_pixels
    engine = _load_engine(artifact, entry.engine or settings.engine, settings, options)
    try:
        predictor = Predictor(artifact, engine)
        costs = _costs(predictor, settings)
        policy = Policy(
            floor=min(entry.min_heads or settings.min_heads or heads, heads),
            target_seconds=settings.latency_target_seconds,
            most_waiting=settings.max_waiting_rows,
            workers=engine.concurrency,
        )
        pool = ThreadPoolExecutor(engine.concurrency, thread_name_prefix=f"compute-{name}")
        compute = partial(_compute, predictor, pool)
        batcher = Batcher(name, compute, costs, policy, observer, tokens_of=preprocessor.tokens)
        card = ModelCard(artifact.manifest, engine.info(), is_default=False, min_heads=policy.floor)
    except BaseException:
        engine.close()
        raise
    return ServedModel(card, predictor, costs, policy, batcher, pool)


def _load_engine(artifact: Artifact, name: str, settings: Settings, options: EngineOptions) -> Engine:
    if not settings.engine_workers:
        return load_engine(artifact, name, options)
    return load_workers(
        artifact,
        name,
        options,
        workers=settings.engine_workers,
        call_timeout_seconds=settings.engine_timeout_seconds,
    )


def _costs(predictor: Predictor, settings: Settings) -> Costs:
    """What batches cost: of the engine as it was tuned, else as measured now, and of the predictor around it."""
    engine = predictor.engine
    surfaces = None if settings.engine_workers else _tuned_surfaces(engine, settings.cores or core_budget().cores)
    if surfaces is None:
        surfaces = {
            tokens: measure_costs(engine, budget_seconds=COSTS_BUDGET_SECONDS, tokens=tokens)
            for tokens in engine.lengths or (0,)
        }
    overhead = min(_overhead_seconds(predictor, min(surfaces)) for _ in range(OVERHEAD_RUNS))
    return Costs(surfaces, most_rows=max(engine.sizes), overhead_seconds=overhead)


def _tuned_surfaces(engine: Engine, cores: int) -> dict[int, CostSurface] | None:
    """What `tune` measured of this very engine, for all lengths and batch sizes; None if it did not."""
    tuning = find_tuning(engine.artifact, cores)
    options = engine.options
    setup = Setup(engine=engine.name, precision=engine.precision, cores=options.cores, streams=options.streams)
    for trial in () if tuning is None else tuning.trials:
        surfaces = {surface.tokens: surface for surface in trial.costs}
        sizes = {surface.batch_sizes for surface in trial.costs}
        same = (trial.setup, trial.version) == (setup, engine.version)
        if same and set(surfaces) == set(engine.lengths or (0,)) and sizes == {engine.sizes}:
            return surfaces
    return None


def _overhead_seconds(predictor: Predictor, tokens: int) -> float:
    """Time that one batch takes outside the engine."""
    inputs = sample_inputs(predictor.engine, 1, tokens)
    started = time.perf_counter()
    timing = predictor.predict_batch(inputs).timing
    elapsed = time.perf_counter() - started
    return elapsed - sum(timing.head_seconds) - (timing.trunk_seconds or 0.0) - (timing.network_seconds or 0.0)


async def _compute(
    predictor: Predictor,
    pool: ThreadPoolExecutor,
    rows: Sequence[Row],
    wishes: Sequence[Wish],
    limit: Limit | None,
    finished: Finished,
) -> Predictions:
    """Predict in a thread of the pool; what is finished early is reported on the event loop."""
    loop = asyncio.get_running_loop()

    def report(positions: Sequence[int], predictions: Sequence[Prediction]) -> None:
        loop.call_soon_threadsafe(finished, positions, predictions)

    return await loop.run_in_executor(pool, partial(predictor.predict, rows, wishes, limit=limit, finished=report))
