"""From configuration to data: what a run is fitted on, what is held out, and the preprocessing learned from it."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from runtime.manifest import ImagePreprocessing, TextPreprocessing
from runtime.preprocess import ImagePreprocessor, Preprocessor, TextPreprocessor
from training.checkpoint import Checkpoint, RunDescription
from training.config import TrainConfig, tokens_of
from training.data import Dataset, Examples, Split, load_dataset, split
from training.data.statistics import pixel_statistics
from training.data.tokenizer import train_tokenizer
from training.errors import CheckpointError, ConfigError

EVALUATION_BATCH = 256
"""Rows that are evaluated at once."""


def held_out_parts(checkpoint: Checkpoint) -> tuple[dict[str, Examples], Preprocessor]:
    """The parts of the run's data that its weights have not seen, by name, and the run's preprocessor.

    Raises CheckpointError when the data is not what the run was trained on.
    """
    return held_out(split_of(checkpoint)), open_preprocessor(checkpoint.description, checkpoint.tokenizer)


def split_of(checkpoint: Checkpoint) -> Split:
    """Load the run's data and divide it as the run did. Raises CheckpointError when it is other data by now."""
    description = checkpoint.description
    dataset = load_dataset(description.config.data)
    if dataset.sha256 != description.data_sha256:
        raise CheckpointError(
            f"The data has changed since {checkpoint.folder} was trained: sha256 {dataset.sha256[:12]} is not "
            f"{description.data_sha256[:12]}. Bring back the data, or train again."
        )
    return divide(dataset, description.config)


def held_out(parts: Split) -> dict[str, Examples]:
    """The parts that weights are not fitted on, by name; no `test` where the data has none."""
    named = {"select": parts.select, "calibrate": parts.calibrate, "report": parts.report}
    return named if parts.test is None else {**named, "test": parts.test}


def divide(dataset: Dataset, config: TrainConfig) -> Split:
    """Divide a data set as a run does; the same for all members of an ensemble."""
    seed = config.seed if config.split_seed is None else config.split_seed
    return split(dataset, held_out=config.data.held_out, seed=seed)


def open_preprocessor(description: RunDescription, tokenizer: Path) -> Preprocessor:
    """Return the preprocessor of a run; `tokenizer` is read for text only."""
    if isinstance(description.preprocessing, TextPreprocessing):
        return TextPreprocessor(description.preprocessing, Tokenizer.from_file(str(tokenizer)))
    return ImagePreprocessor(description.preprocessing)


@dataclass(frozen=True)
class Prepared:
    """Data and preprocessing of a new run."""

    description: RunDescription
    parts: Split
    preprocessor: Preprocessor
    tokenizer: str | None
    """Content of tokenizer.json (text)."""


def prepare(config: TrainConfig, command: str) -> Prepared:
    """Load and split the data, and fit what preprocessing learns from it (pixel statistics or tokenizer)."""
    dataset = load_dataset(config.data)
    parts = divide(dataset, config)
    preprocessing: ImagePreprocessing | TextPreprocessing
    preprocessor: Preprocessor
    tokenizer = None
    tokens = tokens_of(config.network)
    if tokens is not None:
        trained = train_tokenizer((str(text) for text in parts.fit.inputs), tokens.vocabulary)
        tokenizer = trained.to_str()
        preprocessing = TextPreprocessing(pad_id=0, lengths=tokens.lengths)
        preprocessor = TextPreprocessor(preprocessing, trained)
    else:
        preprocessing = _image_preprocessing(dataset, parts.fit)
        preprocessor = ImagePreprocessor(preprocessing)
    description = RunDescription(
        config=config,
        labels=dataset.labels,
        preprocessing=preprocessing,
        data_source=dataset.source,
        data_sha256=dataset.sha256,
        code_version=version("neurotrails"),
        command=command,
    )
    return Prepared(description, parts, preprocessor, tokenizer)


def _image_preprocessing(dataset: Dataset, fit: Examples) -> ImagePreprocessing:
    """Published pixel statistics, or else those of the fit part, rounded so that the manifest stays readable."""
    if dataset.image is None or isinstance(fit.inputs, tuple):
        raise ConfigError(f"The data set {dataset.name} holds no images.")
    mean, std = dataset.statistics or pixel_statistics(fit.inputs)
    return dataset.image.preprocessing(mean=mean, std=std)
