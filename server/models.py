"""The served models: found in the models folder, checked, loaded on an engine, warmed, looked up by name."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime.artifact import MANIFEST, Artifact
from runtime.cores import core_budget
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import NeurotrailsError
from runtime.predictor import Predictions, Predictor, Wish
from runtime.preprocess import ImagePreprocessor, Row
from server.errors import InvalidRequest, StartupError, UnknownModel
from server.settings import Settings
from server.work import Modality, ModelCard

PLURAL = {"image": "images", "text": "texts"}


@dataclass(frozen=True)
class ServedModel:
    """A warm model and the threads that compute on it, one for each call that its engine can usefully run at a time."""

    card: ModelCard
    predictor: Predictor
    pool: ThreadPoolExecutor

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.card.manifest.name

    def compute(self, rows: Sequence[Row], wish: Wish) -> tuple[float, Predictions]:
        """Predict; runs in a thread of `pool`. Also returns `time.perf_counter()` when it began."""
        started = time.perf_counter()
        return started, self.predictor.predict(rows, wish)

    def close(self) -> None:
        """End the threads and release the engine."""
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

    def close(self) -> None:
        """Close all models."""
        for model in self._models.values():
            model.close()

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


def load_models(artifacts: Sequence[Artifact], settings: Settings) -> Models:
    """Load and warm every artifact: compiles, so it takes seconds. Raises StartupError naming the one that failed."""
    modalities = [artifact.manifest.modality for artifact in artifacts]
    return Models(
        [_load(artifact, settings, is_default=modalities.count(artifact.manifest.modality) == 1)
         for artifact in artifacts]
    )  # fmt: skip


def _load(artifact: Artifact, settings: Settings, *, is_default: bool) -> ServedModel:
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
        engine = load_engine(artifact, settings.engine, options)
        predictor = Predictor(artifact, engine)
        reference = artifact.reference()
        predictor.predict_batch({spec.name: reference[f"input.{spec.name}"][:1] for spec in artifact.manifest.inputs})
    except Exception as error:  # engines and file readers raise errors of many kinds; the remedy is the same
        raise StartupError(f"Model {str(artifact.folder)!r} cannot be served: {error}") from error
    return ServedModel(
        ModelCard(artifact.manifest, engine.info(), is_default),
        predictor,
        ThreadPoolExecutor(engine.concurrency, thread_name_prefix=f"compute-{artifact.manifest.name}"),
    )
