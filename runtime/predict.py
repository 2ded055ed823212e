"""The verb `predict`: images or texts to labels, without a server.

neurotrails predict models/fashion-mnist examples/*.png
echo "The rocket reached orbit." | neurotrails predict models/newsgroups - --top-k 3
"""

import json as json_module
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import InputError
from runtime.manifest import Manifest
from runtime.predictor import Prediction, Predictor, Wish
from runtime.preprocess import Row

STDIN = "-"


def predict(
    artifact: str,
    *inputs: Annotated[str, Parameter(allow_leading_hyphen=True)],
    engine: str = "auto",
    heads: int | None = None,
    min_confidence: float | None = None,
    top_k: int = 1,
    cores: int | None = None,
    accept_deepsparse_licence: bool = False,
    json: bool = False,
) -> None:
    """Predict images or texts without a server.

    Args:
        artifact: Folder of the artifact.
        inputs: Files to predict: images, or texts in UTF-8; - is the standard input.
        engine: Engine that computes: auto (what tune chose here, else native where it can), deepsparse, native,
            onnxruntime or openvino.
        heads: Let exactly this many heads vote. Default: all.
        min_confidence: Stop asking heads for an input once its vote is at least this sure. Default: never.
        top_k: How many of the most probable labels to show.
        cores: Cores to compute on. Default: all that this process may use.
        accept_deepsparse_licence: Let `auto` choose DeepSparse, whose licence covers evaluation only.
        json: Print JSON.

    Raises:
        ArtifactError: The artifact is not what it says.
        EngineError: The engine cannot run it.
        InputError: An input cannot be predicted.
    """
    if not inputs:
        raise InputError("empty_input", "There is nothing to predict. Name files, or - for the standard input.")
    if top_k < 1:
        raise InputError("bad_top_k", f"top_k must be at least 1, not {top_k}.")
    opened = Artifact.open(artifact)
    rows = [read_input(opened, name) for name in inputs]
    options = EngineOptions(
        cores=core_budget().cores if cores is None else cores,
        batch_sizes=(1,) if len(rows) == 1 else (1, 4, 16),
        accept_deepsparse_licence=accept_deepsparse_licence,
    )
    wish = Wish(heads=heads, min_confidence=min_confidence)
    loaded = load_engine(opened, engine, options)
    try:
        predictions = Predictor(opened, loaded).predict(rows, wish).predictions
    finally:
        loaded.close()
    for note in loaded.notes:
        print(f"{loaded.name}: {note}", file=sys.stderr)
    if json:
        print(as_json(loaded, inputs, predictions, top_k))
        return
    for name, prediction in zip(inputs, predictions, strict=True):
        print("\n".join(render(opened.manifest, name, prediction, top_k)))


def read_input(artifact: Artifact, name: str) -> Row:
    """Read and prepare the file `name`, or the standard input for `-`. Raises InputError naming the file."""
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise InputError("unreadable", f"{name!r} cannot be read: {error.strerror}.") from error
    try:
        return artifact.preprocessor.prepare(data)
    except InputError as error:
        raise InputError(error.code, f"{name!r}: {error}") from error


def render(manifest: Manifest, name: str, prediction: Prediction, top_k: int) -> list[str]:
    """Lines for people: the vote, how it came about, and what each head says."""
    differ = "" if prediction.disagreement is None else f", disagreement {prediction.disagreement:.2f}"
    vote = ", ".join(f"{manifest.labels[i]} {prediction.probabilities[i]:.1%}" for i in prediction.top(top_k))
    voters = f"{prediction.heads_used} of {prediction.heads_total} heads ({prediction.stopped_by}){differ}"
    lines = [f"{name}: {vote}; {voters}"]
    for head, probabilities in enumerate(prediction.head_probabilities):
        best = int(probabilities.argmax())
        lines.append(f"  head {head}: {manifest.labels[best]} {probabilities[best]:.1%}")
    return lines


def as_json(engine: Engine, inputs: Sequence[str], predictions: Sequence[Prediction], top_k: int) -> str:
    """Return JSON with the fields of the server's reply; each prediction also names its input."""
    manifest = engine.artifact.manifest
    document = {
        "model": manifest.name,
        "version": manifest.version,
        "engine": engine.name,
        "precision": engine.precision,
        "vote": manifest.vote,
        "predictions": [
            {"input": name, **_fields(manifest, prediction, top_k)}
            for name, prediction in zip(inputs, predictions, strict=True)
        ],
    }
    return json_module.dumps(document, indent=2, ensure_ascii=False)


def _fields(manifest: Manifest, prediction: Prediction, top_k: int) -> dict[str, Any]:
    top = [_opinion(manifest, prediction.probabilities, index) for index in prediction.top(top_k)]
    return {
        **top[0],
        "top_k": top,
        "heads_used": prediction.heads_used,
        "heads_total": prediction.heads_total,
        "stopped_by": prediction.stopped_by,
        "disagreement": prediction.disagreement,
        "heads": [
            {"head": head, "label": manifest.labels[int(p.argmax())], "probability": float(p.max())}
            for head, p in enumerate(prediction.head_probabilities)
        ],
    }


def _opinion(manifest: Manifest, probabilities: Any, index: int) -> dict[str, Any]:
    return {"label": manifest.labels[index], "index": index, "probability": float(probabilities[index])}
