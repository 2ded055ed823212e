"""The shapes of replies and requests, as /openapi.json shows them. Fields are added, never renamed."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from runtime.manifest import EarlyExit, Metrics
from runtime.predictor import StopReason

MAX_TOP_K = 1000


class Shape(BaseModel):
    """Base of all shapes: nothing but the documented fields, and their docstrings in the schema."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ErrorReply(Shape):
    """The one shape of all errors."""

    error: str
    """One sentence for people."""
    code: str
    """A stable, machine-readable reason such as `image_too_large`."""
    id: str
    """Id of the request, as in the header X-Request-ID and in the server's log."""
    retry_after_ms: int | None = None
    """With code `overloaded` only: when there probably is room; more precise than the header Retry-After."""


class RankedLabel(Shape):
    """A class and its probability."""

    label: str
    index: int
    """Position of the class in the model's labels."""
    probability: float


class HeadOpinion(Shape):
    """What one head says on its own."""

    head: int
    """Position in voting order."""
    label: str
    """The head's most probable class."""
    probability: float
    """The head's own, uncalibrated probability of that class."""


class PredictionReply(Shape):
    """The answer for one input. Probabilities have six significant digits."""

    label: str
    index: int
    probability: float
    """Calibrated probability that the voting heads together give to the label."""
    top_k: list[RankedLabel]
    """The most probable classes, best first."""
    heads_used: int
    heads_total: int
    stopped_by: StopReason
    """Why it was that number of heads: all; requested (heads=); early_exit (min_confidence= or target_accuracy=);
    load: too much work waited; deadline: more heads would have taken longer than the timeouts allow."""
    disagreement: float | None
    """Fraction of the pairs of voting heads that differ in their top label; null for one head."""
    heads: list[HeadOpinion]


class TimingReply(Shape):
    """Milliseconds on the server, from the arrival of the request's last byte."""

    decode: float
    """Reading the body, decoding images, tokenizing texts."""
    queue: float
    """Waiting for the engine."""
    compute: float
    """Trunk, heads and vote."""
    total: float


class PredictReply(Shape):
    """One prediction per input, in the order of the inputs."""

    id: str
    model: str
    version: str
    engine: str
    precision: str
    """That the engine computes in."""
    vote: Literal["probabilities", "logits"]
    """What the heads' votes are the mean of."""
    predictions: list[PredictionReply]
    timing_ms: TimingReply


class ModelReply(Shape):
    """A served model."""

    name: str
    version: str
    modality: Literal["image", "text", "tensor"]
    """What it takes."""
    default: bool
    """It answers requests of its modality that name no model."""
    description: str
    labels: list[str]
    heads: int
    min_heads: int
    """Fewest heads that vote under load; the same as heads where none is ever shed."""
    vote: Literal["probabilities", "logits"]
    precision: str
    """That the engine computes in."""
    density: float
    """Fraction of the weights that the sparsity masks keep."""
    nonzero: int
    """Weights that are not zero, of those that the masks cover."""
    dense_macs: int
    """Multiply-adds per input if no zero were skipped."""
    effective_macs: int
    """Multiply-adds per input with a kept weight."""
    evaluation: list[Metrics]
    """Measured quality, and the split of the data it comes from."""
    early_exit: EarlyExit
    """Accuracy and mean number of heads for each min_confidence; what target_accuracy is looked up in."""
    engine: str
    engine_version: str
    cores: int
    notes: list[str]
    """Licence notes and warnings of the engine."""


class ModelsReply(Shape):
    """All served models."""

    models: list[ModelReply]


class StatusReply(Shape):
    """The state of the server."""

    status: Literal["alive", "ready"]


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


PARAMETERS = [
    _parameter("model", {"type": "string"}, "Name of the model; default: the only one that takes the input."),
    _parameter(
        "heads",
        {"type": "integer", "minimum": 1},
        "Exactly this many heads vote, the first in voting order, also under load; default: all.",
    ),
    _parameter(
        "min_confidence",
        {"type": "number", "minimum": 0, "maximum": 1},
        "Stop asking heads for an input once its calibrated vote is at least this sure; default: never.",
    ),
    _parameter(
        "target_accuracy",
        {"type": "number", "minimum": 0, "maximum": 1},
        "Like the min_confidence that asks the fewest heads of those in the model's table of early exits (see /models) "
        "with at least this accuracy. Not together with heads or min_confidence.",
    ),
    _parameter(
        "timeout_ms",
        {"type": "number", "exclusiveMinimum": 0},
        "Answer within this time after the headers arrived, or with 504; default and maximum: the server's settings.",
    ),
    _parameter(
        "top_k",
        {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 1},
        "How many of the most probable classes to list; at most all the model has.",
    ),
]
"""The query parameters of /predict; also accepted as form fields, or in JSON beside `inputs`."""

_BINARY = {"type": "string", "format": "binary"}
_FIELDS = {parameter["name"]: parameter["schema"] for parameter in PARAMETERS}
_NULLABLE_FIELDS = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in _FIELDS.items()}
_INPUT = {
    "oneOf": [
        {
            "type": "object",
            "required": ["image"],
            "additionalProperties": False,
            "properties": {"image": {"type": "string", "contentEncoding": "base64"}},
        },
        {
            "type": "object",
            "required": ["text"],
            "additionalProperties": False,
            "properties": {"text": {"type": "string"}},
        },
    ]
}

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": (
        "One or more inputs, all images or all texts. The content type is a hint: a body that is an image, or JSON "
        "with `inputs`, or else UTF-8 text, is recognised by its bytes, so plain `curl -d` works. "
        "Image formats: PNG, JPEG, WebP, GIF, BMP."
    ),
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {"file": {"type": "array", "minItems": 1, "items": _BINARY}, **_FIELDS},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "additionalProperties": False,
                "properties": {"inputs": {"type": "array", "minItems": 1, "items": _INPUT}, **_NULLABLE_FIELDS},
            },
            "example": {"inputs": [{"text": "The goalkeeper saved two penalties."}], "heads": 1},
        },
        "text/plain": {"schema": {"type": "string", "minLength": 1}},
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}
"""The request body of /predict."""
