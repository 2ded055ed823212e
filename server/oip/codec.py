"""JSON and tensors as the Open Inference Protocol writes them, with the binary tensor extension.

A body is one JSON object; binary tensors follow it, in the order of the JSON, without padding: numbers are
little-endian and row-major, and each element of a BYTES tensor has its length in front as an unsigned 32-bit integer.
Nothing here raises anything but InvalidRequest, and TooLarge for JSON of too many values.
"""

import json
import math
import reprlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Never

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidRequest, TooLarge

Datatype = Literal["BYTES", "FP32", "INT64", "UINT8"]

NUMBERS: Mapping[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
}
"""Datatype -> layout of one number, for all datatypes that are numbers."""

MAX_VALUES = 250_000
"""Most values in one JSON: each takes a Python object, and no other request is served while they are made."""
MAX_DIMENSIONS = 8
MAX_SIZE = 2**31 - 1

_LENGTH = struct.Struct("<I")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 3
_SHORT.maxlist = MAX_DIMENSIONS


@dataclass(frozen=True)
class Tensor:
    """A named tensor."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    values: NDArray[np.generic] | tuple[bytes, ...]
    """Numbers as an array of `shape`; the elements of a BYTES tensor in row-major order."""


def refuse(code: str, message: str) -> Never:
    """Raise InvalidRequest."""
    raise InvalidRequest(code, message)


def shown(value: object) -> str:
    """A value as an error may repeat it: on one line and short, however large or deep it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """Split a body into its JSON and its binary data; `header` is that of Inference-Header-Content-Length."""
    if header is None:
        return body, memoryview(b"")
    if not (header.isascii() and header.isdecimal() and len(header) <= 18):
        refuse("bad_header_length", f"Inference-Header-Content-Length must be a whole number, not {shown(header)}.")
    if int(header) > len(body):
        refuse(
            "bad_header_length",
            f"Inference-Header-Content-Length is {int(header)}, but the body, uncompressed, has {len(body)} bytes.",
        )
    return body[: int(header)], memoryview(body)[int(header) :]


def parse_json(data: bytes) -> dict[str, Any]:
    """Read one JSON object. NaN and infinite numbers are refused. Raises InvalidRequest, or TooLarge beyond MAX_VALUES.

    The parser bounds the depth; whoever reads the object knows how deep each of its fields may be.
    """
    if data.count(b",") + data.count(b"[") > MAX_VALUES:
        raise TooLarge(
            "too_many_values", f"The JSON holds more than {MAX_VALUES} values; send large tensors as binary data."
        )
    try:
        document = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidRequest("bad_json", "The JSON nests too many lists or objects inside each other.") from error
    except ValueError as error:
        raise InvalidRequest("bad_json", f"The request is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        refuse("bad_json", f"The JSON must be an object, not {shown(document)}.")
    return document


def read_shape(name: str, value: object) -> tuple[int, ...]:
    """Read the shape of a tensor that is not empty."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_DIMENSIONS:
        refuse(
            "bad_shape", f"Tensor {name!r}: shape must be a list of 1 to {MAX_DIMENSIONS} sizes, not {shown(value)}."
        )
    for size in value:
        if type(size) is not int or not 1 <= size <= MAX_SIZE:
            refuse(
                "bad_shape", f"Tensor {name!r}: each size of its shape must be from 1 to {MAX_SIZE}, not {shown(size)}."
            )
    return tuple(value)


def decode_tensor(name: str, datatype: Datatype, shape: tuple[int, ...], data: memoryview) -> Tensor:
    """Read a tensor from its binary data; numbers are not copied."""
    count = math.prod(shape)
    layout = NUMBERS.get(datatype)
    if layout is None:
        return Tensor(name, datatype, shape, _decode_elements(name, count, data))
    if len(data) != count * layout.itemsize:
        refuse(
            "bad_binary_size",
            f"Tensor {name!r} of shape {shown(list(shape))} and datatype {datatype} needs {count * layout.itemsize} "
            f"bytes of binary data, not {len(data)}.",
        )
    return Tensor(name, datatype, shape, np.frombuffer(data, layout).reshape(shape))


def read_tensor(name: str, datatype: Datatype, shape: tuple[int, ...], data: object) -> Tensor:
    """Read a tensor from its JSON `data`: a flat list, or lists nested as its shape is."""
    if not isinstance(data, list):
        refuse("bad_data", f"Tensor {name!r}: data must be a list, not {shown(data)}.")
    values = _flatten(name, shape, data)
    if len(values) != math.prod(shape):
        refuse(
            "bad_shape",
            f"Tensor {name!r}: shape {shown(list(shape))} holds {math.prod(shape)} elements, but data has "
            f"{len(values)}.",
        )
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _strings(name, values))
    return Tensor(name, datatype, shape, _numbers(name, datatype, values).reshape(shape))


def encode_tensor(tensor: Tensor) -> bytes:
    """Write the binary data of a tensor."""
    if isinstance(tensor.values, tuple):
        return b"".join(chain.from_iterable((_LENGTH.pack(len(value)), value) for value in tensor.values))
    return np.ascontiguousarray(tensor.values, NUMBERS[tensor.datatype]).tobytes()


def write_tensor(tensor: Tensor) -> list[Any]:
    """Write the JSON `data` of a tensor, flat; the elements of a BYTES tensor must be UTF-8."""
    if isinstance(tensor.values, tuple):
        return [value.decode() for value in tensor.values]
    values = np.asarray(tensor.values)
    if tensor.datatype == "FP32":  # the shortest text that reads as the same float32, not the float64 behind it
        return [float(str(value)) for value in values.ravel()]
    flat: list[Any] = values.ravel().tolist()
    return flat


def _refuse_constant(constant: str) -> Never:
    refuse("bad_json", f"The JSON holds {constant}, which is no number of JSON; only finite numbers are taken.")


def _decode_elements(name: str, count: int, data: memoryview) -> tuple[bytes, ...]:
    elements: list[bytes] = []
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0] if start <= len(data) else len(data) + 1
        if position > len(data):
            refuse(
                "bad_binary_size",
                f"Tensor {name!r}: element {len(elements)} reaches beyond the tensor's {len(data)} bytes of binary "
                "data; each element is a length in 4 bytes, little-endian, and then its bytes.",
            )
        elements.append(bytes(data[start:position]))
        if len(elements) > count:
            break
    if len(elements) != count:
        found = f"more than {count}" if len(elements) > count else len(elements)
        refuse("bad_shape", f"Tensor {name!r}: its shape holds {count} elements, but its binary data has {found}.")
    return tuple(elements)


def _flatten(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    """Flatten nested lists, which must be nested as `shape` says; flat ones pass."""
    lengths = [len(data)]
    while any(isinstance(value, list) for value in data):
        if len(lengths) == MAX_DIMENSIONS:
            refuse("bad_data", f"Tensor {name!r}: data nests lists deeper than {MAX_DIMENSIONS} levels.")
        if not all(isinstance(value, list) for value in data) or len({len(value) for value in data}) != 1:
            refuse("bad_data", f"Tensor {name!r}: data must nest lists of equal lengths, as a tensor does.")
        lengths.append(len(data[0]))
        data = list(chain.from_iterable(data))
    if len(lengths) > 1 and tuple(lengths) != shape:
        refuse("bad_shape", f"Tensor {name!r}: data nests lists as shape {lengths}, but shape is {shown(list(shape))}.")
    return data


def _strings(name: str, values: Sequence[Any]) -> tuple[bytes, ...]:
    for value in values:
        if not isinstance(value, str):
            refuse("bad_data", f"Tensor {name!r} is of datatype BYTES: data must hold strings, not {shown(value)}.")
    try:
        return tuple(value.encode() for value in values)
    except UnicodeEncodeError as error:
        raise InvalidRequest("bad_data", f"Tensor {name!r}: data holds half of a surrogate pair.") from error


def _numbers(name: str, datatype: str, values: list[Any]) -> NDArray[np.generic]:
    layout = NUMBERS[datatype]
    whole = layout.kind in "iu"
    if not set(map(type, values)) <= ({int} if whole else {int, float}):
        wrong = next(value for value in values if type(value) is not int and (whole or type(value) is not float))
        wanted = "whole numbers" if whole else "numbers"
        refuse("bad_data", f"Tensor {name!r} is of datatype {datatype}: data must hold {wanted}, not {shown(wrong)}.")
    try:
        if whole:
            limits = np.iinfo(layout)
            if values and not (limits.min <= min(values) and max(values) <= limits.max):
                raise OverflowError
            return np.array(values, layout)
        with np.errstate(over="ignore"):
            numbers = np.array(values, np.float64).astype(layout)
        if not np.isfinite(numbers).all():
            raise OverflowError
    except OverflowError as error:
        raise InvalidRequest("bad_data", f"Tensor {name!r}: data holds a number that {datatype} cannot.") from error
    return numbers
