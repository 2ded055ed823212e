"""The served models: found in the models folder, checked, loaded on an engine, warmed, looked up by name."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from runtime.artifact import MANIFEST, Artifact
from runtime.cores import core_budget
from runtime.costs import measure_costs, sample_inputs
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import NeurotrailsError
from runtime.predictor import Finished, Limit, Prediction, Predictions, Predictor, Wish
from runtime.preprocess import ImagePreprocessor, Row
from runtime.workers.engine import load_workers
from server.admission import Costs, Policy
from server.batcher import Batcher
from server.errors import InvalidRequest, StartupError, UnknownModel
from server.metrics import Observer
from server.settings import Settings
from server.work import Modality, ModelCard

PLURAL = {"image": "images", "text": "texts"}


COSTS_BUDGET_SECONDS = 0.2
"""Time to measure what a model costs, for each length of texts; a few rounds are measured in any case."""
OVERHEAD_RUNS = 5


@dataclass(frozen=True)
class ServedModel:
    """A warm model with its line, and the threads that compute, one for each call that its engine can use at a time."""

    card: ModelCard
    predictor: Predictor
    costs: Costs
    policy: Policy
    batcher: Batcher
    pool: ThreadPoolExecutor

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.card.manifest.name

    async def close(self) -> None:
        """Finish the batches, end the threads and release the engine."""
        await self.batcher.drained()
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.predictor.engine.close()


class Models:
    """The served models by name."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """What clients may know of each model, in order of name."""
        return tuple(model.card for _, model in sorted(self._models.items()))

    def resolve(self, name: str | None, modality: Modality) -> ServedModel:
        """Find the model called `name`, or the only one of `modality`. Raises UnknownModel or InvalidRequest."""
        if name is not None:
            return self._named(name, modality)
        fitting = [model for model in self._models.values() if model.card.manifest.modality == modality]
        if not fitting:
            raise InvalidRequest(
                "no_default_model", f"No model takes {PLURAL[modality]}; the models are: {self._listed()}."
            )
        if len(fitting) > 1:
            names = ", ".join(sorted(model.name for model in fitting))
            raise InvalidRequest(
                "no_default_model", f"Several models take {PLURAL[modality]}; choose one with model=: {names}."
            )
        return fitting[0]

    def candidates(self, name: str | None) -> tuple[ServedModel, ...]:
        """The models that a request may be for whose inputs are not known yet: none where there is no such model."""
        return tuple(model for key, model in self._models.items() if name in (None, key))

    async def close(self) -> None:
        """Close all models."""
        for model in self._models.values():
            await model.close()

    def _named(self, name: str, modality: Modality) -> ServedModel:
        model = self._models.get(name)
        if model is None:
            raise UnknownModel("unknown_model", f"There is no model {name[:100]!r}; the models are: {self._listed()}.")
        takes = model.card.manifest.modality
        if takes != modality:
            article = {"image": "an image", "text": "a text"}[modality]
            raise InvalidRequest(
                "wrong_type", f"Model {name!r} takes {PLURAL.get(takes, takes)}, but the request holds {article}."
            )
        return model

    def _listed(self) -> str:
        return ", ".join(f"{card.manifest.name} ({PLURAL[card.manifest.modality]})" for card in self.cards)


def open_artifacts(settings: Settings) -> list[Artifact]:
    """Open and check every artifact in the models folder. Raises StartupError naming the one that is broken."""
    folder = settings.models
    if not folder.is_dir():
        raise StartupError(f"The models folder {str(folder)!r} does not exist. Point NEUROTRAILS_MODELS to one.")
    found: dict[str, Artifact] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path / MANIFEST).is_file():
            continue
        try:
            artifact = Artifact.open(path)
        except NeurotrailsError as error:
            raise StartupError(f"Model {str(path)!r} cannot be served: {error}") from error
        name = artifact.manifest.name
        if name in found:
            raise StartupError(f"{str(found[name].folder)!r} and {str(path)!r} both hold a model named {name!r}.")
        if artifact.manifest.modality == "tensor":
            raise StartupError(f"Model {str(path)!r} takes tensors; this server takes images and texts. Remove it.")
        found[name] = artifact
    if not found:
        raise StartupError(f"The models folder {str(folder)!r} holds no artifact (a subfolder with a {MANIFEST}).")
    return list(found.values())


def load_models(artifacts: Sequence[Artifact], settings: Settings, observer: Observer) -> Models:
    """Load and warm every artifact: compiles, so it takes seconds. Raises StartupError naming the one that failed."""
    modalities = [artifact.manifest.modality for artifact in artifacts]
    return Models(
        [_load(artifact, settings, observer, is_default=modalities.count(artifact.manifest.modality) == 1)
         for artifact in artifacts]
    )  # fmt: skip


def _load(artifact: Artifact, settings: Settings, observer: Observer, *, is_default: bool) -> ServedModel:
    options = EngineOptions(
        cores=settings.cores or core_budget().cores,
        batch_sizes=settings.batch_sizes,
        streams=settings.streams,
        accept_deepsparse_licence=settings.accept_deepsparse_licence,
    )
    try:
        preprocessor = artifact.preprocessor
        if isinstance(preprocessor, ImagePreprocessor):
            preprocessor.max_pixels = settings.max_pixels
        engine = _load_engine(artifact, settings, options)
        predictor = Predictor(artifact, engine)
        costs = _costs(predictor)
    except Exception as error:  # engines and file readers raise errors of many kinds; the remedy is the same
        raise StartupError(f"Model {str(artifact.folder)!r} cannot be served: {error}") from error
    name = artifact.manifest.name
    heads = len(artifact.manifest.heads)
    policy = Policy(
        floor=min(settings.min_heads or heads, heads),
        target_seconds=settings.latency_target_seconds,
        most_waiting=settings.max_waiting_rows,
        workers=engine.concurrency,
    )
    pool = ThreadPoolExecutor(engine.concurrency, thread_name_prefix=f"compute-{name}")
    batcher = Batcher(name, partial(_compute, predictor, pool), costs, policy, observer, tokens_of=preprocessor.tokens)
    return ServedModel(
        ModelCard(artifact.manifest, engine.info(), is_default, policy.floor), predictor, costs, policy, batcher, pool
    )


def _load_engine(artifact: Artifact, settings: Settings, options: EngineOptions) -> Engine:
    if not settings.engine_workers:
        return load_engine(artifact, settings.engine, options)
    return load_workers(
        artifact,
        settings.engine,
        options,
        workers=settings.engine_workers,
        call_timeout_seconds=settings.engine_timeout_seconds,
    )


def _costs(predictor: Predictor) -> Costs:
    """Measure what batches cost: the engine for each length of texts, and what the predictor adds to a single row."""
    engine = predictor.engine
    surfaces = {
        tokens: measure_costs(engine, budget_seconds=COSTS_BUDGET_SECONDS, tokens=tokens)
        for tokens in engine.lengths or (0,)
    }
    overhead = min(_overhead_seconds(predictor, min(surfaces)) for _ in range(OVERHEAD_RUNS))
    return Costs(surfaces, most_rows=max(engine.sizes), overhead_seconds=overhead)


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
