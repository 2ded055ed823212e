"""What is done with each hostile artifact: all that this project does with one before and while it is served."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from runtime.artifact import Artifact
from runtime.engines import engine_class
from runtime.engines.base import EngineOptions
from runtime.errors import EngineError, InputError
from runtime.parity import heads_parity
from runtime.verify import check_counts, read_reference


def run_case(folder: Path, engines: list[str]) -> None:
    """Open, check and run an artifact in every engine. Raises NeurotrailsError; anything else is a finding."""
    artifact = Artifact.open(folder)
    check_counts(artifact)
    inputs, logits = read_reference(artifact)
    with suppress(InputError):  # of an artifact for tensors, or a tokenizer that knows none of the words
        artifact.preprocessor.collate([artifact.preprocessor.prepare(_sample(artifact))])
    problems = []
    for name in engines:
        try:
            engine = engine_class(name)(artifact, EngineOptions(cores=1, batch_sizes=(1,)))
            try:
                for _, parity in heads_parity(
                    engine, {key: t[:2] for key, t in inputs.items()}, [x[:2] for x in logits]
                ):
                    assert parity.worst >= 0
            finally:
                engine.close()
        except EngineError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def _sample(artifact: Artifact) -> bytes | str:
    if artifact.manifest.modality == "text":
        return "The planet orbits a star, said the driver of team 7: naïve!"
    file = io.BytesIO()
    Image.fromarray(np.full((9, 14), 128, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()
