"""The shapes of the Open Inference Protocol's requests and replies, as /openapi.json shows them."""

from typing import Any, Literal

from server.decode import Scalar
from server.oip.codec import Datatype
from server.oip.reply import OUTPUTS
from server.oip.request import INPUT, MAX_ID_CHARACTERS
from server.schema import Shape


class OpenErrorReply(Shape):
    """The one shape of errors."""

    error: str
    """One sentence for people."""


class LiveReply(Shape):
    """The process runs."""

    live: Literal[True]


class ReadyReply(Shape):
    """All models are warm."""

    ready: Literal[True]


class ModelReadyReply(Shape):
    """The model is warm."""

    name: str
    ready: Literal[True]


class ServerReply(Shape):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorReply(Shape):
    """Name, datatype and shape of an input or output; -1 is any size, and the first dimension is the rows."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, str] | None = None
    """Of the input: for each datatype that it takes, the shape and what it holds."""


class OpenModelReply(Shape):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorReply]
    outputs: list[TensorReply]


class DurationReply(Shape):
    """How often something was done, and the nanoseconds it took in total."""

    count: int
    ns: int


class InferenceStatisticsReply(Shape):
    """Requests of this protocol to one model."""

    success: DurationReply
    fail: DurationReply
    queue: DurationReply
    """Waiting for the engine."""
    compute_input: DurationReply
    """Decoding images, tokenizing texts."""
    compute_infer: DurationReply
    """Trunk, heads and vote."""
    compute_output: DurationReply
    """Writing the reply."""
    cache_hit: DurationReply
    cache_miss: DurationReply


class ModelStatisticsReply(Shape):
    """What one model has done since the start."""

    name: str
    version: str
    last_inference: int
    """Milliseconds since 1970."""
    inference_count: int
    """Rows predicted."""
    execution_count: int
    """Requests answered."""
    inference_stats: InferenceStatisticsReply
    batch_stats: list[dict[str, Any]]


class StatisticsReply(Shape):
    """What each model has done."""

    model_stats: list[ModelStatisticsReply]


class OutputReply(Shape):
    """One output tensor."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: list[str | int | float] | None = None
    """All elements, flat; not there where they follow the JSON as binary data."""
    parameters: dict[str, Scalar] | None = None
    """`binary_data_size` of binary data."""


class InferReply(Shape):
    """The outputs of a request. Binary data follows the JSON where Inference-Header-Content-Length gives its length."""

    model_name: str
    model_version: str
    id: str
    """That of the request, or one made up."""
    outputs: list[OutputReply]


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
_TENSOR = _object(
    ["name", "datatype", "shape"],
    name={"const": INPUT},
    datatype={"enum": ["BYTES", "FP32", "UINT8"]},
    shape={"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
    parameters=_PARAMETERS,
    data={"type": "array", "description": "All elements, flat or nested; without it, binary data follows the JSON."},
)
_OUTPUT = _object(["name"], name={"enum": list(OUTPUTS)}, parameters=_PARAMETERS)

INFER_BODY: dict[str, Any] = {
    "required": True,
    "description": (
        "One input tensor. Binary data may follow the JSON, whose length is then in Inference-Header-Content-Length; "
        "the body may be compressed with gzip or deflate."
    ),
    "content": {
        "application/json": {
            "schema": _object(
                ["inputs"],
                id={"type": "string", "maxLength": MAX_ID_CHARACTERS},
                inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": _TENSOR},
                outputs={"type": "array", "items": _OUTPUT},
                parameters=_PARAMETERS,
                model_name={"type": "string"},
                model_version={"type": "string"},
            ),
            "example": {
                "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [1], "data": ["The goalkeeper saved it."]}],
                "outputs": [{"name": "label"}],
            },
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
"""The request body of infer."""

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "name": {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},
    "version": {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}},
}
