"""Inference requests of the Open Inference Protocol: from a body to inputs, wanted outputs and parameters.

Every model takes one input tensor, named INPUT, whose datatype says what it holds:

    BYTES  [rows]                           image files, or texts in UTF-8, as the model takes them
    FP32   [rows, channels, height, width]  preprocessed images
    UINT8  [rows, height, width, 1 or 3]    decoded images of any size
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.manifest import ImagePreprocessing, Manifest
from runtime.preprocess import Input
from server.decode import Scalar, check_limits
from server.errors import TooLarge
from server.oip.codec import (
    Datatype,
    Tensor,
    decode_tensor,
    parse_json,
    read_shape,
    read_tensor,
    refuse,
    shown,
    split_body,
)
from server.settings import Settings

INPUT = "input"
TAKES: Mapping[str, tuple[Datatype, ...]] = {"image": ("BYTES", "FP32", "UINT8"), "text": ("BYTES",)}
"""The datatypes of INPUT by the modality of the model."""

MAX_ID_CHARACTERS = 256
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair, which JSON can write and UTF-8 cannot."""

REQUEST_FIELDS = ("id", "inputs", "outputs", "parameters", "model_name", "model_version")
"""The last two are in the path already; some clients write them here too."""
INPUT_FIELDS = ("name", "shape", "datatype", "parameters", "data")
INPUT_PARAMETERS = ("binary_data_size", "content_type")
OUTPUT_FIELDS = ("name", "parameters")
OUTPUT_PARAMETERS = ("binary_data", "classification")
PROTOCOL_PARAMETERS = ("binary_data_output", "timeout")
CONTENT_TYPES = ("base64", "str", "np")
"""`base64` is undone; the others, which some clients add, say what the datatype says."""


@dataclass(frozen=True)
class WantedOutput:
    """One output as the client asked for it."""

    name: str
    binary: bool
    classes: int | None = None
    """How many of the most probable classes to list as strings; None: the tensor itself."""


@dataclass(frozen=True)
class InferRequest:
    """A request that is well-formed; whether the model can grant its parameters is not checked yet."""

    id: str | None
    inputs: tuple[Input, ...]
    outputs: tuple[WantedOutput, ...] | None
    """None: all outputs that the prediction has."""
    binary: bool
    """Whether outputs are binary where the client did not say."""
    timeout_seconds: float | None
    wishes: Mapping[str, Scalar]
    """The parameters that are not the protocol's own, unchecked."""


def read_request(body: bytes, header_length: str | None, manifest: Manifest, settings: Settings) -> InferRequest:
    """Read the uncompressed body of a request to one model. Raises InvalidRequest or TooLarge.

    `header_length` is the value of Inference-Header-Content-Length, None where there is none.
    """
    head, binary = split_body(body, header_length)
    document = parse_json(head)
    _check_fields(document, REQUEST_FIELDS, "the request")
    parameters = _parameters(document, None, "the request")
    default_binary = _flag(parameters, "binary_data_output", False)
    tensor = _read_input(document.get("inputs"), binary, manifest, settings)
    inputs = _to_inputs(tensor, manifest)
    check_limits(inputs, settings)
    return InferRequest(
        id=_id(document.get("id")),
        inputs=inputs,
        outputs=_outputs(document.get("outputs"), default_binary),
        binary=default_binary,
        timeout_seconds=_timeout(parameters.get("timeout")),
        wishes={name: value for name, value in parameters.items() if name not in PROTOCOL_PARAMETERS},
    )


def _read_input(given: object, binary: memoryview, manifest: Manifest, settings: Settings) -> Tensor:
    """Read the one input tensor; base64 is undone."""
    takes = TAKES.get(manifest.modality, ())
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        refuse("bad_inputs", f"inputs must be a list of one tensor, named {INPUT!r}, not {shown(given)}.")
    [document] = given
    name = document.get("name")
    if name != INPUT:
        refuse("unknown_input", f"Model {manifest.name!r} has no input {shown(name)}; its only one is {INPUT!r}.")
    _check_fields(document, INPUT_FIELDS, f"input {INPUT!r}")
    datatype = document.get("datatype")
    if datatype not in takes:
        refuse(
            "bad_datatype",
            f"Input {INPUT!r} of model {manifest.name!r} takes datatype {' or '.join(takes)}, not {shown(datatype)}.",
        )
    shape = read_shape(INPUT, document.get("shape"))
    _check_shape(shape, datatype, manifest, settings)  # before anything of that size is made
    parameters = _parameters(document, INPUT_PARAMETERS, f"input {INPUT!r}")
    size = parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            refuse("bad_binary_size", f"{len(binary)} bytes follow the JSON, but no input has a binary_data_size.")
        tensor = read_tensor(INPUT, datatype, shape, document.get("data"))
    else:
        if document.get("data") is not None:
            refuse("bad_data", f"Input {INPUT!r} has both data and binary_data_size; send one of them.")
        if type(size) is not int or size != len(binary):
            refuse(
                "bad_binary_size",
                f"binary_data_size is {shown(size)}, but {len(binary)} bytes follow the JSON; the header "
                "Inference-Header-Content-Length gives the length of the JSON.",
            )
        tensor = decode_tensor(INPUT, datatype, shape, binary)
    content_type = parameters.get("content_type")
    if size is None and datatype == "BYTES" and manifest.modality == "image" and content_type != "base64":
        refuse(
            "bad_content_type",
            "JSON cannot hold the bytes of an image file: send them as base64 with the input's parameters "
            '{"content_type": "base64"}, or as binary data.',
        )
    return _undo_base64(tensor, content_type)


def _check_shape(shape: tuple[int, ...], datatype: Datatype, manifest: Manifest, settings: Settings) -> None:
    spec = manifest.preprocessing
    rows = shape[0]
    match datatype:
        case "FP32" if isinstance(spec, ImagePreprocessing):
            fits = shape[1:] == (len(spec.mean), spec.height, spec.width)
            wanted = f"[rows, {len(spec.mean)}, {spec.height}, {spec.width}]"
        case "UINT8":
            fits = len(shape) == 4 and shape[3] in (1, 3)
            wanted = "[rows, height, width, 1 or 3]"
        case _:
            fits = shape in ((rows,), (rows, 1))
            wanted = "[rows]"
    if not fits:
        refuse("bad_shape", f"Input {INPUT!r} of datatype {datatype} has shape {wanted}, not {shown(list(shape))}.")
    if rows > settings.max_inputs:
        raise TooLarge("too_many_inputs", f"The request has {rows} inputs; the limit is {settings.max_inputs}.")


def _undo_base64(tensor: Tensor, content_type: Scalar) -> Tensor:
    if content_type is None:
        return tensor
    if content_type not in CONTENT_TYPES:
        refuse(
            "bad_content_type", f"content_type must be one of {', '.join(CONTENT_TYPES)}, not {shown(content_type)}."
        )
    if content_type != "base64" or not isinstance(tensor.values, tuple):
        return tensor
    decoded = []
    for index, value in enumerate(tensor.values):
        try:
            decoded.append(base64.b64decode(b"".join(value.split()), validate=True))
        except (binascii.Error, ValueError) as error:
            refuse("bad_base64", f"Element {index} of {tensor.name!r} is not base64: {error}.")
    return Tensor(tensor.name, tensor.datatype, tensor.shape, tuple(decoded))


def _to_inputs(tensor: Tensor, manifest: Manifest) -> tuple[Input, ...]:
    """One input for each row of the tensor."""
    if not isinstance(tensor.values, tuple):
        return tuple(tensor.values)  # views of the body
    if manifest.modality == "image":
        return tensor.values
    return tuple(_text(index, value) for index, value in enumerate(tensor.values))


def _text(index: int, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        refuse("not_a_text", f"Element {index} of {INPUT!r} is not valid UTF-8 (byte {error.start}).")


def _outputs(given: object, default_binary: bool) -> tuple[WantedOutput, ...] | None:
    if given is None or given == []:
        return None
    if not isinstance(given, list):
        refuse("bad_outputs", f"outputs must be a list, not {shown(given)}.")
    wanted: dict[str, WantedOutput] = {}
    for document in given:
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            refuse("bad_outputs", f"Each of outputs must be an object with a name, not {shown(document)}.")
        name = document["name"]
        where = f"output {shown(name)}"
        if name in wanted:
            refuse("bad_outputs", f"The {where} is asked for more than once.")
        _check_fields(document, OUTPUT_FIELDS, where)
        parameters = _parameters(document, OUTPUT_PARAMETERS, where)
        classes = parameters.get("classification")
        if classes is not None and (type(classes) is not int or classes < 1):
            refuse("bad_classification", f"classification must be a whole number of at least 1, not {shown(classes)}.")
        wanted[name] = WantedOutput(name, _flag(parameters, "binary_data", default_binary), classes)
    return tuple(wanted.values())


def _check_fields(document: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in document:
        if name not in known:
            refuse("unknown_field", f"There is no field {shown(name)} in {where}; there are: {', '.join(known)}.")


def _parameters(document: Mapping[str, Any], known: tuple[str, ...] | None, where: str) -> dict[str, Scalar]:
    given = document.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, dict):
        refuse("bad_parameter", f"parameters of {where} must be an object, not {shown(given)}.")
    for name, value in given.items():
        if name.startswith("shared_memory_"):
            refuse("bad_parameter", "Shared memory is not offered; send the data as JSON or as binary data.")
        if known is not None and name not in known:
            refuse(
                "unknown_parameter", f"There is no parameter {shown(name)} of {where}; there are: {', '.join(known)}."
            )
        if isinstance(value, dict | list):
            refuse("bad_parameter", f"Parameter {shown(name)} of {where} must be a single value, not {shown(value)}.")
    return {name: value for name, value in given.items() if value is not None}


def _flag(parameters: Mapping[str, Scalar], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        refuse("bad_parameter", f"{name} must be true or false, not {shown(value)}.")
    return value


def _id(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or len(given) > MAX_ID_CHARACTERS or SURROGATE.search(given):
        refuse("bad_id", f"id must be a string of at most {MAX_ID_CHARACTERS} characters, not {shown(given)}.")
    return given


def _timeout(given: Scalar) -> float | None:
    """Microseconds to seconds; 0 is how some clients say none."""
    if given is None:
        return None
    if type(given) is not int or not 0 <= given < 2**63:
        refuse("bad_timeout", f"timeout must be a whole number of microseconds, not {shown(given)}.")
    return given / 1e6 if given else None
