"""The verbs `train` and `evaluate`.

neurotrails train recipes/fashion-mnist.yaml epochs=1 --run runs/first
neurotrails evaluate runs/first
"""

import shlex
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from runtime.files import atomic_write
from runtime.manifest import ImagePreprocessing, Metrics, TextPreprocessing
from runtime.preprocess import ImagePreprocessor, Preprocessor, TextPreprocessor
from training.batches import Batches
from training.calibration import calibrate
from training.checkpoint import Checkpoint, RunDescription, all_checkpoints
from training.config import TextEncoderConfig, TrainConfig, load_config
from training.data import Dataset, Examples, Split, load_dataset, split
from training.data.tokenizer import train_tokenizer
from training.errors import CheckpointError, ConfigError
from training.evaluate import collect_logits, measure
from training.loop import Trainer

EVALUATION_BATCH = 256


def train(recipe: str, *overrides: str, run: str, resume: bool = False, other_threads: bool = False) -> None:
    """Train a sparse multi-head network.

    Args:
        recipe: YAML recipe, such as recipes/fashion-mnist.yaml.
        overrides: Changes to the recipe, such as epochs=1 or sparsity.density=0.1.
        run: Folder of the run; checkpoints and metrics.jsonl are written there.
        resume: Go on from the newest checkpoint in the run folder.
        other_threads: Resume although the number of threads differs; the result then differs in its last bits.
    """
    config = load_config(recipe, overrides)
    folder = Path(run)
    checkpoints = all_checkpoints(folder)
    if checkpoints and not resume:
        raise CheckpointError(f"{folder} holds a run already. Pass --resume to go on with it, or name another folder.")
    data = prepare(config, shlex.join(["neurotrails", "train", recipe, *overrides, "--run", run]))
    fit = Batches(data.parts.fit, data.preprocessor, config.batch_size)
    select = Batches(data.parts.select, data.preprocessor, EVALUATION_BATCH)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(folder, data.description, fit, select, data.tokenizer)
    if checkpoints:
        trainer.resume(checkpoints[-1], other_threads=other_threads)
    weights = sum(trainer.masks.kept().values())
    total = sum(weight.numel() for weight in trainer.masks.weights.values())
    print(f"{config.name}: {weights:,} of {total:,} weights kept, {trainer.steps:,} steps.", file=sys.stderr)
    trainer.run()


def evaluate(checkpoint: str, *, part: str = "test") -> None:
    """Measure a checkpoint: each head, the vote, calibration before and after temperature scaling.

    Args:
        checkpoint: A run folder (its best checkpoint is taken) or a checkpoint folder.
        part: test, report, calibrate or select.
    """
    opened = Checkpoint.open(checkpoint)
    metrics = measure_part(opened, part)
    print(metrics.model_dump_json(indent=2))
    atomic_write(opened.folder / f"evaluation-{part}.json", metrics.model_dump_json(indent=1).encode())


def measure_part(checkpoint: Checkpoint, part: str) -> Metrics:
    """Metrics on one part, with the temperature fitted on the calibrate part."""
    parts, preprocessor = held_out_parts(checkpoint)
    if part not in parts:
        raise ConfigError(f"There is no part {part!r} of this data; choose one of {', '.join(parts)}.")
    network, _ = checkpoint.network()
    logits = {
        name: collect_logits(network, Batches(parts[name], preprocessor, EVALUATION_BATCH))
        for name in {"calibrate", part}
    }
    calibration = calibrate(logits["calibrate"], parts["calibrate"].targets, split="calibrate")
    return measure(logits[part], parts[part].targets, split=part, temperature=calibration.temperatures[-1])


def held_out_parts(checkpoint: Checkpoint) -> tuple[dict[str, Examples], Preprocessor]:
    """The parts of the run's data that its weights have not seen, by name, and the run's preprocessor.

    Raises CheckpointError when the data is not what the run was trained on.
    """
    description = checkpoint.description
    dataset = load_dataset(description.config.data)
    if dataset.sha256 != description.data_sha256:
        raise CheckpointError(
            f"The data has changed since {checkpoint.folder} was trained: sha256 {dataset.sha256[:12]} is not "
            f"{description.data_sha256[:12]}. Bring back the data, or train again."
        )
    parts = split(dataset, held_out=description.config.data.held_out, seed=description.config.seed)
    named = {"select": parts.select, "calibrate": parts.calibrate, "report": parts.report}
    if parts.test is not None:
        named["test"] = parts.test
    return named, open_preprocessor(description, checkpoint.tokenizer)


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
    parts = split(dataset, held_out=config.data.held_out, seed=config.seed)
    preprocessing: ImagePreprocessing | TextPreprocessing
    preprocessor: Preprocessor
    tokenizer = None
    if isinstance(config.network, TextEncoderConfig):
        trained = train_tokenizer((str(text) for text in parts.fit.inputs), config.network.vocabulary)
        tokenizer = trained.to_str()
        preprocessing = TextPreprocessing(pad_id=0, lengths=config.network.lengths)
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
    """Pixel statistics of the fit part, rounded so that the manifest stays readable."""
    if dataset.image is None:
        raise ConfigError(f"The data set {dataset.name} holds no images.")
    pixels = np.asarray(fit.inputs)
    axes = (0, 1, 2)
    mean = np.atleast_1d(pixels.mean(axis=axes, dtype=np.float64) / 255)
    std = np.atleast_1d(pixels.std(axis=axes, dtype=np.float64) / 255)
    return dataset.image.preprocessing(
        mean=tuple(round(float(value), 4) for value in mean), std=tuple(round(float(value), 4) for value in std)
    )
