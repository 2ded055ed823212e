"""Replies of the Open Inference Protocol: from an `Answer` to output tensors, JSON and binary data.

`label`, `index` and `probabilities` are those of the calibrated vote; `head_probabilities` are the uncalibrated ones of
each head that voted, in voting order.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runtime.predictor import Prediction
from server.oip.codec import Datatype, Tensor, encode_tensor, refuse, shown, write_tensor
from server.oip.request import InferRequest, WantedOutput
from server.work import Answer

Rows = Sequence[Prediction]
Labels = Sequence[str]


def _label(rows: Rows, labels: Labels) -> Tensor:
    return _strings("label", (len(rows),), [labels[row.top(1)[0]] for row in rows])


def _index(rows: Rows, _: Labels) -> Tensor:
    return Tensor("index", "INT64", (len(rows),), np.array([row.top(1)[0] for row in rows], np.int64))


def _probabilities(rows: Rows, labels: Labels) -> Tensor:
    values = np.stack([row.probabilities for row in rows]).astype(np.float32)
    return Tensor("probabilities", "FP32", (len(rows), len(labels)), values)


def _head_probabilities(rows: Rows, _: Labels) -> Tensor:
    values = np.stack([row.head_probabilities for row in rows]).astype(np.float32)
    return Tensor("head_probabilities", "FP32", values.shape, values)


def _heads_used(rows: Rows, _: Labels) -> Tensor:
    return Tensor("heads_used", "INT64", (len(rows),), np.array([row.heads_used for row in rows], np.int64))


def _stopped_by(rows: Rows, _: Labels) -> Tensor:
    return _strings("stopped_by", (len(rows),), [row.stopped_by for row in rows])


OUTPUTS: Mapping[str, tuple[Datatype, Callable[[Rows, Labels], Tensor]]] = {
    "label": ("BYTES", _label),
    "index": ("INT64", _index),
    "probabilities": ("FP32", _probabilities),
    "head_probabilities": ("FP32", _head_probabilities),
    "heads_used": ("INT64", _heads_used),
    "stopped_by": ("BYTES", _stopped_by),
}
"""Every output: its datatype, and how it is made of the predictions of all rows."""


def choose_outputs(request: InferRequest, heads_vary: bool) -> tuple[WantedOutput, ...]:
    """The outputs of a request. Raises InvalidRequest for one that does not exist or cannot be given.

    `heads_vary`: rows may differ in how many heads vote, so that `head_probabilities` has no shape.
    """
    if request.outputs is None:
        given = [name for name in OUTPUTS if not (heads_vary and name == "head_probabilities")]
        return tuple(WantedOutput(name, request.binary) for name in given)
    for output in request.outputs:
        if output.name not in OUTPUTS:
            refuse("unknown_output", f"There is no output {shown(output.name)}; there are: {', '.join(OUTPUTS)}.")
        if output.classes is not None and output.name != "probabilities":
            refuse("bad_classification", f"Only output 'probabilities' takes classification, not {output.name!r}.")
        if output.name == "head_probabilities" and heads_vary:
            refuse(
                "bad_outputs",
                "head_probabilities needs the same heads for every input, but early exit or shedding may leave some "
                "out; ask for an exact number with the parameter heads.",
            )
    return request.outputs


def write_reply(answer: Answer, request_id: str, outputs: Sequence[WantedOutput]) -> tuple[bytes, int | None]:
    """Build the body of a reply; also the length of its JSON where binary data follows."""
    manifest = answer.card.manifest
    documents, binary = [], []
    for wanted in outputs:
        if wanted.classes is None:
            tensor = OUTPUTS[wanted.name][1](answer.predictions, manifest.labels)
        else:
            tensor = _classification(answer.predictions, manifest.labels, wanted.classes)
        document: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if wanted.binary:
            data = encode_tensor(tensor)
            document["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            document["data"] = write_tensor(tensor)
        documents.append(document)
    head = json.dumps(
        {"model_name": manifest.name, "model_version": manifest.version, "id": request_id, "outputs": documents},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    ).encode()
    return b"".join([head, *binary]), len(head) if binary else None


def _classification(rows: Rows, labels: Labels, count: int) -> Tensor:
    """The most probable classes of each row, best first, each as `probability:index:label`."""
    classes = min(count, len(labels))
    values = [f"{row.probabilities[index]:f}:{index}:{labels[index]}" for row in rows for index in row.top(classes)]
    return _strings("probabilities", (len(rows), classes), values)


def _strings(name: str, shape: tuple[int, ...], values: Sequence[str]) -> Tensor:
    return Tensor(name, "BYTES", shape, tuple(value.encode() for value in values))
