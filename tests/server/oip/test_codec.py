"""Tensors survive the wire exactly, in JSON and in binary; garbage raises InvalidRequest and nothing else."""

import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.errors import InvalidRequest, TooLarge
from server.oip.codec import (
    MAX_DIMENSIONS,
    MAX_VALUES,
    NUMBERS,
    Datatype,
    Tensor,
    decode_tensor,
    encode_tensor,
    parse_json,
    read_shape,
    read_tensor,
    shown,
    split_body,
    write_tensor,
)

DATATYPES: list[Datatype] = ["FP32", "INT64", "UINT8", "BYTES"]
SHAPES = hnp.array_shapes(max_dims=4, max_side=4)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype: Datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        count = math.prod(shape)
        return Tensor("t", "BYTES", shape, tuple(draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))))
    values = draw(hnp.arrays(NUMBERS[datatype], shape, elements={"allow_nan": False, "allow_infinity": False}
                             if datatype == "FP32" else None))  # fmt: skip
    return Tensor("t", datatype, shape, values)


def same(one: Tensor, two: Tensor) -> bool:
    if isinstance(one.values, tuple):
        return one.values == two.values
    assert not isinstance(two.values, tuple)
    return one.values.dtype == two.values.dtype and np.array_equal(one.values, two.values)


@given(tensors())
def test_binary_round_trip(tensor: Tensor) -> None:
    data = encode_tensor(tensor)
    assert same(decode_tensor("t", tensor.datatype, tensor.shape, memoryview(data)), tensor)


@given(tensors())
def test_json_round_trip_flat_and_nested(tensor: Tensor) -> None:
    if isinstance(tensor.values, tuple):
        text = [value.decode("latin-1") for value in tensor.values]
        tensor = Tensor("t", "BYTES", tensor.shape, tuple(value.encode() for value in text))
        nested: Any = np.array(text, object).reshape(tensor.shape).tolist()
    else:
        nested = tensor.values.tolist()
    flat = json.loads(json.dumps(write_tensor(tensor)))
    assert same(read_tensor("t", tensor.datatype, tensor.shape, flat), tensor)
    assert same(read_tensor("t", tensor.datatype, tensor.shape, nested), tensor)


def test_numbers_are_views_of_the_body() -> None:
    body = bytearray(b"x" + np.arange(6, dtype="<f4").tobytes())
    tensor = decode_tensor("t", "FP32", (2, 3), memoryview(body)[1:])
    assert isinstance(tensor.values, np.ndarray)
    body[1:5] = struct.pack("<f", 9)
    assert tensor.values[0, 0] == 9


def test_the_bytes_are_those_of_the_specification() -> None:
    assert encode_tensor(Tensor("t", "BYTES", (2,), (b"ab", b""))) == b"\x02\0\0\0ab\0\0\0\0"
    assert encode_tensor(Tensor("t", "INT64", (1,), np.array([-2]))) == b"\xfe" + b"\xff" * 7
    assert encode_tensor(Tensor("t", "FP32", (1, 2), np.array([[1.0, -2.0]]).T.T)) == struct.pack("<2f", 1, -2)


@given(st.sampled_from(DATATYPES), SHAPES, st.binary(max_size=80))
def test_any_binary_data_is_read_or_refused(datatype: Datatype, shape: tuple[int, ...], data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert encode_tensor(decode_tensor("t", datatype, shape, memoryview(data))) == data


@given(st.sampled_from(DATATYPES), SHAPES, JSON_VALUES)
def test_any_json_data_is_read_or_refused(datatype: Datatype, shape: tuple[int, ...], data: Any) -> None:
    with contextlib.suppress(InvalidRequest):
        tensor = read_tensor("t", datatype, shape, data)
        assert len(np.ravel(tensor.values)) == math.prod(shape)


@given(st.binary() | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parse_json(data) == json.loads(data)


@given(JSON_VALUES)
def test_any_shape_is_read_or_refused(value: Any) -> None:
    with contextlib.suppress(InvalidRequest):
        assert list(read_shape("t", value)) == value


@given(st.binary(max_size=20), st.text() | st.integers().map(str))
def test_any_header_splits_or_is_refused(body: bytes, header: str) -> None:
    with contextlib.suppress(InvalidRequest):
        head, binary = split_body(body, header)
        assert head + bytes(binary) == body
        assert len(head) == int(header)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be an object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}", "nests too many"),
        (b"[" * 200_000, "nests too many"),
        (b'{"a":' * 200_000, "nests too many"),
        (b'{"a": "' + b'\\"' * 1_000_000, "not valid JSON"),
    ],
)
def test_bad_json(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_json(data)


@pytest.mark.parametrize("value", [b"1,", b"[],"])
def test_json_of_very_many_values_is_refused_before_it_is_read(value: bytes) -> None:
    with pytest.raises(TooLarge, match="binary"):
        parse_json(b"[" + value * (MAX_VALUES + 1))


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("value", [[0] * 100_000, {str(key): key for key in range(1000)}, "x" * 10_000, 10**4000])
def test_errors_repeat_no_large_value(value: Any) -> None:
    assert len(shown(value)) <= 120


def test_errors_repeat_no_deep_value() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) <= 120
    with pytest.raises(InvalidRequest, match=f"deeper than {MAX_DIMENSIONS} levels"):
        read_tensor("t", "FP32", (1,), deep)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FP32", (2,), [1, True], "not True"),
        ("FP32", (2,), [1, "2"], "not '2'"),
        ("FP32", (1,), [None], "not None"),
        ("FP32", (1,), [1e39], "a number that FP32 cannot"),
        ("FP32", (1,), [10**400], "a number that FP32 cannot"),
        ("UINT8", (1,), [256], "a number that UINT8 cannot"),
        ("UINT8", (1,), [-1], "a number that UINT8 cannot"),
        ("UINT8", (1,), [1.0], "whole numbers, not 1.0"),
        ("INT64", (1,), [2**63], "a number that INT64 cannot"),
        ("FP32", (3,), [1, 2], "holds 3 elements, but data has 2"),
        ("FP32", (2, 2), [[1, 2], [3]], "equal lengths"),
        ("FP32", (2, 2), [[1, 2], 3], "equal lengths"),
        ("FP32", (4, 1), [[1, 2], [3, 4]], r"shape \[2, 2\]"),
        ("FP32", (1,), 1, "must be a list"),
        ("BYTES", (1,), [1], "strings, not 1"),
        ("BYTES", (1,), ["\ud800"], "surrogate"),
    ],
)
def test_bad_json_data(datatype: Datatype, shape: tuple[int, ...], data: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_tensor("t", datatype, shape, data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has 0"),
        (b"\x01\0\0", "element 0 reaches beyond"),
        (b"\xff\xff\xff\xffab", "element 0 reaches beyond"),
        (b"\0\0\0\0\x05\0\0\0abc", "element 1 reaches beyond"),
        (b"\0\0\0\0" * 3, "more than 2"),
        (b"\0\0\0\0" * 1, "has 1"),
    ],
)
def test_bad_elements(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        decode_tensor("t", "BYTES", (2,), memoryview(data))


@pytest.mark.parametrize("shape", [None, [], [0], [-1], [True], [1.0], ["1"], [2**31], [1] * 9, {"0": 1}])
def test_bad_shapes(shape: Any) -> None:
    with pytest.raises(InvalidRequest, match="shape"):
        read_shape("t", shape)
