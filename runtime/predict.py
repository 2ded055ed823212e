"""The verb `predict`: images or texts to labels, without a server.

neurotrails predict models/fashion-mnist examples/*.png
echo "The rocket reached orbit." | neurotrails predict models/newsgroups - --top-k 3
"""

import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.engines import load_engine
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import InputError
from runtime.labelled import HeadOpinion, LabelledPrediction, RankedLabel
from runtime.manifest import Manifest
from runtime.named_input import read_named
from runtime.predictor import Prediction, Predictor, Wish
from runtime.preprocess import Row


def predict(
    artifact: str,
    *inputs: Annotated[str, Parameter(allow_leading_hyphen=True)],
    engine: str = "auto",
    precision: str | None = None,
    heads: int | None = None,
    min_confidence: float | None = None,
    target_accuracy: float | None = None,
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
        precision: Precision to compute in, of those that the engine offers for the artifact. Default: the one it is
            stored in.
        heads: Let exactly this many heads vote. Default: all.
        min_confidence: Stop asking heads for an input once its vote is at least this sure. Default: never.
        target_accuracy: Stop as early as the artifact's table of early exits allows at this accuracy. Not together with
            heads or min_confidence.
        top_k: How many of the most probable labels to show.
        cores: Cores to compute on. Default: all that this process may use.
        accept_deepsparse_licence: Let `auto` choose DeepSparse, whose licence covers evaluation only.
        json: Print JSON.

    Raises:
        ArtifactError: The artifact is not what it says.
        EngineError: The engine cannot run it.
        InputError: An input cannot be predicted.
    """
    if top_k < 1:
        raise InputError("bad_top_k", f"top_k must be at least 1, not {top_k}.")
    opened = Artifact.open(artifact)
    rows = [_prepare(opened, *each) for each in zip(inputs, read_named(inputs), strict=True)]
    options = EngineOptions(
        cores=core_budget().cores if cores is None else cores,
        precision=precision,
        batch_sizes=(1,) if len(rows) == 1 else (1, 4, 16),
        accept_deepsparse_licence=accept_deepsparse_licence,
    )
    wish = Wish(heads=heads, min_confidence=min_confidence, target_accuracy=target_accuracy)
    loaded = load_engine(opened, engine, options)
    try:
        predictions = Predictor(opened, loaded).predict(rows, wish).predictions
    finally:
        loaded.close()
    for note in loaded.notes:
        print(f"{loaded.name}: {note}", file=sys.stderr)
    labelled = [label(opened.manifest, prediction, top_k) for prediction in predictions]
    if json:
        print(as_json(loaded, inputs, labelled))
        return
    for name, prediction in zip(inputs, labelled, strict=True):
        print("\n".join(prediction.lines(name)))


def _prepare(artifact: Artifact, name: str, data: bytes) -> Row:
    try:
        return artifact.preprocessor.prepare(data)
    except InputError as error:
        raise InputError(error.code, f"{name!r}: {error}") from error


def label(manifest: Manifest, prediction: Prediction, top_k: int) -> LabelledPrediction:
    """Put the labels of `manifest` in place of the arrays of a prediction, with the `top_k` most probable classes."""
    labels = manifest.labels
    top = [RankedLabel(labels[i], i, float(prediction.probabilities[i])) for i in prediction.top(top_k)]
    return LabelledPrediction(
        label=top[0].label,
        index=top[0].index,
        probability=top[0].probability,
        top_k=tuple(top),
        heads_used=prediction.heads_used,
        heads_total=prediction.heads_total,
        stopped_by=prediction.stopped_by,
        disagreement=prediction.disagreement,
        heads=tuple(
            HeadOpinion(head, labels[int(p.argmax())], float(p.max()))
            for head, p in enumerate(prediction.head_probabilities)
        ),
    )


def as_json(engine: Engine, inputs: Sequence[str], predictions: Sequence[LabelledPrediction]) -> str:
    """Return JSON with the fields of the server's reply; each prediction also names its input."""
    manifest = engine.artifact.manifest
    document = {
        "model": manifest.name,
        "version": manifest.version,
        "engine": engine.name,
        "precision": engine.precision,
        "vote": manifest.vote,
        "predictions": [
            {"input": name, **asdict(prediction)} for name, prediction in zip(inputs, predictions, strict=True)
        ],
    }
    return json_module.dumps(document, indent=2, ensure_ascii=False)
